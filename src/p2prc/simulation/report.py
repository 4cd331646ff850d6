"""What a run showed: how fast the nodes agreed with the truth, what it cost, who was wronged."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

import msgspec


class Milestone(msgspec.Struct, frozen=True):
    """Something happened, and so much later every node's picture was right again.

    `settled_after_s` is None when it was not before the next such thing, or never; `half_after_s`
    when half of those that were wrong knew; `node` is None when it concerned everybody.
    """

    name: str
    at_s: float
    settled_after_s: float | None
    half_after_s: float | None = None
    node: int | None = None


class Convergence(msgspec.Struct, frozen=True):
    """How long one kind of happening took to be known to all; `overtaken` ones never were."""

    name: str
    count: int
    overtaken: int
    half_s: float | None
    median_s: float | None
    slowest_s: float | None


class Verdict(msgspec.Struct, frozen=True):
    """A figure that the scenario wants checked; `value` is None when it cannot be told."""

    title: str
    value: float | None
    at_most: float
    ok: bool
    unit: str = ""


class Sample(msgspec.Struct, frozen=True, array_like=True):
    """One moment: whose picture is right, and what is sent meanwhile.

    `right`: the share of nodes that know everything; `right_pairs`: how much of all that is to be
    known is known.
    """

    at_s: float
    right: float
    right_pairs: float
    bytes_per_node_per_s: float
    relayed_bytes_per_node_per_s: float


class Report(msgspec.Struct, frozen=True):
    """The outcome of one run; the same scenario and seed give the same report everywhere.

    `false_suspicions` and `false_deaths` count nodes: one was there and reachable, and somebody
    held it for suspect or dead. Their `views` count each (observer, node) pair. Bytes are those
    sent, with everything that the line carries. `trace` is a hash of all changes.
    """

    scenario: str
    seed: int
    nodes: int
    duration_s: float
    node_hours: float
    milestones: tuple[Milestone, ...]
    convergence: tuple[Convergence, ...]
    wrong_at_end: int
    false_suspicions: int
    false_deaths: int
    false_suspicion_views: int
    false_death_views: int
    bytes_per_node_per_s: float
    bytes_per_node_per_s_max: float
    idle_bytes_per_node_per_s: float
    relayed_bytes: float
    messages_per_node_per_s: float
    connections_mean: float
    connections_relayed_share: float
    refusals: dict[str, int]
    checks: tuple[Verdict, ...]
    samples: tuple[Sample, ...]
    trace: str

    @property
    def is_settled(self) -> bool:
        """Whether every node's picture was right at the end."""
        return self.wrong_at_end == 0

    @property
    def has_met_all(self) -> bool:
        """Whether no check failed."""
        return all(check.ok for check in self.checks)


def convergence_of(milestones: Iterable[Milestone]) -> tuple[Convergence, ...]:
    """Sum up the milestones by name, in the order in which they first came."""
    by_name: dict[str, list[Milestone]] = {}
    for milestone in milestones:
        by_name.setdefault(milestone.name, []).append(milestone)
    found = []
    for name, ones in by_name.items():
        settled = [one.settled_after_s for one in ones if one.settled_after_s is not None]
        halves = [one.half_after_s for one in ones if one.half_after_s is not None]
        found.append(
            Convergence(
                name=name,
                count=len(ones),
                overtaken=len(ones) - len(settled),
                half_s=statistics.median(halves) if halves else None,
                median_s=statistics.median(settled) if settled else None,
                slowest_s=max(settled) if settled else None,
            )
        )
    return tuple(found)
