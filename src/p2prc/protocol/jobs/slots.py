"""The slots of a job, and what it thinks of the nodes that lend them.

A slot is a lease for one task at a time. `room` is how many more the node seems to have: set by
each new offer, less what was asked for since, because an offer may be older than the last request.
A node that refuses or loses work rests for a time that doubles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from random import Random

from p2prc.model.identity import AttemptId, LeaseId, NodeId
from p2prc.model.workload import Workload
from p2prc.protocol.placement import NodeOffer, fitting_now, why_not

SLOTS_PER_NODE_LIMIT = 256
SLOTS_LIMIT = 2000
FIRST_REST_S = 1.0
LONGEST_REST_S = 60.0


@dataclass(slots=True)
class Slot:
    """One lease: opening until `opened_at`, then idle or busy with one attempt."""

    node: NodeId
    lease: LeaseId
    opened_at: float | None = None
    attempt: AttemptId | None = None
    is_hopeful: bool = False
    """Asked for although the node said that it is full."""


@dataclass(slots=True)
class Standing:
    """What this job thinks of one node.

    `rest_until` forbids new slots, `avoid_until` new attempts too. `asked_at` is set while we do
    not know what the node holds; from `grace_until` on, what it held counts as lost. `left_out`
    says why the job gives it nothing more. From `hope_at` on it may be asked although it is full.
    """

    node: NodeId
    offer: NodeOffer | None = None
    room: int = 0
    slots: dict[LeaseId, Slot] = field(default_factory=dict)
    storing: int = 0
    strikes: int = 0
    rest_until: float = 0.0
    avoid_until: float = 0.0
    is_resting: bool = False
    failures_in_row: int = 0
    successes: int = 0
    asked_at: float | None = None
    grace_until: float | None = None
    left_out: str = ""
    hope_at: float = 0.0

    def is_usable(self, now: float) -> bool:
        """Whether it may be given attempts."""
        return self.asked_at is None and self.avoid_until <= now and not self.left_out

    def may_open(self, now: float) -> bool:
        """Whether it may be asked for one more slot."""
        return self.room > 0 and self.rest_until <= now and self.is_usable(now)

    @property
    def opened(self) -> int:
        """How many slots it granted."""
        return sum(slot.opened_at is not None for slot in self.slots.values())

    @property
    def name(self) -> str:
        """The node's name, or the start of its id."""
        return self.offer.name if self.offer is not None else self.node[:10]


