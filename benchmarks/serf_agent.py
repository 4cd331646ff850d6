"""Serf agents, as a rival in keeping a picture of who is there: started, joined, asked over RPC.

Their RPC is a stream of msgpack values over TCP; the few kinds that an agent sends are read here.
"""

from __future__ import annotations

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import msgspec

TOLD = "`serf` is not there: `apt-get install serf` installs it"
_TIMEOUT_S = 20.0


def has_serf() -> bool:
    return shutil.which("serf") is not None


class SerfAgent:
    """One agent process on this machine, with its default timing."""

    def __init__(self, number: int, port: int, folder: Path) -> None:
        self.address = f"127.0.0.1:{port}"
        self._rpc = ("127.0.0.1", port + 1)
        self._log = (folder / f"serf-{number}.log").open("wb")
        self._process = subprocess.Popen(
            ["serf", "agent", f"-node=n{number}", f"-bind={self.address}",
             f"-rpc-addr={self._rpc[0]}:{self._rpc[1]}"],
            stdout=self._log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        self._socket: socket.socket | None = None
        self._stream: Any = None
        self._number = 0

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_up(self) -> bool:
        """Whether it answers; opens the conversation on first success."""
        try:
            connection = socket.create_connection(self._rpc, timeout=_TIMEOUT_S)
        except OSError:
            return False
        self._socket, self._stream = connection, connection.makefile("rb")
        self._ask("handshake", {"Version": 1}, has_body=False)
        return True

    def join(self, address: str) -> None:
        self._ask("join", {"Existing": [address], "Replay": False}, has_body=True)

    def counts(self) -> tuple[int, int]:
        """Return how many members it holds for alive, and for failed."""
        found = self._ask("stats", None, has_body=True)["serf"]
        failed = int(found["failed"])
        return int(found["members"]) - failed - int(found["left"]), failed

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def close(self) -> None:
        self.kill()
        self._log.close()
        if self._socket is not None:
            self._stream.close()
            self._socket.close()

    def _ask(self, command: str, body: object, *, has_body: bool) -> Any:
        assert self._socket is not None
        self._number += 1
        request = msgspec.msgpack.encode({"Command": command, "Seq": self._number})
        if body is not None:
            request += msgspec.msgpack.encode(body)
        self._socket.sendall(request)
        header = self._value()
        if header["Error"]:
            raise RuntimeError(f"serf {command}: {header['Error']}")
        return self._value() if has_body else None

    def _value(self) -> Any:
        """Read one msgpack value: maps, lists, texts, integers, booleans and nothing."""
        kind = self._exactly(1)[0]
        if kind <= 0x7F:
            return kind
        if kind <= 0x8F:
            return {self._value(): self._value() for _ in range(kind & 0x0F)}
        if kind <= 0x9F:
            return [self._value() for _ in range(kind & 0x0F)]
        if kind <= 0xBF:
            return self._exactly(kind & 0x1F).decode()
        if kind in (0xC0, 0xC2, 0xC3):
            return {0xC0: None, 0xC2: False, 0xC3: True}[kind]
        sizes = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
        if kind in sizes:
            return int.from_bytes(self._exactly(sizes[kind]), "big")
        lengths = {0xC4: 1, 0xC5: 2, 0xD9: 1, 0xDA: 2, 0xDC: 2, 0xDE: 2}
        if kind not in lengths:
            raise RuntimeError(f"serf sent msgpack of kind {kind:#x}")
        count = int.from_bytes(self._exactly(lengths[kind]), "big")
        if kind == 0xDC:
            return [self._value() for _ in range(count)]
        if kind == 0xDE:
            return {self._value(): self._value() for _ in range(count)}
        return self._exactly(count).decode()

    def _exactly(self, size_bytes: int) -> bytes:
        found: bytes = self._stream.read(size_bytes)
        if len(found) != size_bytes:
            raise RuntimeError("serf ended the conversation")
        return found
