"""No-op Python functions through `p2prc.Executor`, Dask and processes of this machine."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context

import p2prc
from benchmarks import rivals
from benchmarks.network import MeasuredNode
from benchmarks.report import Figure
from benchmarks.work import Contender, Race

FUNCTIONS = 2000
WORKERS = 3
TARGET_RATE = 1000.0


def same(value: int) -> int:
    """Return what was given: nothing but the way there and back is measured."""
    return value


@contextmanager
def function_race(node: MeasuredNode, dask: rivals.Dask | None) -> Iterator[Race]:
    """The race of no-op functions; all contenders have three warm workers."""
    with (
        p2prc.Executor(WORKERS, home=node.home) as ours,
        ProcessPoolExecutor(WORKERS, mp_context=get_context("spawn")) as processes,
    ):
        race = Race({"p2prc.Executor": _calls(ours), "ProcessPoolExecutor": _calls(processes)})
        if dask is not None:
            race.contenders["dask functions"] = lambda: dask.seconds(FUNCTIONS, "function")
        for contender in race.contenders.values():
            contender()  # Workers start.
        yield race


def _calls(executor: Executor) -> Contender:
    def calls() -> float:
        began = time.perf_counter()
        found = list(executor.map(same, range(FUNCTIONS)))
        took_s = time.perf_counter() - began
        assert found == list(range(FUNCTIONS))
        return took_s

    return calls


def figures(race: Race) -> list[Figure]:
    """Return our rate, and what it is of the others'."""
    found = []
    for name in race.contenders:
        median_s = race.median_s(name)
        assert median_s is not None
        target = TARGET_RATE if name == "p2prc.Executor" else None
        found.append(Figure(f"no-op functions: {name}", FUNCTIONS / median_s, "/s", target))
    for name in race.contenders:
        ratio = race.ratio("p2prc.Executor", name)
        if name != "p2prc.Executor" and ratio is not None:
            found.append(Figure(f"no-op functions: p2prc.Executor / {name}", ratio, "x"))
    return found