class Slots:
    """Every slot, by lease and by node."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._standings: dict[NodeId, Standing] = {}
        self._slots: dict[LeaseId, Slot] = {}
        self._idle: dict[LeaseId, None] = {}
        self._opening = 0

    # -- nodes

    def standing(self, node: NodeId) -> Standing:
        """Return what we think of the node; a new one has a clean slate."""
        found = self._standings.get(node)
        if found is None:
            found = self._standings[node] = Standing(node)
        return found

    def standings(self) -> Iterator[Standing]:
        """Yield every node that we ever heard of."""
        return iter(self._standings.values())

    def set_offers(self, offers: Iterable[NodeOffer], workload: Workload) -> None:
        """Take the nodes' newest words; what did not change keeps its count of room."""
        by_node = {offer.node: offer for offer in offers}
        for node, offer in by_node.items():
            standing = self.standing(node)
            if standing.offer != offer:
                standing.offer = offer
                standing.room = _room(standing, workload)
        for node, standing in self._standings.items():
            if node not in by_node:
                standing.offer, standing.room = None, 0

    def reconsider(self, workload: Workload) -> None:
        """Count room again, for other work than before."""
        for standing in self._standings.values():
            standing.room = _room(standing, workload)

    def rest(self, standing: Standing, now: float, *, at_least_s: float = 0.0) -> None:
        """Ask the node for no slot for a while; the while doubles."""
        # Many slots that end together are one misfortune.
        standing.strikes += not standing.is_resting
        pause_s = min(FIRST_REST_S * 2 ** min(standing.strikes - 1, 10), LONGEST_REST_S)
        standing.rest_until = max(standing.rest_until, now + max(pause_s, at_least_s))
        standing.is_resting = True
        standing.room = 0

    def end_rest(self, standing: Standing, workload: Workload) -> None:
        """Try the node again, with one slot first: its offer may be as stale as before."""
        standing.is_resting = False
        standing.room = min(1, _room(standing, workload))

    def give_way(self, standing: Standing, until: float) -> None:
        """Ask the node for no slot until then: others have their turn."""
        standing.rest_until = max(standing.rest_until, until)
        standing.is_resting = True
        standing.room = 0

    def full(self, workload: Workload, now: float) -> Iterator[Standing]:
        """Yield the nodes that others fill, and of which the job holds half at most.

        They may be asked all the same: only so they learn who waits for a part of them.
        """
        for standing in self._standings.values():
            offer = standing.offer
            if offer is None or standing.room > 0 or standing.is_resting:
                continue
            if not standing.is_usable(now) or standing.rest_until > now:
                continue
            if why_not(offer, workload) is not None or fitting_now(offer, workload):
                continue
            if 2 * len(standing.slots) <= offer.lent.times_it_fits(workload.limits):
                yield standing

    # -- slots

    @property
    def pending(self) -> int:
        """How many slots wait for a task or will."""
        return len(self._idle) + self._opening

    @property
    def opened(self) -> int:
        """How many slots are granted."""
        return len(self._slots) - self._opening

    @property
    def is_opening(self) -> bool:
        """Whether an answer to a request is outstanding."""
        return self._opening > 0

    def __len__(self) -> int:
        return len(self._slots)

    def get(self, node: NodeId, lease: LeaseId) -> Slot | None:
        """Return the slot, if it is this node's."""
        slot = self._slots.get(lease)
        return slot if slot is not None and slot.node == node else None

    def idle(self) -> list[Slot]:
        """Return the slots that wait for a task."""
        return [self._slots[lease] for lease in self._idle]

    def all(self) -> list[Slot]:
        """Return every slot."""
        return list(self._slots.values())

    def plan(
        self, wanted: int, now: float, *, is_wanted: Callable[[Standing], bool]
    ) -> list[NodeId]:
        """Return whom to ask for a slot each: every node in turn, the emptiest first."""
        wanted = min(wanted, SLOTS_LIMIT - len(self._slots))
        if wanted <= 0:
            return []
        able = [one for one in self._standings.values() if one.may_open(now) and is_wanted(one)]
        self._rng.shuffle(able)
        able.sort(key=lambda standing: -standing.room)
        planned: list[NodeId] = []
        turn = 0
        while able and len(planned) < wanted:
            able = [standing for standing in able if standing.room > turn]
            planned += [standing.node for standing in able]
            turn += 1
        return planned[:wanted]

    def opening(self) -> list[Slot]:
        """Return the slots that were asked for and are not granted yet."""
        if not self._opening:
            return []
        return [slot for slot in self._slots.values() if slot.opened_at is None]

    def begin(self, node: NodeId, lease: LeaseId, *, is_hopeful: bool = False) -> None:
        """Count a slot that was asked for."""
        slot = self._slots[lease] = Slot(node, lease, is_hopeful=is_hopeful)
        standing = self.standing(node)
        standing.slots[lease] = slot
        standing.room -= 1
        self._opening += 1

    def opened_at(self, slot: Slot, now: float) -> None:
        """Count a slot as granted, and idle."""
        if slot.opened_at is None:
            slot.opened_at = now
            self._opening -= 1
            self._idle[slot.lease] = None

    def adopt(self, node: NodeId, lease: LeaseId, attempt: AttemptId | None, now: float) -> None:
        """Count a slot that an earlier life of ours opened."""
        slot = self._slots[lease] = Slot(node, lease, opened_at=now, attempt=attempt)
        self.standing(node).slots[lease] = slot
        if attempt is None:
            self._idle[lease] = None

    def occupy(self, slot: Slot, attempt: AttemptId) -> None:
        """Give the slot its task."""
        slot.attempt = attempt
        del self._idle[slot.lease]

    def release(self, slot: Slot) -> None:
        """Let the slot wait for its next task."""
        slot.attempt = None
        self._idle[slot.lease] = None

    def remove(self, slot: Slot) -> None:
        """Forget the slot: its room is free again, as far as we know."""
        del self._slots[slot.lease]
        self._idle.pop(slot.lease, None)
        self._opening -= slot.opened_at is None
        standing = self.standing(slot.node)
        del standing.slots[slot.lease]
        if standing.offer is not None and not standing.is_resting:
            standing.room += 1


def _room(standing: Standing, workload: Workload) -> int:
    offer = standing.offer
    if offer is None or standing.is_resting or why_not(offer, workload) is not None:
        return 0
    ceiling = min(offer.lent.times_it_fits(workload.limits), SLOTS_PER_NODE_LIMIT)
    return max(0, min(fitting_now(offer, workload), ceiling - len(standing.slots)))
