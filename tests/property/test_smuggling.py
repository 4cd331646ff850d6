"""What leaves the gateway for a service has one meaning, to another parser (llhttp) as well.

A client sends what it likes. Each request that the other parser finds at a service must be one that
the gateway judged, for a host of that service, and must not say by itself where it comes from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import Any

from aiohttp.base_protocol import BaseProtocol
from aiohttp.http_exceptions import BadHttpMethod
from aiohttp.http_parser import HttpRequestParser
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2prc.web import heads
from tests.unit.web_fake import Pipe, Web

APP, INNER = "app.example.org", "inner.example.org"
ADDRESS = b"192.0.2.7"
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: inner.example.org\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

_lines = st.sampled_from(
    [
        b"Host: app.example.org",
        b"Host: inner.example.org",
        b"Host : inner.example.org",
        b" Host: inner.example.org",
        b"host:app.example.org:80",
        b"Content-Length: 0",
        b"Content-Length: 5",
        b"Content-Length: 5, 5",
        b"Content-Length: 05",
        b"Content-Length: +5",
        b"Content-Length: 0x5",
        b"Content-Length:\x0b5",
        b"Content_Length: 5",
        b"Content-Length: %d" % len(SMUGGLED),
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: chunked, chunked",
        b"Transfer-Encoding:\x0bchunked",
        b"Transfer-Encoding : chunked",
        b"Transfer-Encoding:\r\n chunked",
        b"Transfer_Encoding: chunked",
        b"X-Forwarded-For: 6.6.6.6",
        b"X_Forwarded_For: 6.6.6.6",
        b"X: y\rTransfer-Encoding: chunked",
        b"X: y\nTransfer-Encoding: chunked",
        b"Connection: close",
        b"Connection: Upgrade, Host, Content-Length, Transfer-Encoding",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
    ]
)
_first = st.sampled_from(
    [
        b"GET / HTTP/1.1",
        b"POST / HTTP/1.1",
        b"POST / HTTP/1.0",
        b"GET http://inner.example.org/ HTTP/1.1",
        b"GET http://app.example.org/ HTTP/1.1",
        b"OPTIONS * HTTP/1.1",
        b"HEAD / HTTP/1.1",
        b"PRI * HTTP/2.0",
        b"GET /a b HTTP/1.1",
        b"POST  / HTTP/1.1",
    ]
)
_bodies = st.sampled_from(
    [
        b"",
        b"hello",
        SMUGGLED,
        b"0\r\n\r\n" + SMUGGLED,
        b"5\r\nhello\r\n0\r\n\r\n",
        b"5;x=\ny\r\nhello\r\n0\r\n\r\n",
        b"5 \r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b"5\nhello\n0\n\n",
        b"5\r\nhelloXX0\r\n\r\n",
        b"0\r\nHost: inner.example.org\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n",
        b"fffffffffffffffff\r\nhello\r\n",
        b"%x\r\n" % len(SMUGGLED) + SMUGGLED + b"\r\n0\r\n\r\n",
    ]
)


@st.composite
def _requests(draw: st.DrawFn) -> bytes:
    ends = st.sampled_from([b"\r\n"] * 9 + [b"\n"])
    head = [draw(_first), *draw(st.lists(_lines, max_size=4))]
    if draw(st.integers(0, 4)):
        head.insert(1, b"Host: app.example.org")
    return b"".join(line + draw(ends) for line in head) + draw(ends) + draw(_bodies)


class _Reader:
    """A service that reads what came with llhttp, and answers each request."""

    def __init__(self) -> None:
        self.found: list[Any] = []
        self._parser = HttpRequestParser(
            BaseProtocol(asyncio.get_running_loop()),
            asyncio.get_running_loop(),
            limit=1 << 16,
            max_line_size=1 << 16,
            max_field_size=1 << 16,
        )

    async def serve(self, link: Pipe) -> None:
        waiting: list[tuple[Any, bytes]] = []
        try:
            while content := await link.read():
                # Raises where the other parser cannot read what we sent.
                messages, has_upgraded, _ = self._parser.feed_data(content)
                self.found += [message for message, _ in messages]
                waiting += [(body, _answer_to(message.method)) for message, body in messages]
                while waiting and (waiting[0][0].is_eof() or has_upgraded):
                    await link.write(waiting.pop(0)[1])
        except BadHttpMethod:
            # It knows methods by heart: what is left of one that was cut is a method to others.
            return
        finally:
            await link.close()


def _answer_to(method: str) -> bytes:
    """Return an answer; one to HEAD has no body, whatever length it tells."""
    return OK.removesuffix(b"ok") if method == "HEAD" else OK


async def _sent(content: bytes, size: int) -> None:
    web = Web(APP, INNER)
    judged: list[tuple[str, bytes]] = []
    answer_here = web.http._answer_here

    def noted(one: heads.Judged) -> bytes | None:
        judged.append((one.host, one.request.target))
        return answer_here(one)

    web.http._answer_here = noted
    readers: list[tuple[str, _Reader]] = []
    services: list[Awaitable[None]] = []

    async def accept() -> None:
        while True:
            host, link = await web.opened.get()
            reader = _Reader()
            readers.append((host, reader))
            services.append(asyncio.create_task(reader.serve(link)))

    accepting = asyncio.create_task(accept())
    for at in range(0, len(content), size):
        await web.client.write(content[at : at + size])
    await web.client.end_writing()
    async with asyncio.timeout(60):
        await web.serve()
        for service in services:
            await service
    accepting.cancel()
    found = [(host, message) for host, reader in readers for message in reader.found]
    assert len(found) <= len(judged), (judged, found)
    for (host, message), (judged_host, target) in zip(found, judged, strict=False):
        names = message.headers.getall("Host")
        assert len(names) == 1
        assert host == judged_host == names[0].partition(":")[0].lower()
        assert message.path.encode() == target
        assert [
            value.encode()
            for name, value in message.headers.items()
            if name.lower().replace("_", "-") == "x-forwarded-for"
        ] == [ADDRESS]
        is_chunked, lengths = message.chunked, message.headers.getall("Content-Length", [])
        assert len(lengths) + is_chunked <= 1


@settings(max_examples=300, deadline=None)
@given(st.lists(_requests(), min_size=1, max_size=3), st.sampled_from([1, 7, 64, 1 << 16]))
@example([b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 5\r\n\r\nhello" * 3], 7)
@example(
    [
        b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 4\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + SMUGGLED
    ],
    64,
)
def test_what_a_service_reads_is_what_was_judged(requests: list[bytes], size: int) -> None:
    asyncio.run(_sent(b"".join(requests), size))
