"""Being let in, letting in and putting out, as the control API asks for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

from p2prc.api import schema
from p2prc.daemon.names import find_asking
from p2prc.daemon.rows import instant
from p2prc.errors import NodeUnknown, PeerBusy
from p2prc.model.identity import NodeId, short
from p2prc.node.door import Waiting
from p2prc.node.lookup import Doorplate
from p2prc.node.node import Node
from p2prc.node.standing import Standing
from p2prc.protocol.asking import fingerprint


class AdmissionDesk:
    """The people's side of admission."""

    def __init__(self, node: Node, find: Callable[[str], NodeId]) -> None:
        self._node = node
        self._find = find

    def notices(self) -> list[str]:
        """Return what a person should know now."""
        network = self._node.network
        found = []
        revoker = network.revocations.revoker_of(network.standing.member)
        if revoker is not None:
            found.append(
                f"put out of this network by {short(revoker)}: nobody here answers; "
                "a network of its own: `p2prc leave`"
            )
        if network.standing.member.is_open:
            found.append("open: anyone may join; others' work runs in isolating tiers only")
        return found

    async def ask(self, request: schema.AskRequest) -> AsyncIterator[schema.AskEvent]:
        """Ask whoever is at an address, and tell how it goes. Closing this withdraws."""
        network = self._node.network
        door = await self._node.joining.look_up(request.address)
        network.revocations.judge(network.standing.member)
        if any(view.record.node == door.node for view in network.nodes()):
            yield schema.AskEnded(self._joined(network.standing))
            return
        yield schema.AskStarted(
            node=door.node,
            fingerprint=fingerprint(door.node),
            own_fingerprint=fingerprint(self._node.id),
            address=door.address,
        )
        async for event in self._wait(door, request.timeout_s):
            yield event

    async def _wait(self, door: Doorplate, timeout_s: float) -> AsyncIterator[schema.AskEvent]:
        is_listed = asyncio.Event()
        loop = asyncio.get_running_loop()
        ends_at = loop.time() + timeout_s
        asking = asyncio.create_task(
            self._node.joining.ask(door, waiting=is_listed.set), name="ask to be let in"
        )
        listing = asyncio.create_task(is_listed.wait(), name="be listed")
        try:
            await asyncio.wait(
                {asking, listing}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
            if is_listed.is_set() and not asking.done():
                yield schema.AskWaiting()
                await asyncio.wait({asking}, timeout=max(0.0, ends_at - loop.time()))
            if not asking.done():
                raise PeerBusy(
                    f"nobody has let this node in within {timeout_s:g} s",
                    hint="ask again, or ask a member for a ticket: `p2prc invite`",
                )
            yield schema.AskEnded(self._joined(await asking))
        finally:
            for task in (asking, listing):
                task.cancel()
            await asyncio.gather(asking, listing, return_exceptions=True)

    def _joined(self, standing: Standing) -> schema.Joined:
        network = self._node.network
        members = sum(not view.record.has_left for view in network.nodes())
        return schema.Joined(
            network=standing.network, name=network.told.description.name, members=members
        )

    def requests(self) -> list[schema.RequestRow]:
        """Return who asks to be let in."""
        return [_row(waiting) for waiting in self._node.door.requests()]

    def decide(self, decision: schema.Decision) -> schema.RequestRow:
        """Let in or refuse who asks. Raises NodeUnknown, NameAmbiguous, RightMissing, Revoked."""
        waiting = {one.asked.joiner: one for one in self._node.door.requests()}
        names = {joiner: one.asked.name for joiner, one in waiting.items()}
        try:
            joiner = find_asking(decision.node, names)
        except NodeUnknown as error:
            raise NodeUnknown(
                f"nobody who asks is called `{decision.node[:80]}`", hint="see `p2prc requests`"
            ) from error
        if decision.is_approved:
            self._node.door.approve(joiner, may_invite=decision.is_admin)
        else:
            self._node.door.deny(joiner)
        return _row(waiting[joiner])

    def revoke(self, request: schema.RevokeRequest) -> schema.RevokedNode:
        """Put a member out. Raises RightMissing, NodeUnknown."""
        node = self._find(request.node)
        name = self._node.name_of(node)
        self._node.network.revoke(node, reason=request.reason)
        return schema.RevokedNode(id=node, name=name)


def _row(waiting: Waiting) -> schema.RequestRow:
    asked = waiting.asked
    return schema.RequestRow(
        id=asked.joiner,
        name=asked.name,
        fingerprint=fingerprint(asked.joiner),
        asked_at=instant(waiting.asked_at),
        address=asked.address,
        via=asked.door,
    )
