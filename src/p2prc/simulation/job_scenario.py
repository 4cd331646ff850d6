"""What a simulated job is like, and the luck that it has; as data, with no behaviour."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from p2prc.model.identity import NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.resources import Limits
from p2prc.model.workload import Command, Workload

SUBMITTER = NodeId("f" * 64)


@dataclass(frozen=True, slots=True)
class JobScenario:
    """A job and the luck that it has. Bad luck ends at `calm_at`; the rates are per second.

    A task lasts `duration_s` more or less `spread` of it, on the last `slow_nodes` nodes `slowness`
    times as long.
    """

    tasks: int = 24
    steps: int = 1
    nodes: int = 3
    cores: int = 2
    duration_s: float = 1.0
    lifetime_s: float = 600.0
    retries: int = 2
    failing_tasks: int = 0
    hopeless_tasks: int = 0
    broken_nodes: int = 0
    lying_nodes: int = 0
    verify: float = 0.0
    is_noisy: bool = False
    slow_nodes: int = 0
    slowness: float = 1.0
    spread: float = 0.5
    equal_cores: bool = False
    provider_crash_rate: float = 0.0
    submitter_crash_rate: float = 0.0
    death_between_effects: float = 0.0
    link_break_rate: float = 0.0
    owner_kill_rate: float = 0.0
    disk_full_s: float = 0.0
    cancel_at: float | None = None
    calm_at: float = 60.0
    ends_at: float = 2400.0


def any_luck(seed: int) -> JobScenario:
    """Return one of very many mixtures of bad luck, always the same for a seed."""
    luck = Random(seed)  # noqa: S311  it must repeat
    return JobScenario(
        tasks=luck.randint(1, 40),
        steps=luck.choice([1, 1, 2]),
        nodes=luck.randint(1, 5),
        cores=3,
        duration_s=luck.choice([0.1, 1.0, 5.0, 20.0]),
        lifetime_s=luck.choice([60.0, 600.0]),
        failing_tasks=luck.choice([0, 0, 1]),
        provider_crash_rate=luck.choice([0, 0.01, 0.05]),
        submitter_crash_rate=luck.choice([0, 0.02, 0.1]),
        death_between_effects=luck.choice([0, 0.01]),
        link_break_rate=luck.choice([0, 0.02, 0.1]),
        owner_kill_rate=luck.choice([0, 0, 0.01]),
        disk_full_s=luck.choice([0, 0, 20.0]),
        cancel_at=luck.choice([None, None, luck.uniform(0, 40)]),
    )


def job_of(scenario: JobScenario) -> Job:
    """Return the job that the scenario runs."""
    numbers = IntegerRange("i", (IntegerSpan(1, scenario.tasks),))
    steps = tuple(
        Step(
            name=f"step {number}",
            command=Command(("render", "{i}"), outputs=("out/{i}.png",)),
            workload=workload_of(scenario),
            parameters=(numbers,),
            retries=scenario.retries,
            verify=scenario.verify,
            pictures_within=4.0 if scenario.is_noisy else 0.0,
        )
        for number in range(scenario.steps)
    )
    return Job("simulated", SUBMITTER, "salt", steps)


def workload_of(scenario: JobScenario) -> Workload:
    """Return the place that each of its tasks needs."""
    return Workload(Limits(lifetime_s=scenario.lifetime_s))
