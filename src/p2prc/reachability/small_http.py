"""One HTTP request to a router: bounded in time and bytes, and bound to our own address."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from p2prc.errors import WireError

ANSWER_LIMIT_BYTES = 128 * 1024
HEAD_LIMIT_BYTES = 16 * 1024
REQUEST_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of whom. `own` is the address we ask from."""

    host: str
    port: int
    path: str
    own: str
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A status and a body, whatever the status says."""

    status: int
    body: bytes


async def ask(request: Request) -> Answer:
    """Send it and read the answer. Raises OSError (a time-out too), WireError."""
    async with asyncio.timeout(REQUEST_TIMEOUT_S):
        reader, writer = await asyncio.open_connection(
            request.host, request.port, local_addr=(request.own, 0), limit=HEAD_LIMIT_BYTES
        )
        try:
            writer.write(_written(request))
            return await _read(reader)
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ValueError) as error:
            raise WireError("an HTTP answer cut off, or too long") from error
        finally:
            writer.transport.abort()


def _written(request: Request) -> bytes:
    method = "GET" if request.body is None else "POST"
    body = request.body or b""
    lines = [
        f"{method} {request.path} HTTP/1.1",
        f"Host: {request.host}:{request.port}",
        "User-Agent: p2prc UPnP/1.1",
        "Connection: close",
        *(f"{name}: {text}" for name, text in request.headers.items()),
    ]
    if request.body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("ascii", "replace") + body


async def _read(reader: asyncio.StreamReader) -> Answer:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    status_line, _, fields = head.partition("\r\n")
    words = status_line.split()
    if len(words) < 2 or not words[0].startswith("HTTP/1.") or not words[1].isascii():
        raise WireError("not an HTTP answer")
    if not (words[1].isdigit() and len(words[1]) == 3):
        raise WireError("not an HTTP answer")
    headers = {}
    for line in fields.split("\r\n"):
        name, _, text = line.partition(":")
        headers[name.strip().lower()] = text.strip()
    return Answer(int(words[1]), await _body(reader, headers))


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return await _chunks(reader)
    length = headers.get("content-length", "")
    if length:
        return await reader.readexactly(_size(length, base=10))
    body = b""
    while piece := await reader.read(ANSWER_LIMIT_BYTES):
        body += piece
        _size(str(len(body)), base=10)
    return body


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    body = b""
    while True:
        line = (await reader.readuntil(b"\r\n")).decode("latin-1")
        size = _size(line.partition(";")[0].strip(), base=16)
        if size == 0:
            return body
        body += await reader.readexactly(size)
        await reader.readuntil(b"\r\n")
        _size(str(len(body)), base=10)


def _size(text: str, *, base: int) -> int:
    """Return a number of bytes that we are ready to read; raise WireError."""
    digits = "0123456789abcdefABCDEF" if base == 16 else "0123456789"
    if not 0 < len(text) <= 10 or any(each not in digits for each in text):
        raise WireError("an HTTP answer of a strange length")
    size = int(text, base)
    if size > ANSWER_LIMIT_BYTES:
        raise WireError("an HTTP answer that is too long")
    return size
