"""A second UDP port, open for a moment, to see from where a peer's packet comes to it.

A NAT that shows every peer another port shows it every port of one peer, too (RFC 4787: address
and port-dependent mapping). So one machine outside is enough to tell it from one that does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from p2prc.errors import MachineCannot
from p2prc.transport import addresses as address_text

OPEN_S = 4.0


async def open_onlooker(host: str, seen: Callable[[str], None]) -> int:
    """Open the port; tell from where the first packet of this host comes, then close it.

    It closes after `OPEN_S` in any case. Raises MachineCannot.
    """
    loop = asyncio.get_running_loop()
    wildcard = "::" if ":" in host else "0.0.0.0"  # noqa: S104 - peers anywhere ask
    try:
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Onlooker(host, seen), local_addr=(wildcard, 0)
        )
    except OSError as error:
        raise MachineCannot(f"no second UDP port: {error.strerror or error}") from error
    loop.call_later(OPEN_S, transport.close)
    port: int = transport.get_extra_info("sockname")[1]
    return port


class _Onlooker(asyncio.DatagramProtocol):
    def __init__(self, host: str, seen: Callable[[str], None]) -> None:
        self._host = host
        self._seen = seen
        self._transport: asyncio.BaseTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, source: tuple[str | int, ...]) -> None:
        # Nothing is read and nothing answered: where it comes from is all.
        if source[0] != self._host or self._transport is None:
            return
        self._transport.close()
        self._transport = None
        self._seen(address_text.join(str(source[0]), int(source[1])))
