"""Who says that it lives at an address: `http://HOST:PORT/.well-known/p2prc`.

Whoever listens there may be anything: the answer is read to a small bound, in a short time, and
believed only as to which key to expect; the connection that follows proves it.
"""

from __future__ import annotations

import asyncio
import re

import msgspec

from p2prc.errors import NotP2prc
from p2prc.model.identity import NodeId, NodeIdField, ShortText

WELL_KNOWN_PATH = "/.well-known/p2prc"
_READ_TIMEOUT_S = 2.0
_ANSWER_LIMIT_BYTES = 8 * 1024
_LENGTH = re.compile(rb"(?i)\r\ncontent-length: *(\d{1,5})\r\n")
_STATUS = re.compile(rb"HTTP/1\.[01] 200[ \r]")


class _WellKnown(msgspec.Struct, frozen=True):
    id: NodeIdField
    relay: ShortText = ""
    version: int = 1


_decoder = msgspec.json.Decoder(_WellKnown)


async def read_doorplate(address: str) -> NodeId:
    """Return who says that it is at `host:port`. Raises OSError when nobody answers, NotP2prc."""
    host, _, port = address.rpartition(":")
    request = f"GET {WELL_KNOWN_PATH} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n"
    reader, writer = await asyncio.open_connection(
        host.strip("[]"), int(port), limit=_ANSWER_LIMIT_BYTES
    )
    try:
        writer.write(request.encode("ascii"))
        await writer.drain()
        return _read(await _read_bounded(reader), address)
    except OSError as error:
        # A time-out too.
        raise _something_else(address) from error
    finally:
        writer.close()


async def _read_bounded(reader: asyncio.StreamReader) -> bytes:
    """Read to the end of the answer as its head tells it, else to the end of the stream."""
    content = b""
    while len(content) <= _ANSWER_LIMIT_BYTES:
        head, blank, body = content.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if blank and length is not None and len(body) >= int(length[1]):
            return content
        async with asyncio.timeout(_READ_TIMEOUT_S):
            piece = await reader.read(_ANSWER_LIMIT_BYTES)
        if not piece:
            break
        content += piece
    return content


def _read(answer: bytes, address: str) -> NodeId:
    head, _, body = answer.partition(b"\r\n\r\n")
    if len(answer) > _ANSWER_LIMIT_BYTES or _STATUS.match(head) is None:
        raise _something_else(address)
    try:
        return NodeId(_decoder.decode(body).id)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _something_else(address) from error


def _something_else(address: str) -> NotP2prc:
    return NotP2prc(f"something else than p2prc answers at {address}")
