"""A second port that sees from where a packet comes, once."""

from __future__ import annotations

import asyncio
import socket

from p2prc.transport.onlooker import open_onlooker


async def test_it_tells_where_the_first_packet_of_the_host_came_from_and_closes() -> None:
    told: asyncio.Queue[str] = asyncio.Queue()
    port = await open_onlooker("127.0.0.2", told.put_nowait)
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
    ):
        stranger.bind(("127.0.0.3", 0))
        peer.bind(("127.0.0.2", 0))
        for sender in (stranger, peer, peer):
            sender.sendto(b"anything", ("127.0.0.1", port))
        async with asyncio.timeout(5):
            assert await told.get() == f"127.0.0.2:{peer.getsockname()[1]}"
        again = await open_onlooker("127.0.0.2", told.put_nowait)
        peer.sendto(b"anything", ("127.0.0.1", again))
        async with asyncio.timeout(5):
            await told.get()
    assert told.empty()
