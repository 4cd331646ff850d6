"""Long runs of the simulations: many seeds, all cores, what they showed taken together."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import msgspec

from benchmarks.report import Figure, Record
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.simulation import Report, load_scenario, run_scenario, scenario_names, with_nodes
from p2prc.simulation.checks import FALSE_DEATHS
from p2prc.simulation.job_history import PromiseBroken
from p2prc.simulation.job_scenario import any_luck
from p2prc.simulation.jobs import run_job

NODES = 100
_CORES = len(os.sched_getaffinity(0))
_JOBS_AT_ONCE = 50

CHURN_NODE_HOURS = 3_000
_NEVER_QUIET = ("churn", "liar")
"""Scenarios in which something goes on until the end."""


# -- membership -------------------------------------------------------------------------------


def membership(seeds: int) -> Record:
    """Run every scenario that ships with a hundred nodes and so many seeds."""
    runs = [Run(name, seed, NODES) for name in scenario_names() for seed in range(1, seeds + 1)]
    found = _reports(runs)
    figures: list[Figure] = []
    for name in scenario_names():
        figures += _scenario_figures(name, [one for one in found if one.scenario == name])
    return Record(
        "membership", figures, {"seeds": seeds, "nodes": NODES, "runs": list(map(_kept, found))}
    )


def scale(seeds: int, churn_node_hours: float = CHURN_NODE_HOURS) -> Record:
    """Run large networks: how soon all know, who is wronged, and what an idle node sends."""
    numbers = range(1, seeds + 1)
    churn = max(1, seeds // 2)
    groups = {
        "change, 1,000 nodes": [Run("change", seed, 1_000, ends_at_s=22) for seed in numbers],
        "change, 10,000 nodes": [Run("change", seed, 10_000, ends_at_s=22) for seed in numbers],
        "death, 1,000 nodes": [Run("death", seed, 1_000) for seed in numbers],
        "heal, 1,000 nodes": [Run("heal", seed, 1_000) for seed in list(numbers)[:5]],
        "idle, 1,000 nodes": [Run("idle", seed, 1_000) for seed in range(1, 3)],
        "churn, 1,000 nodes": [
            # Altogether a little more than CHURN_NODE_HOURS.
            Run("churn", seed, 1_000, ends_at_s=churn_node_hours * 3.6 / churn + 60)
            for seed in range(1, churn + 1)
        ],
    }
    figures: list[Figure] = []
    kept: dict[str, Any] = {}
    for title, runs in groups.items():
        found = _reports(runs)
        figures += _promises(title, found)
        kept[title] = list(map(_kept, found))
    return Record("scale", figures, {"seeds": seeds, "runs": kept})


def _promises(title: str, reports: Sequence[Report]) -> list[Figure]:
    """Return what the scenario wants checked, over all seeds taken together."""
    figures = []
    node_hours = sum(found.node_hours for found in reports)
    deaths = sum(found.false_deaths for found in reports)
    for check in reports[0].checks:
        values = [
            one.value for found in reports for one in found.checks if one.title == check.title
        ]
        if check.title == FALSE_DEATHS:
            value = deaths / node_hours * 1000
        else:
            # One that was never known to all counts as the slowest.
            value = statistics.median(math.inf if one is None else one for one in values)
        figures.append(Figure(f"{title}: {check.title}", value, check.unit, at_most=check.at_most))
    doubts = sum(found.false_suspicions for found in reports) / node_hours * 1000
    figures.append(Figure(f"{title}: false suspicions in 1,000 node-hours", doubts))
    if deaths:
        figures.append(Figure(f"{title}: node-hours", node_hours))
    return figures


@dataclass(frozen=True, slots=True)
class Run:
    """One run to be made: a scenario that ships, perhaps shorter or longer than it is."""

    scenario: str
    seed: int
    nodes: int
    ends_at_s: float | None = None


def _reports(runs: Sequence[Run]) -> list[Report]:
    with ProcessPoolExecutor(_CORES) as pool:
        return list(pool.map(_run, runs))


def _run(run: Run) -> Report:
    scenario = load_scenario(run.scenario)
    if (end_s := run.ends_at_s) is not None:
        happenings = tuple(one for one in scenario.happenings if one.at_s < end_s)
        churn = scenario.churn
        if churn is not None:
            churn = msgspec.structs.replace(churn, until_s=end_s - 40)
        scenario = msgspec.structs.replace(
            scenario, duration_s=end_s, happenings=happenings, churn=churn
        )
    return run_scenario(with_nodes(scenario, run.nodes), run.seed)


def _kept(report: Report) -> dict[str, Any]:
    """Return what is worth keeping of one run: not every moment of it."""
    small = msgspec.structs.replace(report, samples=(), milestones=report.milestones[:20])
    found: dict[str, Any] = msgspec.to_builtins(small)
    return found


def _scenario_figures(name: str, reports: Sequence[Report]) -> list[Figure]:
    """Return what became of one scenario, over all of its seeds."""
    unsettled = sum(not found.is_settled for found in reports)
    # A liar goes on lying to the end, and churn does not wait for it.
    allowed = None if name in _NEVER_QUIET else 0
    figures = [Figure(f"{name}: runs that end with a wrong picture", unsettled, at_most=allowed)]
    deaths = sum(found.false_deaths for found in reports)
    figures.append(Figure(f"{name}: reachable nodes held for dead", deaths, at_most=0))
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
