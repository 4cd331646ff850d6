"""How far a relay is: timed here, and never on another's word at our own machine."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from p2prc.transport.relay_ping import is_this_machine, ping_relay


async def test_a_name_that_leads_to_this_machine_is_a_relay_for_its_owner_alone() -> None:
    served = asyncio.Semaphore(0)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        with suppress(ConnectionError):
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            await reader.read()
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
        served.release()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        url = f"http://localhost:{server.sockets[0].getsockname()[1]}/"
        assert await ping_relay(url) is not None
        assert await ping_relay(url, is_ours=False) is None
        async with asyncio.timeout(5):
            await served.acquire()
            await served.acquire()


@pytest.mark.parametrize(
    ("host", "is_here"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("::ffff:127.9.9.9", True),
        ("0.0.0.0", True),
        ("192.0.2.1", False),
        ("2001:db8::1", False),
        ("fe80::1%eth0", False),
    ],
)
def test_which_addresses_are_this_machines_own(host: str, is_here: bool) -> None:
    assert is_this_machine((host, 80)) is is_here
