"""A request to a running node whose body goes on while its answer is read.

The body leaves in chunks of HTTP/1.1, and the answer comes in such; `api.duplex` is the other end.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

from p2prc.api.connection import Slow, connect, read_refusal, say_if_slow
from p2prc.errors import NodeNotRunning

_LINE_LIMIT_BYTES = 64 * 1024


class DuplexCall:
    """Bytes both ways; close it to hang up. Sending is safe from several threads."""

    def __init__(self, home: str, path: str, *, method: str = "POST") -> None:
        self._socket = connect(home)
        self._socket.settimeout(None)
        self._sending = threading.RLock()
        head = (
            f"{method} {path} HTTP/1.1\r\nhost: p2prc\r\n"
            "transfer-encoding: chunked\r\nconnection: close\r\n\r\n"
        )
        self._socket.sendall(head.encode("ascii"))
        self._answer: IO[bytes] = self._socket.makefile("rb")

    def send(self, content: bytes) -> None:
        """Send some of the body; waits until there is room. Raises ConnectionError."""
        if content:
            with self._sending:
                self._socket.sendall(b"%x\r\n%b\r\n" % (len(content), content))

    def end(self) -> None:
        """Say that nothing more comes."""
        with self._sending:
            self._socket.sendall(b"0\r\n\r\n")

    def answer(self, slow: Slow | None = None) -> Iterator[bytes]:
        """Yield the answer as it comes; raise what the node refuses with."""
        say_if_slow(self._socket, slow)
        try:
            is_chunked = read_refusal(self._answer)
            if not is_chunked:
                while content := self._answer.read1(1 << 16):  # type: ignore[attr-defined]
                    yield content
                return
            while size := int(self._answer.readline(_LINE_LIMIT_BYTES), 16):
                yield self._exactly(size)
                self._answer.readline(_LINE_LIMIT_BYTES)
        except (ConnectionError, ValueError) as error:
            raise NodeNotRunning("the answer was cut short: see `p2prc logs`") from error

    def close(self) -> None:
        """Hang up."""
        # The node may have hung up already.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        # Its reader, in whatever thread, has been woken.
        with suppress(OSError, ValueError):
            self._answer.close()

    def _exactly(self, size: int) -> bytes:
        content = self._answer.read(size)
        if len(content) < size:
            raise ConnectionResetError("the answer was cut short")
        return content
