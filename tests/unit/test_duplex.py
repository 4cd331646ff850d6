"""Requests that go both ways: real server, real socket, real client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from p2prc.api import duplex
from p2prc.api.address import socket_path
from p2prc.api.duplex import OCTETS, Duplex
from p2prc.api.duplex_client import DuplexCall
from p2prc.api.listening import open_server


async def test_a_caller_that_hangs_up_behind_its_unread_input_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(duplex, "_LOOK_S", 0.01)
    begun, ended = asyncio.Event(), asyncio.Event()

    async def answering(body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        begun.set()
        try:
            yield b"never mind your input"
            await asyncio.sleep(60)
        finally:
            ended.set()

    async def endpoint(_: Request) -> Duplex:
        return Duplex(answering, media_type=OCTETS)

    app = Starlette(routes=[Route("/", endpoint, methods=["POST"])])
    async with asyncio.timeout(10), open_server(app, socket_path(tmp_path)):
        call = await asyncio.to_thread(DuplexCall, str(tmp_path), "/")
        flooding = asyncio.create_task(asyncio.to_thread(_flood, call))
        await begun.wait()
        await asyncio.sleep(0.1)
        assert not ended.is_set() and not flooding.done()
        call.close()
        await ended.wait()
        await flooding


def _flood(call: DuplexCall) -> None:
    try:
        while True:
            call.send(bytes(1 << 16))
    except OSError:
        return
