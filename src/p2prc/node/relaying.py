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
from p2prc.relay.admission import (
    MEMBER_BYTES_PER_S,
    Household,
    RelayAdmission,
    member_bearer,
)
from p2prc.relay.connection import Upgrade
from p2prc.relay.server import Admit, RelayServer, WellKnown, open_relay
from p2prc.transport.tls_door import BULK_PATH, BULK_PROTOCOL

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relaying:
    """The relay that this node serves; `server` is None for the reason given.

    A node that is no relay has the server all the same, for its page and for bulk.
    """

    server: RelayServer | None
    serves_relay: bool = True
    reason: str = ""


@asynccontextmanager
async def open_relaying(
    node: Node, *, host: str, port: int, serves_relay: bool = True
) -> AsyncIterator[Relaying]:
    """Serve as a relay, and bulk, on the port; where it is taken on any other.

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
        if key == network.own:
            # Whatever network it shows: it is in ours, and may have left the other just now.
            return RelayTerms(bytes_per_s=MEMBER_BYTES_PER_S)
        record = None if bearer else network.gossip.record_of(key)
        return judge(key, bearer if record is None else member_bearer(record.membership))

    identity = WellKnown(network.own, PROTOCOL_VERSION, serves_relay)
    try:
        server = await _open(identity, admit, node, host=host, port=port)
    except MachineCannot as error:
        log.warning("this node serves as no relay", extra={"reason": error.message})
        yield Relaying(None, serves_relay, error.message)
        return
    log.info("listening on TCP", extra={"port": server.port, "as_relay": serves_relay})
    node.relay = server
    node.links.lanes.door_opened(server.port)
    try:
        yield Relaying(server, serves_relay)
    finally:
        node.relay = None
        node.links.lanes.door_opened(None)
        await server.close()


async def _open(
    identity: WellKnown, admit: Admit, node: Node, *, host: str, port: int
) -> RelayServer:
    upgrades = {BULK_PATH: Upgrade(BULK_PROTOCOL, node.links.lanes.knocked)}
    try:
        return await open_relay(host, port, identity=identity, admit=admit, upgrades=upgrades)
    except PortTaken:
        # The port that a router forwards is best, any other still serves those who can reach it.
        log.info("the relay's usual port is taken", extra={"port": port})
        return await open_relay(host, 0, identity=identity, admit=admit, upgrades=upgrades)
