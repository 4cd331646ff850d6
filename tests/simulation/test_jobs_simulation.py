"""Claims about the shipped coordinator against the shipped lease book, with bad luck by seed.

The world itself objects (`PromiseBroken`, with the seed) when a task is accepted twice, a finished
one runs again, a node gets more slots than it offers, an outcome is forgotten before it is
durable, anything starts after a cancellation, or the job does not end.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random

import pytest

from p2prc.protocol.jobs.ledger import Ledger
from p2prc.simulation.job_scenario import JobScenario, any_luck
from p2prc.simulation.jobs import JobWorld, run_job


def state_of(world: JobWorld) -> str:
    return Ledger(world.job, world.history.facts).state


def all_tasks(scenario: JobScenario) -> int:
    return scenario.tasks * scenario.steps


def test_without_bad_luck_every_task_runs_once_and_on_all_nodes() -> None:
    for seed in range(20):
        world = run_job(JobScenario(tasks=30, nodes=3), seed)
        assert state_of(world) == "succeeded"
        assert world.history.starts == 30
        assert len(set(world.history.accepted.values())) == 3
        assert len(world.placed) == 30


def test_providers_that_die_delay_a_job_and_lose_nothing() -> None:
    repeated = 0
    for seed in range(100):
        scenario = JobScenario(tasks=30, duration_s=3.0, provider_crash_rate=0.04)
        world = run_job(scenario, seed)
        assert state_of(world) == "succeeded"
        repeated += world.history.starts - 30
    # The bad luck was real.
    assert repeated > 50


def test_a_submitter_that_dies_between_any_two_effects_carries_on() -> None:
    for seed in range(150):
        scenario = JobScenario(
            tasks=30, duration_s=2.0, submitter_crash_rate=0.05, death_between_effects=0.02
        )
        assert state_of(run_job(scenario, seed)) == "succeeded"


def test_links_that_break_repeat_no_finished_task() -> None:
    for seed in range(100):
        scenario = JobScenario(tasks=30, duration_s=2.0, link_break_rate=0.1)
        assert state_of(run_job(scenario, seed)) == "succeeded"


def test_owners_may_end_every_lease_at_any_time() -> None:
    for seed in range(50):
        scenario = JobScenario(tasks=30, duration_s=2.0, owner_kill_rate=0.05)
        assert state_of(run_job(scenario, seed)) == "succeeded"


def test_short_leases_are_renewed_until_the_job_is_done() -> None:
    for seed in range(30):
        scenario = JobScenario(tasks=40, nodes=2, duration_s=10.0, lifetime_s=60.0)
        assert state_of(run_job(scenario, seed)) == "succeeded"


def test_a_full_disk_of_the_submitter_costs_time_only() -> None:
    for seed in range(30):
        world = run_job(JobScenario(tasks=20, disk_full_s=45.0), seed)
        assert state_of(world) == "succeeded"
        assert world.history.starts == 20


def test_tasks_that_fail_as_often_as_they_may_still_succeed() -> None:
    for seed in range(30):
        world = run_job(JobScenario(tasks=20, failing_tasks=5, retries=2), seed)
        assert state_of(world) == "succeeded"
        assert world.history.starts == 20 + 5 * 2


def test_a_hopeless_task_fails_its_job_after_all_others_are_done() -> None:
    for seed in range(30):
        world = run_job(JobScenario(tasks=20, hopeless_tasks=1, retries=2), seed)
        assert state_of(world) == "failed"
        assert len(world.history.accepted) == 19
        assert world.history.starts == 19 + 3


def test_a_node_where_everything_fails_does_not_fail_the_job() -> None:
    for seed in range(30):
        world = run_job(JobScenario(tasks=60, nodes=4, broken_nodes=1, retries=3), seed)
        assert state_of(world) == "succeeded"


def makespan_s(world: JobWorld) -> float:
    ledger = Ledger(world.job, world.history.facts)
    assert ledger.started_at is not None
    assert ledger.finished_at is not None
    return ledger.finished_at - ledger.started_at


def test_nodes_of_different_speed_end_together() -> None:
    for seed in range(20):
        scenario = JobScenario(
            tasks=240, nodes=4, cores=4, equal_cores=True, duration_s=10, slow_nodes=1, slowness=4
        )
        world = run_job(scenario, seed)
        # Twelve tasks at once at full speed, four at a quarter of it.
        ideal_s = 240 * 10.0 / (12 + 4 / 4)
        assert makespan_s(world) < 1.15 * ideal_s, f"seed {seed}"


def test_one_very_slow_node_does_not_hold_up_the_end() -> None:
    slowest_s = 0.0
    for seed in range(20):
        scenario = JobScenario(
            tasks=60, nodes=4, cores=2, equal_cores=True, duration_s=5, slow_nodes=1, slowness=60
        )
        world = run_job(scenario, seed)
        assert state_of(world) == "succeeded"
        slowest_s = max(slowest_s, makespan_s(world))
        # Two tasks were begun on the slow node, and again elsewhere.
        assert 60 < world.history.starts <= 64, f"seed {seed}"
        assert not Ledger(world.job, world.history.facts).failures()
    # Six at once: 50 s are the ideal, one task on the slow node takes 300.
    assert slowest_s < 80


def test_honest_nodes_are_never_caught_and_a_share_is_done_twice() -> None:
    extra = 0
    for seed in range(20):
        world = run_job(JobScenario(tasks=60, nodes=3, verify=0.2), seed)
        ledger = Ledger(world.job, world.history.facts)
        assert ledger.state == "succeeded"
        assert not ledger.caught
        compared, unverified = ledger.checks
        assert unverified == 0
        assert world.history.starts == 60 + compared
        extra += compared
    assert 0.15 < extra / (20 * 60) < 0.25


def test_a_lying_node_is_caught_and_nothing_of_it_counts() -> None:
    caught = 0
    for seed in range(40):
        world = run_job(JobScenario(tasks=60, nodes=4, lying_nodes=1, verify=0.3), seed)
        ledger = Ledger(world.job, world.history.facts)
        assert ledger.state == "succeeded"
        liar = next(iter(world.providers))
        assert set(ledger.caught) <= {liar}, f"seed {seed}"
        if ledger.caught:
            caught += 1
            assert liar not in world.history.accepted.values(), f"seed {seed}"
            assert ledger.nodes[liar].succeeded == 0
    # One with eight results or more of which none was drawn is rare.
    assert caught >= 38


def test_pictures_that_differ_by_noise_alone_accuse_nobody_and_others_do() -> None:
    for seed in range(20):
        scenario = JobScenario(tasks=30, nodes=4, lying_nodes=seed % 2, verify=1, is_noisy=True)
        world = run_job(scenario, seed)
        ledger = Ledger(world.job, world.history.facts)
        assert ledger.state == "succeeded", f"seed {seed}"
        liars = [node for node, provider in world.providers.items() if provider.is_lying]
        assert list(ledger.caught) == liars, f"seed {seed}"
        assert ledger.checks == (30, 0), f"seed {seed}"


def test_with_one_node_nothing_can_be_verified_and_the_job_says_so() -> None:
    world = run_job(JobScenario(tasks=6, nodes=1, verify=1.0), 1)
    ledger = Ledger(world.job, world.history.facts)
    assert ledger.state == "succeeded"
    assert ledger.checks == (0, 6)
    assert "no second node" in ledger.unverified_reason


def test_with_two_nodes_a_lie_fails_its_task_and_both_are_named() -> None:
    world = run_job(JobScenario(tasks=6, nodes=2, lying_nodes=1, verify=1.0), 1)
    ledger = Ledger(world.job, world.history.facts)
    assert ledger.state == "failed"
    assert not ledger.caught
    reasons = {failure.reason for failure in ledger.failures()}
    assert any("node-01 and node-02 gave different results" in reason for reason in reasons) or any(
        "node-02 and node-01 gave different results" in reason for reason in reasons
    )


def test_work_that_gives_another_result_each_time_is_said_to_be_unverifiable() -> None:
    world = run_job(JobScenario(tasks=4, nodes=4, lying_nodes=4, verify=1.0), 1)
    ledger = Ledger(world.job, world.history.facts)
    assert ledger.state == "failed"
    assert not ledger.caught
    assert all("cannot be verified" in failure.reason for failure in ledger.failures())


@pytest.mark.parametrize("block", range(2))
def test_lies_and_any_bad_luck_together_keep_every_promise(block: int) -> None:
    for seed in range(block * 60, block * 60 + 60):
        scenario = replace(any_luck(seed), nodes=4, lying_nodes=1, verify=0.5)
        scenario = replace(scenario, is_noisy=seed % 2 == 0)
        world = run_job(scenario, seed)
        ledger = Ledger(world.job, world.history.facts)
        liar = next(iter(world.providers))
        assert set(ledger.caught) <= {liar}, f"seed {seed}"
        assert not ledger.caught or liar not in world.history.accepted.values(), f"seed {seed}"


def test_a_cancelled_job_stays_cancelled_and_leaves_no_lease_within_two_seconds() -> None:
    for seed in range(50):
        cancel_at = Random(seed).uniform(1.0, 10.0)
        world = JobWorld(JobScenario(tasks=200, duration_s=5.0, cancel_at=cancel_at), seed)
        leases_after: list[int] = []

        def look(world: JobWorld = world, found: list[int] = leases_after) -> None:
            found.append(sum(provider.lease_count for provider in world.providers.values()))

        world.clock.call_at(cancel_at - 0.1, look)
        world.clock.call_at(cancel_at + 2.0, look)
        assert world.run().state == "cancelled"
        assert leases_after[0] > 0
        assert leases_after[1] == 0


@pytest.mark.parametrize("block", range(4))
def test_any_mixture_of_bad_luck_keeps_every_promise(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        scenario = any_luck(seed)
        world = run_job(scenario, seed)
        wanted = {"succeeded"} if scenario.cancel_at is None else {"succeeded", "cancelled"}
        assert state_of(world) in wanted, f"seed {seed}"
        if state_of(world) == "succeeded":
            assert len(world.history.accepted) == all_tasks(scenario), f"seed {seed}"


def test_the_same_seed_gives_the_same_history() -> None:
    scenario = JobScenario(provider_crash_rate=0.05, submitter_crash_rate=0.05, link_break_rate=0.1)
    assert run_job(scenario, 7).history.facts == run_job(scenario, 7).history.facts
