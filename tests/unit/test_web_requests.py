"""Requests to domains: each is judged, goes to who has its host, and says where it came from."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from p2prc.web import exchange
from p2prc.web.heads import Origin
from tests.unit.web_fake import Web

GET = b"GET /x?y=1 HTTP/1.1\r\nHost: app.example.org\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@asynccontextmanager
async def _web(*hosts: str, origin: Origin | None = None) -> AsyncIterator[Web]:
    web = Web(*hosts, origin=origin)
    serving = asyncio.create_task(web.serve())
    try:
        async with asyncio.timeout(30):
            yield web
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def _refused(content: bytes, *hosts: str, origin: Origin | None = None) -> bytes:
    async with _web(*(hosts or ("app.example.org",)), origin=origin) as web:
        await web.client.write(content)
        await web.client.end_writing()
        said = await web.client.all()
        assert web.opened.empty()
        return said


async def test_requests_of_one_connection_go_where_each_says() -> None:
    async with _web("app.example.org", "other.example.org") as web:
        await web.client.write(GET)
        host, service = await web.opened.get()
        assert host == "app.example.org"
        head = await service.until(b"\r\n\r\n")
        assert head.startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: app.example.org\r\n")
        assert b"X-Forwarded-For: 192.0.2.7\r\n" in head
        assert b"X-Forwarded-Proto: http\r\n" in head
        await service.write(OK)
        assert await web.client.until(b"ok") == OK

        # The same host: the same connection to its service.
        await web.client.write(GET)
        await service.until(b"\r\n\r\n")
        await service.write(OK)
        await web.client.until(b"ok")
        assert web.opened.empty()

        # Another one: another connection, and the first is let go of.
        await web.client.write(GET.replace(b"app", b"OTHER"))
        host, second = await web.opened.get()
        assert host == "other.example.org"
        assert await service.all() == b""
        await second.until(b"\r\n\r\n")
        await second.write(OK)
        await web.client.until(b"ok")
        await web.client.end_writing()
        assert await web.client.all() == b""


async def test_nothing_from_outside_about_an_origin_is_believed() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(
            b"GET / HTTP/1.1\r\nHost: app.example.org\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"X_Forwarded_Proto: https\r\nForwarded: for=6.6.6.6\r\nX-Real-Ip: 6.6.6.6\r\n"
            b"Proxy: evil\r\nConnection: keep-alive, X-Secret, Host\r\nX-Secret: 1\r\n"
            b"X-Kept: yes\r\nTE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAA\r\n\r\n"
        )
        _, service = await web.opened.get()
        head = await service.until(b"\r\n\r\n")
        assert head.split(b"\r\n")[1:] == [
            b"Host: app.example.org",
            b"X-Kept: yes",
            b"X-Forwarded-For: 192.0.2.7",
            b"X-Forwarded-Host: app.example.org",
            b"X-Forwarded-Port: 80",
            b"X-Forwarded-Proto: http",
            b"X-Real-IP: 192.0.2.7",
            b"",
            b"",
        ]


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\nHost: nobody.example.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 192.0.2.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: app.example.org:99999\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: app.example.org@x\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
    ],
)
async def test_who_asks_for_nobodys_host_learns_nothing(head: bytes) -> None:
    assert await _refused(head) == (
        b"HTTP/1.1 404 Not Found\r\nContent-Type: text/plain\r\nConnection: close\r\n"
        b"Content-Length: 10\r\n\r\nnot found\n"
    )


@pytest.mark.parametrize(
    "head",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: app.example.org\r\nHost: app.example.org\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: app.example.org\r\nHost : other.example.org\r\n\r\n",
        b"GET http://other.example.org/ HTTP/1.1\r\nHost: app.example.org\r\n\r\n",
        b"GET //x\\@y x HTTP/1.1\r\nHost: app.example.org\r\n\r\n",
        b"CONNECT app.example.org:80 HTTP/1.1\r\nHost: app.example.org\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 1\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 1\r\n"
        b"Content-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: +1\r\n\r\nx",
        b"POST / HTTP/1.0\r\nHost: app.example.org\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: app.example.org\r\nTransfer-Encoding: chunked\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: app.example.org\r\nX: \0\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
    ],
)
async def test_what_two_could_read_differently_is_refused(head: bytes) -> None:
    said = await _refused(head + (b"\r\n\r\n" if head[:1] == b"\x16" else b""))
    assert said.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 ")), said


async def test_a_head_without_end_is_refused_and_a_slow_one_hung_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    endless = b"GET / HTTP/1.1\r\nHost: app.example.org\r\nX: " + b"x" * 70_000
    assert (await _refused(endless)).startswith(b"HTTP/1.1 431 ")
    many = b"GET / HTTP/1.1\r\nHost: app.example.org\r\n" + b"X: x\r\n" * 101 + b"\r\n"
    assert (await _refused(many)).startswith(b"HTTP/1.1 431 ")
    monkeypatch.setattr(exchange, "HEAD_S", 0.05)
    async with _web("app.example.org") as web:
        await web.client.write(b"GET / HT")
        assert await web.client.all() == b""
    monkeypatch.setattr(exchange, "FIRST_S", 0.05)
    async with _web("app.example.org") as web:
        assert await web.client.all() == b""


async def test_bodies_go_on_as_they_come_and_trailers_do_not() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(
            b"POST / HTTP/1.1\r\nHost: app.example.org\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        await web.client.write(b"3\r\nabc\r\n")
        assert await service.until(b"abc\r\n") == b"3\r\nabc\r\n"
        await web.client.write(b"0\r\nX-Forwarded-For: 6.6.6.6\r\n\r\n")
        assert await service.until(b"0\r\n\r\n") == b"0\r\n\r\n"
        await service.write(b"HTTP/1.1 200 OK\r\n\r\nuntil the end")
        await service.end_writing()
        said = await web.client.until(b"0\r\n\r\n")
        assert b"chunked" in said
        assert b"until the end" in said


async def test_a_service_may_answer_before_it_has_read_everything() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(
            b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 1000\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        _, service = await web.opened.get()
        assert b"Expect: 100-continue" in await service.until(b"\r\n\r\n")
        await service.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
        said = await web.client.until(b"\r\n\r\n")
        assert said.startswith(b"HTTP/1.1 413 ")
        # What the body would have been is not taken for another request.
        await web.client.write(GET)
        await web.client.end_writing()
        assert await web.client.all() == b""
        assert web.opened.empty()


async def test_a_continue_is_passed_on() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(
            b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 2\r\n"
            b"Expect: 100-continue\r\n\r\n"
        )
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        await service.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        assert (await web.client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 100 ")
        await web.client.write(b"hi")
        assert await service.until(b"hi") == b"hi"
        await service.write(OK)
        assert await web.client.until(b"ok") == OK


WEBSOCKET = (
    b"GET /socket HTTP/1.1\r\nHost: app.example.org\r\nConnection: keep-alive, Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Key: AAAA\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


async def test_websockets_are_bytes_once_both_sides_said_so() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(WEBSOCKET)
        _, service = await web.opened.get()
        head = await service.until(b"\r\n\r\n")
        assert b"Upgrade: websocket" in head
        assert b"Sec-WebSocket-Key: AAAA" in head
        await service.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: BBBB\r\n\r\nfirst"
        )
        said = await web.client.until(b"first")
        assert b"Sec-WebSocket-Accept: BBBB" in said
        await web.client.write(b"\x81\x05hello")
        assert await service.until(b"hello") == b"\x81\x05hello"
        await service.end_writing()
        assert await web.client.all() == b""
        await web.client.end_writing()
        assert await service.all() == b""


async def test_an_upgrade_that_was_refused_opens_no_way_past_the_judge() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(WEBSOCKET + GET.replace(b"app", b"inner"))
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        await service.write(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")
        assert (await web.client.until(b"\r\n\r\n")).startswith(b"HTTP/1.1 426 ")
        assert (await web.client.until(b"not found\n")).startswith(b"HTTP/1.1 404 ")
        assert await service.all() == b""


async def test_a_service_that_ended_while_it_rested_is_asked_anew() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(GET)
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        await service.write(OK)
        await web.client.until(b"ok")
        await service.close()
        await web.client.write(GET)
        _, second = await web.opened.get()
        await second.until(b"\r\n\r\n")
        await second.write(OK)
        assert await web.client.until(b"ok") == OK


async def test_one_that_ends_as_it_is_asked_is_asked_once_more_where_that_is_safe() -> None:
    for method, again in ((b"GET", True), (b"POST", False)):
        async with _web("app.example.org") as web:
            await web.client.write(GET)
            _, service = await web.opened.get()
            await service.until(b"\r\n\r\n")
            await service.write(OK)
            await web.client.until(b"ok")
            await web.client.write(GET.replace(b"GET", method))
            await service.until(b"\r\n\r\n")
            await service.close()
            if again:
                _, second = await web.opened.get()
                await second.until(b"\r\n\r\n")
                await second.write(OK)
                assert await web.client.until(b"ok") == OK
            else:
                assert (await web.client.all()).startswith(b"HTTP/1.1 502 ")
                assert web.opened.empty()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    ],
)
async def test_a_service_that_makes_no_sense_is_a_bad_gateway(answer: bytes) -> None:
    async with _web("app.example.org") as web:
        await web.client.write(GET)
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        await service.write(answer)
        await service.close()
        await web.client.end_writing()
        assert (await web.client.all()).startswith(b"HTTP/1.1 502 Bad Gateway\r\n")


async def test_a_client_that_is_gone_is_seen_while_its_service_thinks() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(GET)
        _, service = await web.opened.get()
        await service.until(b"\r\n\r\n")
        web.client.break_off()
        assert await service.all() == b""


async def test_a_body_that_is_cut_short_ends_its_request() -> None:
    async with _web("app.example.org") as web:
        await web.client.write(
            b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 10\r\n\r\nabc"
        )
        _, service = await web.opened.get()
        await service.until(b"abc")
        await web.client.end_writing()
        assert await service.all() == b""


async def test_by_tls_the_host_is_the_one_that_the_certificate_was_for() -> None:
    origin = Origin("192.0.2.7", "https", 443, server_name="app.example.org")
    async with _web("app.example.org", origin=origin) as web:
        await web.client.write(GET)
        _, service = await web.opened.get()
        assert b"X-Forwarded-Proto: https\r\n" in await service.until(b"\r\n\r\n")
    said = await _refused(GET.replace(b"app", b"other"), "other.example.org", origin=origin)
    assert said.startswith(b"HTTP/1.1 421 ")
