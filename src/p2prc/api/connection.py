"""One request to a running node, over the socket in its home.

A command must end in a blink, so this reads HTTP by itself: `http.client` alone costs a fifth of
the time that `run` may take. It asks in HTTP/1.0, where an answer ends with its connection and
nothing is chunked. `run` uses this directly; everything else goes through `client`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from select import select
from typing import IO, Any

from p2prc.api.address import short_address, socket_path
from p2prc.errors import HomeUnusable, NodeNotRunning, P2prcError, from_fields

CONNECT_TIMEOUT_S = 5.0
STREAM_SILENCE_TIMEOUT_S = 60.0
"""A healthy node sends something, if only an empty line, four times as often."""
SILENCE_S = 1.2
"""After so long without an answer a person wants to know what is waited for."""
_HEADERS_LIMIT_BYTES = 64 * 1024
Slow = Callable[[], None]
"""Called once, when the answer takes longer than `SILENCE_S`."""
JsonObject = dict[str, Any]


def call(
    home: str,
    method: str,
    path: str,
    content: bytes = b"",
    *,
    timeout_s: float,
    slow: Slow | None = None,
) -> bytes:
    """Ask and return the answer's body; raise the error that the node answered."""
    with _asked(home, method, path, content, timeout_s=timeout_s, slow=slow) as answer:
        return _read(answer, _read_head(answer))


_LAST = ("ended", "all-ended")


def events(
    home: str,
    method: str,
    path: str,
    request: Mapping[str, object] | None = None,
    *,
    slow: Slow | None = None,
) -> Generator[JsonObject, None, None]:
    """Ask and yield each event until the last one. Closing the iterator hangs up."""
    content = b"" if request is None else json.dumps(request).encode()
    with _asked(
        home, method, path, content, timeout_s=STREAM_SILENCE_TIMEOUT_S, slow=slow
    ) as answer:
        _read_head(answer)
        for line in answer:
            if line == b"\n":
                continue
            event: JsonObject = json.loads(line)
            if event["type"] == "error":
                raise _error_of(event)
            yield event
            if event["type"] in _LAST:
                return
        raise _CutOff


@contextmanager
def _asked(
    home: str, method: str, path: str, content: bytes, *, timeout_s: float, slow: Slow | None
) -> Iterator[IO[bytes]]:
    connection = connect(home)
    try:
        connection.settimeout(timeout_s)
        head = f"{method} {path} HTTP/1.0\r\nhost: p2prc\r\ncontent-length: {len(content)}\r\n"
        connection.sendall(head.encode("ascii") + b"\r\n" + content)
        say_if_slow(connection, slow)
        with connection.makefile("rb") as answer:
            yield answer
    except TimeoutError as error:
        raise NodeNotRunning(
            f"the node has not answered for {timeout_s:.0f} s",
            hint="see what it does: the file `log` in its home",
        ) from error
    except (ConnectionError, _CutOff) as error:
        raise NodeNotRunning("the node stopped before it answered") from error
    finally:
        connection.close()


def connect(home: str) -> socket.socket:
    """Return a connection to the node of a home. Raises NodeNotRunning, HomeUnusable."""
    path = socket_path(home)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(CONNECT_TIMEOUT_S)
    try:
        with short_address(path) as address:
            connection.connect(address)
    except (FileNotFoundError, NotADirectoryError, ConnectionRefusedError) as error:
        connection.close()
        raise NodeNotRunning(f"no node is running in {home}") from error
    except OSError as error:
        connection.close()
        raise HomeUnusable(f"cannot open {path}: {error.strerror or error}") from error
    return connection


def say_if_slow(connection: socket.socket, slow: Slow | None) -> None:
    """Wait for an answer for `SILENCE_S`, then say that it takes longer."""
    if slow is not None and not select([connection], [], [], SILENCE_S)[0]:
        slow()


class _CutOff(Exception):
    """The answer ended in its middle."""


def read_refusal(answer: IO[bytes]) -> bool:
    """Read the head of an answer that goes on; say whether it comes in chunks.

    Raises what the node refused, ConnectionResetError when there is no answer.
    """
    try:
        return _read_head(answer) == _CHUNKED
    except _CutOff as error:
        raise ConnectionResetError("the node hung up") from error


_CHUNKED = -1


def _read_head(answer: IO[bytes]) -> int | None:
    """Read the head; return the length of the body if it is told. Raise what the node refused."""
    words = answer.readline(_HEADERS_LIMIT_BYTES).split(None, 2)
    if len(words) < 2:
        raise _CutOff
    length: int | None = None
    for _ in range(100):
        name, _, text = answer.readline(_HEADERS_LIMIT_BYTES).strip().partition(b":")
        if not name:
            break
        if name.lower() == b"content-length":
            length = int(text)
        elif name.lower() == b"transfer-encoding":
            length = _CHUNKED
    if words[1][:1] == b"2":
        return length
    raise _error_of(_decoded_error(_read(answer, length)))


def _read(answer: IO[bytes], length: int | None) -> bytes:
    if length == _CHUNKED:
        # Only a refusal is read as a whole, and it is one chunk.
        length = int(answer.readline(_HEADERS_LIMIT_BYTES), 16)
    content = answer.read() if length is None else answer.read(length)
    if length is not None and len(content) < length:
        raise _CutOff
    return content


def _decoded_error(content: bytes) -> JsonObject:
    try:
        body: JsonObject = json.loads(content)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _error_of(body: Mapping[str, Any]) -> P2prcError:
    fields = body.get("error") or {}
    return from_fields(
        fields.get("code", "internal"),
        fields.get("message", "the node failed: its log says how"),
        hint=fields.get("hint", "see `p2prc logs`"),
    )


def quoted(text: str) -> str:
    """Percent-encode; `urllib.parse` would cost more time than the request."""
    return "".join(
        chr(byte) if chr(byte).isalnum() and byte < 128 else f"%{byte:02X}"
        for byte in text.encode("utf-8", "surrogateescape")
    )
