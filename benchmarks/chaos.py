"""A job of many short tasks while nodes die and the network is cut (as root, in namespaces).

`python -m benchmarks.chaos` runs 500 tasks of 0.5 to 9.5 s on five nodes. Every few seconds one of
them, the submitter too, is killed with -9 and started again some seconds later, or its cable is
pulled for a while. Then a submitter is killed for good: a keeper takes over, and a node with the
job's key collects everything. The seed fixes what happens to whom, and after how many seconds.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from tests.nat.lab import Host, Lab, open_lab, why_not
from tests.nat.nodes import LabNode, join_all
from tests.system.nodes import at_once, stop_all

from benchmarks.report import FIGURES, Figure, Record

NODES = 5
TASKS = 500
SEEDS = 20
GIVE_UP_S = 900.0
COLLECTED_WITHIN_S = 120.0
TAKEN_OVER_WITHIN_S = 15.0
_EVERY_S = (2.0, 4.0)
_AWAY_S = (1.0, 6.0)
_CUT_S = (2.0, 12.0)
_TASK = """
sleep $(( {i} * 37 % 6 )).5
if [ $(( {i} % 17 )) = 0 ]; then sleep 4; fi
echo {i} > {i}.out
"""


@dataclass(slots=True)
class Misfortune:
    """What happens to the nodes, one after another; each comes back by itself."""

    rng: Random
    nodes: list[LabNode]
    hosts: list[Host]
    kills: int = 0
    cuts: int = 0
    _back: list[tuple[float, int, Callable[[], object]]] = field(default_factory=list)
    _next_at: float = 0.0

    def strike(self) -> None:
        """Bring back who is due, and strike the next when it is time."""
        now = time.monotonic()
        for due in [each for each in self._back if each[0] <= now]:
            self._back.remove(due)
            due[2]()
        if now < self._next_at:
            return
        self._next_at = now + self.rng.uniform(*_EVERY_S)
        whole = [each for each in range(len(self.nodes)) if each not in self._struck]
        victim, is_kill = self.rng.choice(whole), self.rng.random() < 0.6
        if is_kill:
            self.kills += 1
            self.nodes[victim].kill_9()
            self._later(self.rng.uniform(*_AWAY_S), victim, self.nodes[victim].up)
        else:
            self.cuts += 1
            self.hosts[victim].link(is_up=False)
            cable = self.hosts[victim].link
            self._later(self.rng.uniform(*_CUT_S), victim, partial(cable, is_up=True))

    def _later(self, seconds: float, victim: int, bring_back: Callable[[], object]) -> None:
        self._back.append((time.monotonic() + seconds, victim, bring_back))

    def end(self) -> None:
        """Bring everybody back."""
        for _, _, bring_back in self._back:
            bring_back()
        self._back.clear()

    @property
    def _struck(self) -> set[int]:
        return {victim for _, victim, _ in self._back}


def one_seed(seed: int, tasks: int) -> dict[str, Any]:
    """Run the job through one history; return what came of it."""
    with open_lab() as lab, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        hosts, nodes = _network(lab, folder)
        luck = Misfortune(Random(seed), nodes, hosts)
        try:
            submitter, to = nodes[0], folder / "to"
            job = submitter.json(
                *("map", "--over", f"i=1-{tasks}", "--cpus", "0.5", "--memory", "256M"),
                *("--out", "*.out", "--to", str(to), "--", "sh", "-c", _TASK),
            )["id"]
            began = time.monotonic()
            shown: dict[str, Any] = {}
            while shown.get("state") not in ("succeeded", "failed", "cancelled"):
                if time.monotonic() - began > GIVE_UP_S:
                    break
                luck.strike()
                said = submitter.p2prc("--json", "job", "show", job, status=None)
                shown = said.data if said.status == 0 else shown
                time.sleep(0.2)
            luck.end()
            # What others accepted while the submitter was away comes to it last.
            came_by = time.monotonic() + COLLECTED_WITHIN_S
            while (found := _collected(to, tasks)) < tasks and time.monotonic() < came_by:
                time.sleep(0.5)
        finally:
            stop_all(nodes)
    return {
        "seed": seed,
        "seconds": round(time.monotonic() - began, 1),
        "state": shown.get("state"),
        "tasks": shown.get("tasks"),
        "collected": found,
        "kills": luck.kills,
        "cuts": luck.cuts,
        "is_whole": shown.get("state") == "succeeded" and found == tasks,
    }


def _network(lab: Lab, folder: Path) -> tuple[list[Host], list[LabNode]]:
    hosts = [lab.host(f"node{number}") for number in range(NODES)]
    nodes = [LabNode(folder, host) for host in hosts]
    at_once([node.up for node in nodes])
    join_all(nodes)
    return hosts, nodes


def _collected(to: Path, tasks: int) -> int:
    """Return how many results are there, each once and with what it should hold."""
    return sum(
        (to / f"{number}.out").is_file() and (to / f"{number}.out").read_text() == f"{number}\n"
        for number in range(1, tasks + 1)
    )


def without_submitter(tasks: int) -> dict[str, Any]:
    """Kill a submitter for good; return when a keeper carries on, and what comes of it."""
    with open_lab() as lab, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, nodes = _network(lab, folder)
        submitter, *others = nodes
        try:
            created = submitter.json(
                *("map", "--wait-safe", "--over", f"i=1-{tasks}", "--cpus", "1"),
                *("--on", ",".join(node.name for node in others), "--out", "*.out"),
                *("--to", str(folder / "lost"), "--", "sh", "-c", _TASK),
            )
            key = created["key"]
            submitter.kill_9()
            died_at = time.monotonic()
            while not any("job taken over" in node.log for node in others):
                if time.monotonic() - died_at > GIVE_UP_S:
                    raise RuntimeError("nobody takes the job over")
                time.sleep(0.05)
            took_s = time.monotonic() - died_at
            reader, to = others[-1], folder / "to"
            reader.p2prc("watch", key, timeout_s=GIVE_UP_S)
            reader.p2prc("results", key, "--to", str(to), timeout_s=GIVE_UP_S)
            found = _collected(to, tasks)
        finally:
            stop_all(nodes)
    return {"taken_over_s": round(took_s, 2), "tasks": tasks, "collected": found}


def measure(seeds: list[int], tasks: int) -> Record:
    """Run every seed, then the submitter's death."""
    if reason := why_not():
        return Record("chaos", [], {"skipped": reason}, missing=[f"a lab: {reason}"])
    runs = []
    for seed in seeds:
        runs.append(one_seed(seed, tasks))
        print(f"  {runs[-1]}", flush=True)
    last = without_submitter(60)
    print(f"  {last}", flush=True)
    figures = [
        Figure(
            f"histories in which all of {tasks} results came, each once",
            sum(run["is_whole"] for run in runs) / len(runs),
            "of all",
            at_least=1.0,
        ),
        Figure("the longest of them", max(run["seconds"] for run in runs), "s"),
        Figure("killed", sum(run["kills"] for run in runs), "times"),
        Figure("cut off", sum(run["cuts"] for run in runs), "times"),
        Figure(
            "submitter dead to a keeper carrying on",
            last["taken_over_s"],
            "s",
            at_most=TAKEN_OVER_WITHIN_S,
        ),
        Figure(
            "collected by key after the submitter's death",
            last["collected"] / last["tasks"],
            "of all",
            at_least=1.0,
        ),
    ]
    return Record("chaos", figures, {"nodes": NODES, "runs": runs, "without_submitter": last})


def main() -> int:
    """Measure, show, keep; 1 when a result was lost."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos", description=__doc__)
    parser.add_argument("--seeds", type=int, default=SEEDS, help="how many histories")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--tasks", type=int, default=TASKS)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    seeds = list(range(given.first_seed, given.first_seed + given.seeds))
    record = measure(seeds, given.tasks)
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")
    return int(not record.has_reached_all)


if __name__ == "__main__":
    sys.exit(main())
