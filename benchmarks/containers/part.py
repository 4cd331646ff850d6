"""What one part of the measurements returns, and how many times make a figure."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.report import Figure

Took = defaultdict[str, list[float]]
"""Seconds, time by time, of each thing that was timed."""


@dataclass(frozen=True, slots=True)
class Part:
    """The figures of one part, every time behind them, and what was not there to be measured."""

    figures: Sequence[Figure]
    times_s: dict[str, list[float]] = field(default_factory=dict)
    missing: Sequence[str] = ()


def nothing_taken() -> Took:
    """Return an empty book of times."""
    return defaultdict(list)


def median_ms(took_s: Sequence[float]) -> float:
    """Return the median in milliseconds."""
    return 1000 * statistics.median(took_s)
