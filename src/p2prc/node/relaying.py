"""This node as a relay for its network: opened on its TCP port, admitting by its membership."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from p2prc.authority import Member, verify_chain
from p2prc.errors import MachineCannot, NotMember, PortTaken
from p2prc.model.identity import NodeId
from p2prc.node.network import Network
from p2prc.protocol.messages import PROTOCOL_VERSION
from p2prc.relay.admission import Household, RelayAdmission
from p2prc.relay.server import RelayServer, WellKnown, open_relay

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relaying:
    """The relay that this node serves; `server` is None for the reason given."""

    server: RelayServer | None
    reason: str = ""


@asynccontextmanager
async def open_relaying(
    network: Network,
    *,
    host: str,
    port: int,
    is_revoked: Callable[[NodeId], bool] = lambda node: False,
) -> AsyncIterator[Relaying]:
    """Serve as a relay on the port, where it is taken on any other.

    A machine that cannot listen at all is a node without a relay: the reason is kept.
    """
    admit = RelayAdmission(
        Household(
            network=lambda: network.standing.network,
            issuer=lambda node: _member(network, node),
            is_revoked=is_revoked,
            now=time.time,
        )
    )
    identity = WellKnown(network.own, PROTOCOL_VERSION)
    try:
        server = await _open(identity, admit, host, port)
    except MachineCannot as error:
        log.warning("this node serves as no relay", extra={"reason": error.message})
        yield Relaying(None, error.message)
        return
    log.info("relay ready", extra={"port": server.port})
    # Whom we admitted was a member of the network that we left.
    network.entered.append(server.drop_all)
    try:
        yield Relaying(server)
    finally:
        network.entered.remove(server.drop_all)
        await server.close()


async def _open(identity: WellKnown, admit: RelayAdmission, host: str, port: int) -> RelayServer:
    try:
        return await open_relay(host, port, identity=identity, admit=admit)
    except PortTaken:
        # The port that a router forwards is best, any other still serves those who can reach it.
        log.info("the relay's usual port is taken", extra={"port": port})
        return await open_relay(host, 0, identity=identity, admit=admit)


def _member(network: Network, node: NodeId) -> Member | None:
    """Return what this node knows of a member, from its own chain or that of its record."""
    if node == network.own:
        return network.standing.member
    record = network.gossip.record_of(node)
    if record is None:
        return None
    try:
        return verify_chain(record.membership, network=network.standing.network)
    except NotMember:
        return None
