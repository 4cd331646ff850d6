"""The daemon's end of the nursery: where the supervisors of new leases come from."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
from pathlib import Path

from p2prc.errors import RuntimeMissing
from p2prc.runtime.process.assets import Interpreter

_GOODBYE_S = 5.0


class Nursery:
    """A process that forks one supervisor for each socket it is given; started when needed.

    It is told of our end by its socket alone, so our death, too, tells it.
    """

    def __init__(self, interpreter: Interpreter) -> None:
        self._interpreter = interpreter
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None

    def new_supervisor(self) -> socket.socket:
        """Return our end of a new supervisor's socket; raises RuntimeMissing."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self._hand_over(theirs)
            except OSError:
                # It was killed; the leases it had go on without it.
                self._forget()
                try:
                    self._hand_over(theirs)
                except OSError as error:
                    ours.close()
                    raise RuntimeMissing(f"no supervisor starts: {error.strerror}") from error
        ours.setblocking(False)
        return ours

    async def close(self) -> None:
        """Let it go when the last supervisor has; kill it when that takes too long."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            process, self._process = self._process, None
            with contextlib.suppress(subprocess.TimeoutExpired):
                await asyncio.to_thread(process.wait, _GOODBYE_S)
                return
            process.send_signal(signal.SIGKILL)
            await asyncio.to_thread(process.wait, _GOODBYE_S)

    def let_go(self) -> None:
        """Leave it to the leases that outlive us: it ends with the last."""
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            # Nobody waits for it any more, and that is meant.
            self._process.returncode = 0
            self._process = None

    def _hand_over(self, end: socket.socket) -> None:
        if self._control is None:
            self._control = self._start()
        socket.send_fds(self._control, [b"+"], [end.fileno()])

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        program = str(Path(__file__).with_name("supervisor.py"))
        descriptor = theirs.fileno()
        with theirs:
            self._process = subprocess.Popen(
                [self._interpreter.executable, "-I", "-S", program, str(descriptor)],
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={},
                start_new_session=True,
            )
        return ours

    def _forget(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
