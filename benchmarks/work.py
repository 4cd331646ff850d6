"""Commands through the product beside the same commands without it, on the same machine.

Contenders take turns, round after round, and the median of each counts: a machine that is busy
with something else is then unfair to all.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import rivals
from benchmarks.network import MeasuredNode
from benchmarks.report import Figure

COMMANDS = 300
ROUNDS = 5
LATENCY_RUNS = 20
TARGET_RATE_RATIO = 0.5
TARGET_LATENCY_MS = 150.0
INPUT_BYTES = 256 << 20
INPUT_ROUNDS = 3
_MILLIS = 1000

Contender = Callable[[], float]
"""Does the work once and returns the seconds it took."""


@dataclass(slots=True)
class Race:
    """Seconds of every contender, round by round."""

    contenders: dict[str, Contender]
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def run(self, rounds: int) -> None:
        """Let all take turns; who begins changes from round to round."""
        names = list(self.contenders)
        for number in range(rounds):
            first = number % len(names)
            for name in names[first:] + names[:first]:
                self.seconds.setdefault(name, []).append(self.contenders[name]())

    def median_s(self, name: str) -> float | None:
        """Return a contender's median, None when it was not there."""
        return statistics.median(self.seconds[name]) if name in self.seconds else None

    def ratio(self, ours: str, theirs: str) -> float | None:
        """Return our rate divided by theirs."""
        our_s, their_s = self.median_s(ours), self.median_s(theirs)
        return None if our_s is None or their_s is None else their_s / our_s


def map_race(node: MeasuredNode, dask: rivals.Dask | None) -> Race:
    """Return the race of no-op commands, plain and each in a sandbox of its own."""

    def ours(*options: str) -> Contender:
        over = ("--over", f"i=1-{COMMANDS}", "--", "true")
        return lambda: rivals.timed(node.argv("map", "--watch", *options, *over))

    race = Race({"p2prc map": ours(), "p2prc map --isolate": ours("--isolate")})
    if rivals.has_parallel():
        race.contenders["parallel true"] = lambda: rivals.parallel_s(["true"], COMMANDS)
    if rivals.has_parallel() and rivals.has_bubblewrap():
        race.contenders["parallel bwrap true"] = lambda: rivals.parallel_s(rivals.BWRAP, COMMANDS)
    if dask is not None:
        race.contenders["dask subprocess true"] = lambda: dask.seconds(COMMANDS)
    return race


def map_figures(race: Race) -> list[Figure]:
    """Return our rates, and what they are of the others'."""
    return [
        *_rate_figures(race),
        *_ratio(race, "p2prc map", "parallel true", at_least=TARGET_RATE_RATIO),
        *_ratio(race, "p2prc map", "dask subprocess true"),
        *_ratio(race, "p2prc map --isolate", "parallel bwrap true", at_least=TARGET_RATE_RATIO),
    ]


def _rate_figures(race: Race) -> list[Figure]:
    return [
        Figure(f"{COMMANDS} no-op commands: {name}", COMMANDS / statistics.median(times), "/s")
        for name, times in race.seconds.items()
    ]


def _ratio(race: Race, ours: str, theirs: str, *, at_least: float | None = None) -> list[Figure]:
    ratio = race.ratio(ours, theirs)
    if ratio is None:
        return []
    return [Figure(f"rate: {ours} / {theirs}", round(ratio, 3), "x", at_least=at_least)]


def latency_race(node: MeasuredNode) -> Race:
    """Return the race of one no-op command, from the command line to its exit."""
    race = Race(
        {"p2prc run any -- true": lambda: rivals.timed(node.argv("run", "any", "--", "true"))}
    )
    if rivals.has_bubblewrap():
        race.contenders["bwrap true"] = lambda: rivals.timed(rivals.BWRAP)
    return race


def latency_figures(race: Race) -> list[Figure]:
    """Return how long one command takes."""
    ours_s, theirs_s = race.median_s("p2prc run any -- true"), race.median_s("bwrap true")
    assert ours_s is not None
    figures = [
        Figure(
            f"`p2prc run any -- true` to exit, median of {LATENCY_RUNS}",
            ours_s * _MILLIS,
            "ms",
            at_most=TARGET_LATENCY_MS,
        )
    ]
    if theirs_s is not None:
        figures.append(Figure("`bwrap ... true` to exit", theirs_s * _MILLIS, "ms"))
        figures.append(Figure("time: run any / bwrap", round(ours_s / theirs_s, 2), "x"))
    return figures


def input_figures(node: MeasuredNode, target: str, folder: Path) -> list[Figure]:
    """Return how fast a new large input reaches another node, all that it takes included.

    That is: copied and hashed into the store here, sent, hashed and written there, laid into a
    sandbox. No rival does as much, so there is no ratio.
    """
    times = []
    for number in range(INPUT_ROUNDS):
        path = folder / f"input-{number}"
        path.write_bytes(os.urandom(INPUT_BYTES))
        times.append(rivals.timed(node.argv("run", target, "--in", str(path), "--", "true")))
        path.unlink()
    rate = INPUT_BYTES / statistics.median(times) / 1e6
    title = f"`run` with a new input of {INPUT_BYTES >> 20} MiB on another node"
    return [Figure(title, rate, "MB/s")]


def details(races: dict[str, Race]) -> dict[str, Any]:
    """Return every measured second, for whoever doubts a median."""
    return {
        title: {name: [round(taken, 4) for taken in times] for name, times in race.seconds.items()}
        for title, race in races.items()
    }
