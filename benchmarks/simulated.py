"""Long runs of the simulations: many seeds, all cores, what they showed taken together."""

from __future__ import annotations

import hashlib
import math
import os
import statistics
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.report import FIGURES, REPOSITORY, Figure, Record
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
_SIMULATED_ROOMS = ("protocol", "simulation", "model")
_SIMULATED_FILES = (".py", ".toml", ".json", ".yaml")
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
    groups = {
        "heal, 1,000 nodes": [Run("heal", seed, 1_000) for seed in list(numbers)[:5]],
        "idle, 1,000 nodes": [Run("idle", seed, 1_000) for seed in range(1, 3)],
        "change, 1,000 nodes": [Run("change", seed, 1_000, ends_at_s=22) for seed in numbers],
        "death, 1,000 nodes": [Run("death", seed, 1_000) for seed in numbers],
        "churn, 100 nodes": _churn(100, churn_node_hours, max(1, seeds // 2)),
        "churn, 1,000 nodes": _churn(1_000, churn_node_hours / 20, 2),
        "change, 10,000 nodes": [Run("change", seed, 10_000, ends_at_s=22) for seed in numbers],
    }
    figures: list[Figure] = []
    kept: dict[str, Any] = {}
    for title, runs in groups.items():
        found = _reports(runs)
        figures += _promises(title, found)
        kept[title] = list(map(_kept, found))
    return Record("scale", figures, {"seeds": seeds, "runs": kept})


def _churn(nodes: int, node_hours: float, seeds: int) -> list[Run]:
    """Return runs with churn that are altogether a little longer than so many node-hours.

    Each node that goes or comes costs every node some messages: what a node-hour costs to
    simulate grows with the network. So most of them are lived in a small one.
    """
    each_s = node_hours * 3_600 / nodes / seeds + 60
    return [Run("churn", seed, nodes, ends_at_s=each_s) for seed in range(1, seeds + 1)]


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

    def __str__(self) -> str:
        ends = "" if self.ends_at_s is None else f"-{self.ends_at_s:g}s"
        return f"{self.scenario}-{self.nodes}{ends}-seed{self.seed}"


def _reports(runs: Sequence[Run]) -> list[Report]:
    """Make those runs that this very code has not made before; tell how far they are."""
    finished = FinishedRuns.of_this_code()
    with ProcessPoolExecutor(_CORES) as pool:
        made = {pool.submit(_run, run): run for run in runs if finished.find(run) is None}
        for number, future in enumerate(as_completed(made), 1):
            run, began = made[future], time.strftime("%H:%M:%S")
            finished.keep(run, future.result())
            print(f"{began} {number} of {len(made)}: {run}", flush=True)
    reports = [finished.find(run) for run in runs]
    return [report for report in reports if report is not None]


@dataclass(frozen=True, slots=True)
class FinishedRuns:
    """What runs showed that ended before: hours of them survive an interruption.

    The folder is named by the code that was run, so that a change of it begins anew.
    """

    folder: Path

    @classmethod
    def of_this_code(cls) -> FinishedRuns:
        """Return those of the protocol and the simulation as they are now."""
        code = hashlib.sha256()
        for room in _SIMULATED_ROOMS:
            for file in sorted((REPOSITORY / "src/p2prc" / room).rglob("*.*")):
                if file.suffix in _SIMULATED_FILES:
                    code.update(file.read_bytes())
        return cls(FIGURES / "tmp" / code.hexdigest()[:16])

    def find(self, run: Run) -> Report | None:
        """Return what became of a run, None if it has not ended yet."""
        try:
            return msgspec.json.decode((self.folder / f"{run}.json").read_bytes(), type=Report)
        except FileNotFoundError:
            return None

    def keep(self, run: Run, report: Report) -> None:
        """Keep what became of a run, without every moment of it."""
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = self.folder / f"{run}.part"
        unfinished.write_bytes(msgspec.json.encode(msgspec.structs.replace(report, samples=())))
        unfinished.replace(self.folder / f"{run}.json")


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
