"""The containers that I hold on other nodes: asked for, remembered, checked, given back.

What is remembered survives this node; what a container's own node says about it counts more.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from p2prc.errors import MachineCannot, P2prcError
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.moments import Moment
from p2prc.model.resources import finite
from p2prc.model.workload import MainProcess, Workload
from p2prc.node.moment import moment
from p2prc.node.post import Post
from p2prc.node.runs import Runs
from p2prc.protocol.messages import (
    ASKED_LEASES_LIMIT,
    AskLeases,
    EndLease,
    LeaseEnded,
    LeaseStanding,
    LeaseStandings,
    RequestLease,
)
from p2prc.storage.state import State

CHECK_TIMEOUT_S = 8.0
ENDED_KEPT_S = 7 * 86400.0
REMOVING_KEPT_S = 7 * 86400.0
"""How long a node that does not come back is waited for to be told of a container's end."""
_KEY = "container/"
_GROUPS = "container-groups"

log = logging.getLogger(__name__)


class Held(msgspec.Struct, frozen=True):
    """A container as it is remembered; instants are seconds since 1970 by this node's clock.

    `expires_at` None is never.
    `state`: active, suspended, ending, ended, removing (its node was not told yet) or
    unreachable. `main` is the main process: "" without one, running, waiting or ended.
    """

    lease: LeaseId
    node: NodeId
    workload: Workload
    argv: tuple[str, ...]
    ports: dict[str, int]
    created_at: float
    expires_at: float | None
    state: str = "active"
    reason: str = ""
    ended_by: str = ""
    ended_at: float = 0.0
    removed_at: float = 0.0
    main: str = ""
    main_status: int | None = None
    told: Moment | None = None
    left_s: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether its time is over by what its node said last, whatever the wall clock was set to.

        `left_s` is what it had left at the moment `told`.
        """
        if self.told is not None and self.left_s is not None:
            return moment().since(self.told) > self.left_s
        return self.expires_at is not None and time.time() > self.expires_at


class Containers:
    """Knows every container that this node holds."""

    def __init__(self, *, state: State, post: Post, runs: Runs) -> None:
        self._state = state
        self._post = post
        self._runs = runs
        self._held: dict[LeaseId, Held] = {}
        self._groups: dict[str, list[LeaseId]] = {}

    def start(self) -> None:
        """Take up what the last run remembered; what ended long ago is forgotten."""
        oldest = time.time() - ENDED_KEPT_S
        for key, content in self._state.values().items():
            if key.startswith(_KEY):
                held = msgspec.json.decode(content, type=Held)
                if held.state == "ended" and held.ended_at < oldest:
                    self._state.set_values({key: None})
                else:
                    self._held[held.lease] = held
        self._give_up_on_the_lost()
        if (groups := self._state.value(_GROUPS)) is not None:
            self._groups = msgspec.json.decode(groups, type=dict[str, list[LeaseId]])

    async def create(
        self,
        target: NodeId | None,
        workload: Workload,
        *,
        variables: dict[str, str],
        main: MainProcess | None,
        ports: int,
        noted: Callable[[str], None],
    ) -> Held:
        """Get a container on the target, or on any node that fits.

        Raises NoNodeMatches, the provider's refusal, PeerError. Cancelling this gives it back.
        """

        def asking(lease: LeaseId) -> RequestLease:
            return RequestLease(
                lease, workload, has_sessions=True, variables=variables, main=main, ports=ports
            )

        node, granted = await self._runs.find_place(target, workload, noted, asking)
        now = time.time()
        held = Held(
            lease=granted.lease,
            node=node,
            workload=workload,
            argv=() if main is None else main.argv,
            ports={f"port{number}": port for number, port in enumerate(granted.ports, 1)},
            created_at=now,
            expires_at=finite(now + workload.limits.lasts_s),
            main="" if main is None else "running",
            told=moment(),
            left_s=workload.limits.lifetime_s,
        )
        try:
            self._keep(held)
        except MachineCannot:
            # What cannot be remembered would run unseen.
            self._runs.give_back(node, granted.lease)
            raise
        return held

    def all(self) -> list[Held]:
        """Return what is remembered, oldest first."""
        return sorted(self._held.values(), key=lambda held: (held.created_at, held.lease))

    async def check(self) -> list[Held]:
        """Ask every container's node what became of it; return all, oldest first.

        Who cannot be reached is said to be so: the container may well be there.
        """
        asked: dict[NodeId, list[Held]] = {}
        self._give_up_on_the_lost()
        for held in self.all():
            if held.state not in ("ended", "removing"):
                asked.setdefault(held.node, []).append(held)
        await asyncio.gather(*(self._check_node(node, there) for node, there in asked.items()))
        return self.all()

    def _give_up_on_the_lost(self) -> None:
        """Wait no longer for nodes that never came back to be told: what they held has ended."""
        now = time.time()
        for held in self.all():
            if held.state != "removing":
                continue
            if held.is_over:
                self._end(held, "time", "its time was over before its node was back")
            elif held.removed_at < now - REMOVING_KEPT_S:
                self._end(held, "lost", "its node never came back to be told")

    async def _check_node(self, node: NodeId, there: Sequence[Held]) -> None:
        for start in range(0, len(there), ASKED_LEASES_LIMIT):
            some = there[start : start + ASKED_LEASES_LIMIT]
            request = AskLeases(tuple(held.lease for held in some))
            try:
                async with asyncio.timeout(CHECK_TIMEOUT_S):
                    told = await self._post.ask(node, request, LeaseStandings)
            except (P2prcError, TimeoutError) as error:
                reason = error.message if isinstance(error, P2prcError) else "it does not answer"
                for held in some:
                    self._unreachable(held, reason)
                continue
            standings = {standing.lease: standing for standing in told.standings}
            for held in some:
                self._told(held, standings.get(held.lease))

    def _unreachable(self, held: Held, reason: str) -> None:
        if held.lease not in self._held:
            return
        if held.is_over:
            self._end(held, "time", "its time is over")
            return
        reason = f"its node cannot be reached: {reason}"
        self._held[held.lease] = msgspec.structs.replace(held, state="unreachable", reason=reason)

    def _told(self, held: Held, told: LeaseStanding | None) -> None:
        if held.lease not in self._held:
            return
        if told is None or told.state == "unknown":
            self._end(held, "lost", "its node does not have it any more: it was started anew")
        elif told.state == "ended":
            self._end(held, told.ended_by, told.reason)
        else:
            left_s = told.expires_in_s
            self._held[held.lease] = msgspec.structs.replace(
                held,
                state=told.state,
                reason="",
                expires_at=None if left_s is None else time.time() + left_s,
                told=moment(),
                left_s=left_s,
                main=told.main,
                main_status=told.main_status,
            )

    def ended(self, node: NodeId, told: LeaseEnded) -> bool:
        """Take a provider's word that a lease has ended; say whether it was a container of mine."""
        held = self._held.get(told.lease)
        if held is None or held.node != node:
            return False
        if held.state != "ended":
            self._end(held, told.ended_by, told.reason)
        return True

    def remove(self, lease: LeaseId) -> Held:
        """End it and forget it; while its node cannot be told, it is remembered as `removing`."""
        held = self._held[lease]
        removed_at = held.removed_at or time.time()
        if held.state == "ended" or self._post.tell(held.node, EndLease(lease)):
            self._forget(lease)
            return msgspec.structs.replace(held, state="ended", ended_by="requester")
        reason = "its node is told when it is back"
        removing = msgspec.structs.replace(
            held, state="removing", reason=reason, removed_at=removed_at
        )
        self._keep(removing)
        return removing

    def node_back(self, node: NodeId) -> None:
        """A link to the node exists: end what could not be ended without one."""
        for held in self.all():
            if held.node == node and held.state == "removing":
                self.remove(held.lease)

    # -- groups --

    @property
    def groups(self) -> dict[str, list[LeaseId]]:
        """The containers that are handled together, by their group's name."""
        return self._groups

    def groups_of(self, lease: LeaseId) -> list[str]:
        """Return the groups that a container is in."""
        return sorted(name for name, leases in self._groups.items() if lease in leases)

    def set_group(self, name: str, leases: Sequence[LeaseId] | None) -> None:
        """Make or change a group; None removes it, and its containers stay."""
        if leases is None:
            self._groups.pop(name, None)
        else:
            self._groups[name] = list(dict.fromkeys(leases))
        self._state.set_values({_GROUPS: msgspec.json.encode(self._groups)})

    # -- memory --

    def _end(self, held: Held, ended_by: str, reason: str) -> None:
        ended = msgspec.structs.replace(
            held,
            state="ended",
            ended_by=ended_by or "lost",
            reason=reason,
            ended_at=time.time(),
            main="ended" if held.main else "",
        )
        self._held[held.lease] = ended
        try:
            self._keep(ended)
        except MachineCannot as error:
            log.warning("a container's end was not kept", extra={"reason": error.message})

    def _keep(self, held: Held) -> None:
        self._state.set_values({_KEY + held.lease: msgspec.json.encode(held)})
        self._held[held.lease] = held

    def _forget(self, lease: LeaseId) -> None:
        self._state.set_values({_KEY + lease: None})
        del self._held[lease]
        for name, leases in list(self._groups.items()):
            if lease in leases:
                self.set_group(name, [other for other in leases if other != lease])
