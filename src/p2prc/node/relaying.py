"""This node as a relay for its network: opened on its TCP port, admitting by its membership."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from p2prc.errors import MachineCannot, PortTaken
from p2prc.model.identity import NodeId
from p2prc.node.node import Node
from p2prc.protocol.messages import PROTOCOL_VERSION
from p2prc.protocol.relay_events import RelayTerms
from p2prc.relay.admission import Household, RelayAdmission, member_bearer
from p2prc.relay.server import Admit, RelayServer, WellKnown, open_relay

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relaying:
    """The relay that this node serves; `server` is None for the reason given."""

    server: RelayServer | None
    reason: str = ""


@asynccontextmanager
async def open_relaying(node: Node, *, host: str, port: int) -> AsyncIterator[Relaying]:
    """Serve as a relay on the port, where it is taken on any other.

    A machine that cannot listen at all is a node without a relay: the reason is kept.
    """
    network = node.network
    judge = RelayAdmission(
        Household(
            network=lambda: network.standing.network,
            issuer=network.member_of,
            judge=node.judge,
            now=time.time,
        )
    )

    def admit(key: NodeId, bearer: str) -> RelayTerms:
        # A member on its way to another by a relay that it does not use otherwise shows nothing:
        # its key is proved, and its chain is known from its record.
        record = None if bearer else network.gossip.record_of(key)
        return judge(key, bearer if record is None else member_bearer(record.membership))

    identity = WellKnown(network.own, PROTOCOL_VERSION)
    try:
        server = await _open(identity, admit, host, port)
    except MachineCannot as error:
        log.warning("this node serves as no relay", extra={"reason": error.message})
        yield Relaying(None, error.message)
        return
    log.info("relay ready", extra={"port": server.port})
    node.relay = server
    try:
        yield Relaying(server)
    finally:
        node.relay = None
        await server.close()


async def _open(identity: WellKnown, admit: Admit, host: str, port: int) -> RelayServer:
    try:
        return await open_relay(host, port, identity=identity, admit=admit)
    except PortTaken:
        # The port that a router forwards is best, any other still serves those who can reach it.
        log.info("the relay's usual port is taken", extra={"port": port})
        return await open_relay(host, 0, identity=identity, admit=admit)
