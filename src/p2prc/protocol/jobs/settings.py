"""How patient a job's coordinator is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class CoordinatorSettings:
    """How patient a coordinator is."""

    grace_s: float = 10.0
    ask_again_s: float = 5.0
    farewell_s: float = 60.0
    blocked_after_s: float = 2.0
    storing_per_slot: int = 2
    store_tries: int = 20
    failures_in_row_limit: int = 3
    owner_rest_s: float = 30.0
    ask_full_s: float = 5.0
    alone_s: float = 5.0
    check_patience_s: float = 600.0
