"""How many slots each job of one node may hold where, when several want them.

Strictly by priority; among equals max-min fair in cores: slot after slot goes to the job that has
least ("progressive filling": Bertsekas and Gallager, Data Networks, 6.5.2), where it holds one
already if that can be, else where few others can go. Jobs that have as much were served equally,
or else the one that was served less comes first. A job over its share gives slots back as its
tasks end; nothing that runs is stopped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from p2prc.model.identity import JobId, NodeId

_SERVED_STEP_S = 60.0
"""So much more service makes a difference: slots that change hands all the time cost time."""

Limits = Mapping[NodeId, int] | None
"""How many slots a job may hold on each node, on others none; None is as many as it can use."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What one job wants: `wanted` slots of `slot_millis` (over 0), at most `fits` on each node.

    `held` are those that it has.
    """

    job: JobId
    priority: int
    slot_millis: int
    wanted: int
    fits: Mapping[NodeId, int]
    held: Mapping[NodeId, int] = field(default_factory=dict)
    served_s: float = 0.0


def slot_limits(
    claims: Sequence[Claim], free_millis: Mapping[NodeId, int]
) -> Mapping[JobId, Limits]:
    """Return how many slots each job may hold on each node. `free_millis` is what nobody holds."""
    if len(claims) < 2:
        return {claim.job: None for claim in claims}
    left = Counter(free_millis)
    for claim in claims:
        for node, slots in claim.held.items():
            left[node] += slots * claim.slot_millis
    contest = Counter(node for claim in claims for node in claim.fits)
    given: dict[JobId, Counter[NodeId]] = {claim.job: Counter() for claim in claims}
    waiting: list[tuple[int, int, float, JobId, int]] = []
    for number, claim in enumerate(claims):
        served = claim.served_s // _SERVED_STEP_S
        heappush(waiting, (-claim.priority, 0, served, claim.job, number))
    while waiting:
        priority, millis, served, job, number = heappop(waiting)
        claim, mine = claims[number], given[job]
        best = _best(claim, mine, left, contest) if mine.total() < claim.wanted else None
        if best is not None:
            mine[best] += 1
            left[best] -= claim.slot_millis
            heappush(waiting, (priority, millis + claim.slot_millis, served, job, number))
    return given


def _best(
    claim: Claim,
    mine: Mapping[NodeId, int],
    left: Mapping[NodeId, int],
    contest: Mapping[NodeId, int],
) -> NodeId | None:
    able = [
        node
        for node, most in claim.fits.items()
        if left[node] >= claim.slot_millis and mine[node] < most
    ]
    if not able:
        return None
    return min(
        able,
        key=lambda node: (
            mine[node] >= claim.held.get(node, 0),
            contest[node],
            -left[node],
            node,
        ),
    )
