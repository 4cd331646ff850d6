"""How a lease outlives its node: it waits in a folder of the node's home for the next life of it.

There lie two files for each such lease: what it is (JSON), and the socket at which it is called.
Nobody but the node's own user may enter the folder.
"""

# ruff: noqa: PTH103
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import json
import os
import socket
import struct

from p2prc.runtime.process.messages import Start
from p2prc.runtime.process.powers import own_power

RECORD = ".json"
SOCKET = ".socket"
_CREDENTIALS = "3i"


class Keeping:
    """One lease's place in the registry, or none: then it ends with its node."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self._folder = -1
        self._listener: socket.socket | None = None
        self._owner = os.getuid()
        self.gives_up_at = float("inf")

    @property
    def descriptor(self) -> int:
        """What to watch for a node that calls, or -1."""
        return -1 if self._listener is None else self._listener.fileno()

    def open(self) -> None:
        """Enter the registry, while we are still who the folder belongs to. Raises OSError."""
        start = self._start
        if not start.registry:
            return
        os.makedirs(start.registry, mode=0o700, exist_ok=True)
        self._folder = os.open(start.registry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        record = json.dumps({"folder": start.folder, "uid": start.uid}).encode()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        file = os.open(start.name + RECORD, flags, 0o600, dir_fd=self._folder)
        os.write(file, record)
        os.close(file)
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # By descriptor: the home's path may be longer than a socket's may be.
        self._listener.bind(f"/proc/self/fd/{self._folder}/{start.name}{SOCKET}")
        self._listener.listen(4)
        self._listener.setblocking(False)

    def begin(self, now: float) -> bool:
        """Wait for the node's next life from now on; False when that is not wanted."""
        if self._listener is None:
            return False
        self.gives_up_at = now + self._start.keeps_s
        return True

    def stop(self) -> None:
        """Wait no longer: a node is there."""
        self.gives_up_at = float("inf")

    def accept(self) -> socket.socket | None:
        """Return the line to a node that calls; None for anybody else."""
        assert self._listener is not None
        try:
            taken, _ = self._listener.accept()
        except OSError:
            return None
        packed = taken.getsockopt(
            socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize(_CREDENTIALS)
        )
        _, uid, _ = struct.unpack(_CREDENTIALS, packed)
        if uid != self._owner:
            taken.close()
            return None
        taken.settimeout(1)
        return taken

    def forget(self) -> None:
        """Leave the registry; twice is safe."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._folder >= 0:
            with own_power(self._start.uid):
                for ending in (SOCKET, RECORD):
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(self._start.name + ending, dir_fd=self._folder)
            os.close(self._folder)
            self._folder = -1
