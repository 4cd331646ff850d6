"""A fresh dial from a socket of its own: whether packets from anywhere arrive at an address."""

from __future__ import annotations

import asyncio
import os
from contextlib import suppress

import iroh

from p2prc.model.identity import NodeId
from p2prc.transport import addresses as address_text
from p2prc.transport.port import Channel

PROBE_TIMEOUT_S = 3.0
_CLOSE_TIMEOUT_S = 0.5


class _Bare(iroh.Preset):
    def apply(self, builder: iroh.EndpointBuilder) -> None:
        builder.apply_minimal()


async def reaches(peer: NodeId, address: str) -> bool:
    """Whether the node with this key answers a stranger at the address, over UDP."""
    if not address_text.dialable([address]):
        return False
    options = iroh.EndpointOptions(
        preset=_Bare(),
        secret_key=os.urandom(32),
        alpns=[],
        relay_mode=iroh.RelayMode.disabled(),
    )
    endpoint: iroh.Endpoint | None = None
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            endpoint = await iroh.Endpoint.bind(options)
            target = iroh.EndpointAddr(iroh.EndpointId.from_string(peer), None, [address])
            connection = await endpoint.connect(target, Channel.PROBE.value)
    except (iroh.IrohError, TimeoutError):
        return False
    else:
        with suppress(iroh.IrohError):
            connection.close(0, b"reached")
        return True
    finally:
        if endpoint is not None:
            with suppress(TimeoutError, iroh.IrohError):
                async with asyncio.timeout(_CLOSE_TIMEOUT_S):
                    await endpoint.close()
