"""One command on one node, for somebody who waits: lease, run, fetch what it made, give back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

import msgspec

from p2prc.errors import (
    NoNodeMatches,
    P2prcError,
    PeerBusy,
    PeerError,
    PeerLost,
    PeerUnreachable,
)
from p2prc.model.identity import LeaseId, NodeId, random_id
from p2prc.model.tree import Tree
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.node.bulk import Bulk
from p2prc.node.grants import Grants
from p2prc.node.links import Links
from p2prc.node.post import Post
from p2prc.node.provider import Provider
from p2prc.node.session import Print, run_remotely
from p2prc.plugins.hooks import HookSet
from p2prc.protocol.egress import BRIDGE
from p2prc.protocol.messages import EndLease, LeaseGranted, RequestLease, RunCommand
from p2prc.protocol.placement import NodeOffer, choose, explain, why_not

LEASE_TIMEOUT_S = 900.0
"""Granting may include building an environment; the link's pulse tells a dead peer long before."""

ANOTHER_PATH_S = 10.0
"""After a path broke, another one is looked for so long: a dead relay is missed after seconds."""
ANOTHER_PATH_PAUSE_S = 0.3

_ALL_BUSY = "try later, or ask for less"
"""Not "use `any`": that is what was used."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Finished:
    """What became of a run: where it ran, how it ended, and the files it made (in our store)."""

    node: NodeId
    lease: LeaseId
    outcome: Outcome
    outputs: Tree | None


class Runs:
    """Carries out single commands."""

    def __init__(
        self,
        *,
        own: NodeId,
        post: Post,
        links: Links,
        provider: Provider,
        bulk: Bulk,
        grants: Grants,
        offers: Callable[[], Sequence[NodeOffer]],
        rng: Random,
        hooks: HookSet,
    ) -> None:
        self._hooks = hooks
        self._own = own
        self._post = post
        self._links = links
        self._provider = provider
        self._bulk = bulk
        self._grants = grants
        self._offers = offers
        self._rng = rng
        self._notes: dict[LeaseId, Callable[[str], None]] = {}
        self._owed: dict[NodeId, set[LeaseId]] = {}

    async def run(
        self,
        target: NodeId | None,
        workload: Workload,
        command: Command,
        *,
        owner: str,
        printed: Print,
        noted: Callable[[str], None],
        started: Callable[[NodeId, LeaseId], Awaitable[None]],
    ) -> Finished:
        """Run on the target, or on any node that fits; outputs are pinned for the owner.

        Raises NoNodeMatches with what nobody meets, the provider's refusal, PeerError.
        Cancelling this kills the command and gives the lease back.
        """
        node, granted = await self.find_place(target, workload, noted)
        lease = granted.lease
        try:
            await started(node, lease)
            if command.inputs is not None:
                self._grants.allow(node, command.inputs, reason=lease)
            outcome = await self._execute(node, RunCommand(lease, command), printed)
            outputs = None
            if outcome.outputs is not None:
                outputs = await self._bulk.obtain(node, outcome.outputs, owner)
            return Finished(node, lease, outcome, outputs)
        finally:
            self._grants.revoke(lease)
            self.give_back(node, lease)

    async def find_place(
        self,
        target: NodeId | None,
        workload: Workload,
        noted: Callable[[str], None],
        asking: Callable[[LeaseId], RequestLease] | None = None,
    ) -> tuple[NodeId, LeaseGranted]:
        """Get a lease; when a path breaks meanwhile, once more by another one: nothing ran yet."""
        loop = asyncio.get_running_loop()
        until, has_lost = loop.time() + ANOTHER_PATH_S, False
        while True:
            lease = LeaseId(random_id(self._rng))
            self._notes[lease] = noted
            try:
                # For a single command a sandbox of its own is the quickest: no agent has to start.
                # A bridge belongs to the place: it cannot be made anew in front of a command.
                is_alone = workload.network != BRIDGE
                request = RequestLease(lease, workload, is_isolated=is_alone)
                if asking is not None:
                    request = asking(lease)
                return await self._lend(target, request)
            except (PeerLost, PeerUnreachable) as error:
                # A node that is not there at all is said so at once.
                has_lost = has_lost or isinstance(error, PeerLost)
                if not has_lost or loop.time() > until:
                    raise
                noted(f"{error.message}; trying another path")
                await asyncio.sleep(ANOTHER_PATH_PAUSE_S)
            finally:
                del self._notes[lease]

    def progress(self, lease: LeaseId, text: str) -> bool:
        """Tell what a lease that is being made waits for; say whether it is one of ours."""
        noted = self._notes.get(lease)
        if noted is not None:
            noted(text)
        return noted is not None

    def node_back(self, node: NodeId) -> None:
        """A link to the node exists: give back what could not be given back without one."""
        for lease in sorted(self._owed.pop(node, ())):
            self._post.tell(node, EndLease(lease))

    def give_back(self, node: NodeId, lease: LeaseId) -> None:
        """End a lease, as soon as its node can be told."""
        if not self._post.tell(node, EndLease(lease)):
            self._owed.setdefault(node, set()).add(lease)

    async def _execute(self, node: NodeId, request: RunCommand, printed: Print) -> Outcome:
        if node == self._own:
            return await self._provider.run(node, request, printed)
        link = await self._links.reach(node)
        return await run_remotely(link.connection, request, printed)

    async def _lend(
        self, target: NodeId | None, request: RequestLease
    ) -> tuple[NodeId, LeaseGranted]:
        lease = request.lease
        refusals: list[P2prcError] = []
        for node in self._candidates(target, request):
            try:
                granted = await self._post.ask(
                    node, request, LeaseGranted, timeout_s=LEASE_TIMEOUT_S
                )
            except asyncio.CancelledError:
                self.give_back(node, lease)
                raise
            except P2prcError as error:
                if isinstance(error, PeerLost):
                    # It may be granted all the same, after we stopped waiting.
                    self.give_back(node, lease)
                if target is not None:
                    raise
                log.info("a node did not lend", extra={"peer": node, "reason": error.message})
                refusals.append(error)
            else:
                # What was asked for, whatever the node calls it.
                ports = granted.ports[: request.ports]
                return node, msgspec.structs.replace(granted, lease=lease, ports=ports)
        raise _worst(refusals)

    def _candidates(self, target: NodeId | None, request: RequestLease) -> list[NodeId]:
        offers, workload = self._offers(), request.workload
        if target is None:
            has_ports = request.ports > 0
            chosen = choose(offers, workload, self._rng, has_ports=has_ports)
            if not chosen:
                raise NoNodeMatches(explain(offers, workload))
            if not (chosen := self._hooks.place(chosen)):
                raise NoNodeMatches("a plugin of this node allows none of the nodes that fit")
            return [offer.node for offer in chosen]
        for offer in offers:
            # Whether it is paused it says best itself: the pause may just be over.
            lends = offer.is_lending or offer.lent.cpu_millis > 0
            asked = replace(offer, is_lending=lends)
            if offer.node == target and (reason := why_not(asked, workload)) is not None:
                raise NoNodeMatches(f"{offer.name} cannot run this: {reason}")
        return [target]


def _worst(refusals: list[P2prcError]) -> P2prcError:
    # When every node refused, say the refusal that waiting may not mend.
    for error in refusals:
        if not error.retryable:
            return error
    if not refusals:
        return PeerError("no node answered")
    last = refusals[-1]
    # Every node was asked already.
    return PeerBusy(last.message, hint=_ALL_BUSY) if isinstance(last, PeerBusy) else last
