"""What a run showed: how fast the nodes agreed with the truth, what it cost, who was wronged."""

from __future__ import annotations

import msgspec


class Milestone(msgspec.Struct, frozen=True):
    """Something happened, and so much later every node's picture was right again.

    `settled_after_s` is None when it was not before the next thing happened, or never.
    """

    name: str
    at_s: float
    settled_after_s: float | None


class Report(msgspec.Struct, frozen=True):
    """The outcome of one run; the same scenario and seed give the same report everywhere.

    `false_suspicions` and `false_deaths` count (observer, node) pairs: a node was there and
    reachable, and an observer held it for suspect or dead. `trace` is a hash of all changes.
    """

    scenario: str
    seed: int
    nodes: int
    duration_s: float
    milestones: tuple[Milestone, ...]
    wrong_at_end: int
    false_suspicions: int
    false_deaths: int
    bytes_per_node_per_s: float
    messages_per_node_per_s: float
    connections_mean: float
    refusals: dict[str, int]
    trace: str

    @property
    def is_settled(self) -> bool:
        """Whether every node's picture was right at the end."""
        return self.wrong_at_end == 0
