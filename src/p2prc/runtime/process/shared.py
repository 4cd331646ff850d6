"""The usual place: one sandbox with an agent that runs command after command."""

from __future__ import annotations

import contextlib
import os
import socket
import time

from p2prc.runtime.process import bubblewrap, watch
from p2prc.runtime.process.bubble import START_LIMIT_MS, Bubble, memory_file, read_within
from p2prc.runtime.process.caps import Caps
from p2prc.runtime.process.messages import PACKET_LIMIT_BYTES, Execute
from p2prc.runtime.process.places import Finished, PlaceBroken, Streams, reaped


class SharedPlace:
    """One sandbox with an agent that runs command after command."""

    def __init__(self, bwrap: str, walls: bubblewrap.Walls, caps: Caps, interpreter: str) -> None:
        self._bwrap = bwrap
        self._options = bubblewrap.options(walls, is_agent=True)
        # The agent is a process too, but not one of the tenant's.
        self._caps = caps._replace(processes=caps.processes + 1)
        self._command = [interpreter, "-I", "-S", bubblewrap.AGENT, str(bubblewrap.AGENT_FD)]
        self._sandbox: Bubble | None = None
        self._channel: socket.socket | None = None
        self._is_running = False
        self._is_dead = False
        self._before_s = 0.0

    @property
    def channel(self) -> int:
        return self._channel.fileno() if self._channel is not None else -1

    def open(self) -> None:
        if self._is_dead:
            self._wait_for_end()
        if self._sandbox is not None:
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        complaints, errors = os.pipe2(os.O_CLOEXEC)
        fds = {2: errors, bubblewrap.AGENT_FD: theirs.fileno()}
        try:
            self._sandbox = Bubble(self._bwrap, self._options, self._command, fds)
        finally:
            theirs.close()
            os.close(errors)
        self._channel, self._is_running, self._is_dead = ours, False, False
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

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        self.open()
        assert self._channel is not None
        self._before_s = watch.cpu_s([self.init()])
        if request.cores:
            watch.use_cores([self.init()], request.cores)
        mark = "t" if streams.is_terminal else ""
        words = [f"{len(request.argv)}{mark}", *request.argv]
        words += [f"{name}={value}" for name, value in variables.items()]
        packet = "\0".join(words).encode("utf-8", "surrogateescape")
        self._is_running = True
        fds = [streams.out, streams.err, *([streams.source] if streams.source >= 0 else [])]
        # An agent that is gone is noticed by `poll`.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if len(packet) <= PACKET_LIMIT_BYTES:
                socket.send_fds(self._channel, [packet], fds)
                return
            memory = memory_file(packet)
            try:
                socket.send_fds(self._channel, [b"@"], [memory, *fds])
            finally:
                os.close(memory)

    def poll(self) -> Finished | None:
        if self._sandbox is None:
            return None
        answer = self._answer()
        if answer is not None and self._is_running:
            self._is_running = False
            return answer
        return self._end_of_sandbox()

    def kill(self) -> None:
        if self._sandbox is not None:
            self._is_dead = True
            self._sandbox.kill()

    def _wait_for_end(self) -> None:
        deadline = time.monotonic() + START_LIMIT_MS / 1000
        while self._sandbox is not None and time.monotonic() < deadline:
            self._end_of_sandbox()
            time.sleep(0.001)
        if self._sandbox is not None:
            raise PlaceBroken("the sandbox before this one does not go away")

    def processes(self) -> list[int]:
        init = self.init()
        return [init, *watch.descendants(init)] if init else []

    def cpu_s(self) -> float:
        return max(0.0, watch.cpu_s(self.processes()) - self._before_s)

    def init(self) -> int:
        return self._sandbox.init if self._sandbox is not None else 0

    def _answer(self) -> Finished | None:
        """Read what the agent says; anything unexpected from it ends the sandbox."""
        if self._is_dead or self._channel is None:
            return None
        try:
            said = self._channel.recv(256)
            wait_status, number, micros, peak_kib, is_leaving = map(int, said.split())
            status = os.waitstatus_to_exitcode(wait_status & 0xFFFF)
        except BlockingIOError:
            return None
        except (ValueError, ConnectionResetError):
            self.kill()
            return None
        status = 128 - status if status < 0 else status
        # What the agent says can be a tenant's lie; the kernel counts in hundredths of a second.
        counted_s = watch.cpu_s([self.init()]) - self._before_s - 0.02
        used_s, peak = max(counted_s, micros / 1e6), max(0, peak_kib) * 1024
        if is_leaving:
            self.kill()
        return Finished(None if number else status, max(0, number), used_s, peak)

    def _end_of_sandbox(self) -> Finished | None:
        if self._sandbox is None or self._channel is None:
            return None
        for pid, _, usage in reaped():
            if pid == self._sandbox.monitor:
                self._sandbox.close()
                self._channel.close()
                self._sandbox, self._channel, self._is_dead = None, None, False
                was_running, self._is_running = self._is_running, False
                used_s = max(0.0, usage.ru_utime + usage.ru_stime - self._before_s)
                return Finished(None, 0, used_s, usage.ru_maxrss * 1024) if was_running else None
        return None


def _is_greeting(channel: socket.socket) -> bool:
    try:
        return channel.recv(16) == b"ready"
    except OSError:
        return False


def _last_line(complaints: int) -> str:
    """Return the last line that bubblewrap printed."""
    deadline = time.monotonic() + 1
    said = b""
    while time.monotonic() < deadline and not said:
        said = read_within(complaints, 1000)
    lines = said.decode(errors="replace").strip().splitlines()
    return lines[-1][:500] if lines else "the sandbox did not start"
