"""How many streams of a peer are served at once."""

from __future__ import annotations

import asyncio
from typing import cast

from p2prc.node.room import STREAMS_LIMIT, WIDE_STREAMS_LIMIT, Room
from p2prc.transport.port import Connection


class _Connection:
    def __init__(self) -> None:
        self.allowed: list[int] = []

    def allow_streams(self, count: int) -> None:
        self.allowed.append(count)


async def test_a_widened_room_holds_more_and_is_widened_once() -> None:
    room, connection = Room(), _Connection()
    for _ in range(STREAMS_LIMIT):
        await room.enter()
    waiting = asyncio.create_task(room.enter())
    await asyncio.sleep(0)
    assert not waiting.done()
    for _ in range(2):
        room.widen(cast(Connection, connection))
    await waiting
    for _ in range(WIDE_STREAMS_LIMIT - STREAMS_LIMIT - 1):
        await room.enter()
    last = asyncio.create_task(room.enter())
    await asyncio.sleep(0)
    assert not last.done()
    room.leave()
    await last
    assert connection.allowed == [WIDE_STREAMS_LIMIT + 512]
