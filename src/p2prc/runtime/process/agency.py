"""A sandbox with our agent inside: orders go in, reports come out, and its end is seen."""

from __future__ import annotations

import contextlib
import os
import resource
import socket
import time
from collections.abc import Callable, Iterable

from p2prc.runtime.process import bubblewrap, watch
from p2prc.runtime.process.bubble import START_LIMIT_MS, Bubble, Spawn, memory_file, read_within
from p2prc.runtime.process.caps import Caps
from p2prc.runtime.process.messages import PACKET_LIMIT_BYTES, Execute
from p2prc.runtime.process.places import PlaceBroken, Streams, reaped

Enclose = Callable[[list[str], dict[int, int]], Spawn]
"""From a command and its descriptors (inside to outside) to what starts it in a sandbox."""


class Agency:
    """A sandbox and the line to the agent in it. What the agent says may be a tenant's lie."""

    def __init__(
        self, enclose: Enclose, caps: Caps, interpreter: str, *, has_sessions: bool = False
    ) -> None:
        self._enclose = enclose
        # The agent is a process too, but not one of the tenant's.
        self._caps = caps._replace(processes=caps.processes + 1)
        self._command = [interpreter, "-I", "-S", bubblewrap.AGENT, str(bubblewrap.AGENT_FD)]
        if has_sessions:
            self._command.append("sessions")
        self._sandbox: Bubble | None = None
        self._channel: socket.socket | None = None
        self.is_dead = False

    @property
    def channel(self) -> int:
        """A descriptor to watch for reports, or -1."""
        return self._channel.fileno() if self._channel is not None else -1

    @property
    def init(self) -> int:
        """The pid of the agent, 0 without one."""
        return self._sandbox.init if self._sandbox is not None else 0

    def open(self) -> None:
        """Have a sandbox whose agent listens. Raises PlaceBroken."""
        if self.is_dead:
            self._wait_for_end()
        if self._sandbox is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        complaints, errors = os.pipe2(os.O_CLOEXEC)
        fds = {2: errors, bubblewrap.AGENT_FD: theirs.fileno()}
        try:
            self._sandbox = Bubble(self._enclose(self._command, fds))
        finally:
            theirs.close()
            os.close(errors)
        self._channel, self.is_dead = ours, False
        self._sandbox.confine(self._caps, [])
        self._sandbox.let_go()
        ours.settimeout(START_LIMIT_MS / 1000)
        with os.fdopen(complaints, "rb", buffering=0) as said:
            if not _is_greeting(ours):
                self.kill()
                raise PlaceBroken(_last_line(said.fileno()))
        ours.setblocking(False)
        # Only now: making a sandbox is the node's work, and somebody waits for it.
        self._sandbox.be_last_in_line()

    def order(self, words: Iterable[str], fds: Iterable[int] = ()) -> None:
        """Tell the agent; one that is gone is noticed when its sandbox has ended."""
        if self._channel is None:
            return
        packet = "\0".join(words).encode("utf-8", "surrogateescape")
        with contextlib.suppress(OSError):
            if len(packet) <= PACKET_LIMIT_BYTES:
                socket.send_fds(self._channel, [packet], list(fds))
                return
            memory = memory_file(packet)
            try:
                socket.send_fds(self._channel, [b"@"], [memory, *fds])
            finally:
                os.close(memory)

    def report(self) -> list[int] | None:
        """Return what the agent says next; anything unexpected from it ends the sandbox."""
        if self.is_dead or self._channel is None:
            return None
        try:
            said = [int(word) for word in self._channel.recv(256).split()]
            if len(said) == 5:
                return said
        except BlockingIOError:
            return None
        except (ValueError, OSError):
            pass
        self.kill()
        return None

    def kill(self) -> None:
        """Kill all of the sandbox; `ended` tells when it is gone."""
        if self._sandbox is not None:
            self.is_dead = True
            self._sandbox.kill()

    def ended(self) -> resource.struct_rusage | None:
        """Return what the sandbox used, once it is gone."""
        if self._sandbox is None or self._channel is None:
            return None
        for pid, _, usage in reaped():
            if pid == self._sandbox.monitor:
                self._sandbox.close()
                self._channel.close()
                self._sandbox, self._channel, self.is_dead = None, None, False
                return usage
        return None

    def processes(self) -> list[int]:
        """Return the pids of all inside, the agent first."""
        return [self.init, *watch.descendants(self.init)] if self.init else []

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + START_LIMIT_MS / 1000
        while self._sandbox is not None and time.monotonic() < deadline:
            self.ended()
            time.sleep(0.001)
        if self._sandbox is not None:
            raise PlaceBroken("the sandbox before this one does not go away")


def command_words(request: Execute, streams: Streams, variables: dict[str, str]) -> list[str]:
    """Return what an agent is told of a command."""
    mark = "t" if streams.is_terminal else ""
    words = [f"{len(request.argv)}{mark}", *request.argv]
    return words + [f"{name}={value}" for name, value in variables.items()]


def command_fds(streams: Streams) -> list[int]:
    """Return the descriptors that an agent gets for a command."""
    return [streams.out, streams.err, *([streams.source] if streams.source >= 0 else [])]


def exit_status(wait_status: int) -> int:
    """Return 0 to 255 for what `wait` said: 128 + n after signal n."""
    signal = wait_status & 0x7F
    return 128 + signal if signal else wait_status >> 8 & 0xFF


def _is_greeting(channel: socket.socket) -> bool:
    try:
        return channel.recv(16) == b"ready"
    except OSError:
        return False


def _last_line(complaints: int) -> str:
    """Return the last line that was printed."""
    deadline = time.monotonic() + 1
    said = b""
    while time.monotonic() < deadline and not said:
        said = read_within(complaints, 1000)
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "the sandbox did not start"
