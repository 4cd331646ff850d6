"""HTTP with a router that may be anything: whole answers are read, others are given up soon."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2prc.errors import WireError
from p2prc.reachability.small_http import (
    ANSWER_LIMIT_BYTES,
    REQUEST_TIMEOUT_S,
    Answer,
    Request,
    ask,
)

HEAD = b"HTTP/1.1 200 OK\r\nServer: x\r\n"


@asynccontextmanager
async def router(answer: bytes, *, drips: bool = False) -> AsyncIterator[Request]:
    """Something that listens, and sends what it sends."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            writer.write(answer)
            while drips:
                writer.write(b"a")
                await writer.drain()
                await asyncio.sleep(0.05)
        except OSError:
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield Request("127.0.0.1", port, "/x", own="127.0.0.1")


@pytest.mark.parametrize(
    "answer",
    [
        HEAD + b"Content-Length: 5\r\n\r\nhello and more",
        HEAD + b"\r\nhello",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3;x=y\r\nllo\r\n0\r\n\r\n",
    ],
)
async def test_whole_answers_are_read_however_they_end(answer: bytes) -> None:
    async with router(answer) as request:
        assert await ask(request) == Answer(200, b"hello")


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"hello\r\n\r\n",
        b"HTTP/1.1 \xb2\xb2\xb2 OK\r\n\r\n",
        HEAD + b"Content-Length: 5\r\n\r\nhe",
        HEAD + b"Content-Length: -5\r\n\r\nhello",
        HEAD + b"Content-Length: 99999999999\r\n\r\n",
        HEAD + b"x" * 20_000,
        HEAD + b"\r\n" + b"x" * (ANSWER_LIMIT_BYTES + 1),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"4000\r\n" + b"x" * 0x4000 + b"\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + (b"4000\r\n" + b"x" * 0x4000 + b"\r\n") * 9,
    ],
)
async def test_other_answers_are_refused(answer: bytes) -> None:
    async with router(answer) as request:
        with pytest.raises(WireError):
            await ask(request)


async def test_one_that_never_ends_is_left_in_time() -> None:
    async with router(HEAD + b"\r\n", drips=True) as request:
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            await ask(request)
        assert time.monotonic() - began < REQUEST_TIMEOUT_S + 1
