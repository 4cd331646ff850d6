"""Who is asked about on the local network: one bad name ends nothing."""

from __future__ import annotations

import asyncio

import pytest

from p2prc.model.identity import NodeId
from p2prc.reachability.lan import Lan


async def test_a_name_that_fails_as_nobody_foresaw_is_counted_and_the_next_is_asked_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lan = Lan(NodeId("a" * 64), NodeId("b" * 64), 8088, lambda *_: None)
    asked: list[str] = []
    is_done = asyncio.Event()

    async def ask(name: str) -> None:
        asked.append(name)
        if name == "odd":
            raise ZeroDivisionError("nobody foresaw this")
        is_done.set()

    monkeypatch.setattr(lan, "_ask_about", ask)
    worker = asyncio.create_task(lan._ask_about_names())
    for name in ("odd", "even"):
        lan._names.put_nowait(name)
    async with asyncio.timeout(5):
        await is_done.wait()
    worker.cancel()
    assert asked == ["odd", "even"]
    assert lan.unforeseen == 1
    assert "nobody foresaw this" in caplog.text
