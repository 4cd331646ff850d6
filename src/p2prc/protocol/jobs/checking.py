"""Results that are done again elsewhere and compared before they count (`--verify`).

Whether a result is checked is drawn when it is in: until then nobody can know, and after that its
node can change nothing, because outputs are named by their content. A result that is checked waits
here until a second node has done the same task. Two that agree are right. Where they differ, a
third node's result decides who lied; where all three differ, the work has no single result.
Colluding nodes that all lie alike are not found out, unless an honest one is asked too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random

from p2prc.model.identity import AttemptId, NodeId
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.extras import Wish
from p2prc.protocol.jobs.flights import Flight, Flights

OPINIONS_LIMIT = 3


@dataclass(slots=True)
class Check:
    """The results of one task so far, by node. `decided` are those that agree, the best first.

    `compared` says of pairs whether they show the same, None while that is being found out.
    """

    began_at: float
    opinions: dict[NodeId, Flight] = field(default_factory=dict)
    decided: list[Flight] = field(default_factory=list)
    reason: str = ""
    compared: dict[tuple[AttemptId, AttemptId], bool | None] = field(default_factory=dict)
    alone_since: float | None = None


@dataclass(frozen=True, slots=True)
class Ruling:
    """What follows from several results: which agree, who gave another; nobody agrees: both empty.

    The first of `right` is the one that came first.
    """

    right: tuple[Flight, ...]
    wrong: tuple[Flight, ...]


Same = Callable[[Flight, Flight], bool | None]
"""Whether two results are the same; None while that is being found out."""


class Checks:
    """Every task that is being checked. `share_of` says which share of a step's tasks is."""

    def __init__(self, flights: Flights, rng: Random, share_of: Callable[[int], float]) -> None:
        self._flights = flights
        self._rng = rng
        self._share_of = share_of
        self._checks: dict[TaskKey, Check] = {}

    def wants(self, flight: Flight) -> bool:
        """Draw whether this result is compared; one of a task that is being checked always is."""
        if flight.key in self._checks:
            return True
        share = self._share_of(flight.key.step)
        return share > 0 and self._rng.random() < share

    def add(self, flight: Flight, now: float) -> bool:
        """Hold a result until it is compared; False where its node gave one already."""
        check = self._checks.setdefault(flight.key, Check(now))
        if check.decided or check.opinions.get(flight.node, flight) is not flight:
            return False
        check.opinions[flight.node] = flight
        return True

    def is_chosen(self, flight: Flight) -> bool:
        """Whether this very attempt is one of those that were found right."""
        check = self._checks.get(flight.key)
        return check is not None and any(one is flight for one in check.decided)

    def get(self, key: TaskKey) -> Check | None:
        """Return the task's check."""
        return self._checks.get(key)

    def pop(self, key: TaskKey) -> Check | None:
        """Forget the task's check, and return it."""
        return self._checks.pop(key, None)

    def lost(self, flight: Flight) -> None:
        """A result is not followed any more."""
        check = self._checks.get(flight.key)
        if check is None or check.opinions.get(flight.node) is not flight:
            return
        del check.opinions[flight.node]
        check.decided = [one for one in check.decided if one is not flight]
        check.compared = {
            pair: same for pair, same in check.compared.items() if flight.attempt not in pair
        }
        if not check.opinions:
            del self._checks[flight.key]

    def undecided(self, step: int) -> Iterator[tuple[TaskKey, Check]]:
        """Yield the checks that wait for one more result, with a copy of the list."""
        for key, check in list(self._checks.items()):
            is_open = not check.decided and len(check.opinions) < OPINIONS_LIMIT
            is_open = is_open and None not in check.compared.values()
            if key.step == step and is_open and not self._is_under_way(key):
                yield key, check

    def wishes(self, step: int) -> list[Wish]:
        """Return a wish for each check that needs one more result."""
        return [Wish(key, tuple(check.opinions)) for key, check in self.undecided(step)]

    def _is_under_way(self, key: TaskKey) -> bool:
        return any(not flight.is_storing for flight in self._flights.of_task(key))


def rule(opinions: Sequence[Flight], same: Same) -> Ruling | None:
    """Return what follows from the results so far, None when another one is needed."""
    pairs = [
        (one, other, same(one, other))
        for number, one in enumerate(opinions)
        for other in opinions[number + 1 :]
    ]
    if any(is_same is None for *_, is_same in pairs):
        return None
    for one in opinions:
        # Alike is not the same as equal: who is like any of those that agree has not lied.
        right = [one, *(other for first, other, is_same in pairs if first is one and is_same)]
        if len(right) > 1:
            friends = {
                other.attempt: None
                for pair in pairs
                if pair[2] and (pair[0] in right or pair[1] in right)
                for other in pair[:2]
            }
            wrong = tuple(each for each in opinions if each.attempt not in friends)
            return Ruling(tuple(right), wrong)
    return Ruling((), ()) if len(opinions) >= OPINIONS_LIMIT else None
