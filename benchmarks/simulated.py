"""Long runs of the simulations: many seeds, all cores, what they showed taken together."""

from __future__ import annotations

import os
import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import msgspec

from benchmarks.report import Figure, Record
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.simulation import Report, load_scenario, run_scenario, scenario_names
from p2prc.simulation.job_history import PromiseBroken
from p2prc.simulation.job_scenario import any_luck
from p2prc.simulation.jobs import run_job

NODES = 100
_CORES = len(os.sched_getaffinity(0))
_JOBS_AT_ONCE = 50

_NEVER_HELD_DEAD = ("join", "leave", "liar")
"""Scenarios in which no reachable node may ever be held for dead."""


# -- membership -------------------------------------------------------------------------------


def membership(seeds: int) -> Record:
    """Run every scenario that ships with a hundred nodes and so many seeds."""
    tasks = [(name, seed) for name in scenario_names() for seed in range(1, seeds + 1)]
    with ProcessPoolExecutor(_CORES) as pool:
        reports = list(pool.map(_run_scenario, tasks))
    figures: list[Figure] = []
    for name in scenario_names():
        figures += _scenario_figures(name, [found for found in reports if found.scenario == name])
    return Record(
        "membership",
        figures,
        {"seeds": seeds, "nodes": NODES, "runs": [msgspec.to_builtins(found) for found in reports]},
    )


def _run_scenario(task: tuple[str, int]) -> Report:
    name, seed = task
    return run_scenario(msgspec.structs.replace(load_scenario(name), nodes=NODES), seed)


def _scenario_figures(name: str, reports: Sequence[Report]) -> list[Figure]:
    """Return what became of one scenario, over all of its seeds."""
    unsettled = sum(not found.is_settled for found in reports)
    figures = [Figure(f"{name}: runs that end with a wrong picture", unsettled, at_most=0)]
    deaths = sum(found.false_deaths for found in reports)
    allowed = 0 if name in _NEVER_HELD_DEAD else None
    figures.append(Figure(f"{name}: reachable nodes held for dead", deaths, at_most=allowed))
    for title, settled in _settled(reports).items():
        known = f"{name}: {title}, known to all"
        in_time = [taken for taken in settled if taken is not None]
        if overtaken := len(settled) - len(in_time):
            figures.append(Figure(f"{name}: {title}, overtaken by the next event", overtaken))
        if in_time:
            figures.append(Figure(f"{known}: median", statistics.median(in_time), "s"))
            figures.append(Figure(f"{known}: slowest seed", max(in_time), "s"))
    sent = statistics.median(found.bytes_per_node_per_s for found in reports)
    figures.append(Figure(f"{name}: sent by each node", sent / 1000, "kB/s"))
    return figures


def _settled(reports: Sequence[Report]) -> dict[str, list[float | None]]:
    """Return how long each kind of happening took; None where the next one came first."""
    found: dict[str, list[float | None]] = {}
    for report in reports:
        for milestone in report.milestones:
            found.setdefault(milestone.name, []).append(milestone.settled_after_s)
    return found


# -- jobs -------------------------------------------------------------------------------------


def jobs(seeds: int) -> Record:
    """Run so many jobs, each with another mixture of bad luck; every promise must hold."""
    with ProcessPoolExecutor(_CORES) as pool:
        results = list(pool.map(_run_job, range(seeds), chunksize=_JOBS_AT_ONCE))
    broken = [result["broken"] for result in results if result["broken"]]
    states = Counter(result["state"] for result in results if not result["broken"])
    tasks = sum(result["tasks"] for result in results)
    starts = sum(result["starts"] for result in results)
    figures = [
        Figure("jobs with bad luck that broke a promise", len(broken), at_most=0),
        Figure("jobs that neither succeeded nor were cancelled", states["failed"], at_most=0),
        Figure("jobs that succeeded", states["succeeded"]),
        Figure("jobs cancelled while they ran, and stayed so", states["cancelled"]),
        Figure("tasks accepted in all", tasks),
        Figure("attempts for each task accepted", starts / max(tasks, 1)),
    ]
    return Record("jobs", figures, {"seeds": seeds, "broken": broken})


def _run_job(seed: int) -> dict[str, Any]:
    try:
        world = run_job(any_luck(seed), seed)
    except PromiseBroken as broken:
        return {"broken": str(broken), "state": "", "tasks": 0, "starts": 0}
    return {
        "broken": "",
        "state": Ledger(world.job, world.history.facts).state,
        "tasks": len(world.history.accepted),
        "starts": world.history.starts,
    }
