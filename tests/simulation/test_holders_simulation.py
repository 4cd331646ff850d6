"""Claims about a job's holders with crashes, splits and full disks, by seed.

The world itself objects (`PromiseBroken`, with the seed) when a task is lost or collected twice,
another result counts than the collected one, something starts after a cancellation or before its
fact is durable, holders with the same facts see different things, or the job does not end.
`P2PRC_SEEDS` makes the mixture longer.
"""

from __future__ import annotations

import os

import pytest

from p2prc.simulation.holders import HolderScenario, HolderWorld, any_holder_luck, run_holders

SEEDS = int(os.environ.get("P2PRC_SEEDS", "80"))
BLOCKS = 4


def test_without_bad_luck_the_submitter_carries_on_alone_and_the_job_is_safe() -> None:
    for seed in range(20):
        world = run_holders(HolderScenario(), seed)
        assert world.took_over == 0
        assert world.was_safe_at is not None
        assert world.was_safe_at < 2.0


def test_a_job_with_too_few_nodes_is_never_called_safe() -> None:
    for seed in range(10):
        assert run_holders(HolderScenario(nodes=2), seed).was_safe_at is None


def test_a_safe_job_survives_its_submitter_for_ever() -> None:
    for seed in range(40):
        world = run_holders(HolderScenario(tasks=40, dies_for_good=True, crash_rate=0.01), seed)
        assert world.took_over >= 1
        assert all(holder.ledger.state == "succeeded" for holder in world.holders())


def test_a_keeper_takes_over_within_fifteen_seconds() -> None:
    for seed in range(40):
        world = HolderWorld(HolderScenario(tasks=60), seed)
        world.start()
        world.clock.run_until(10.0)
        assert world.coordinators() == [world.submitter]
        world.crash(world.submitter, for_good=True)
        while not world.coordinators():
            world.clock.run_until(world.clock.now + 0.1)
            assert world.clock.now < 25.0, f"seed {seed}"


def test_a_network_that_splits_loses_nothing() -> None:
    took_over = 0
    for seed in range(40):
        took_over += run_holders(HolderScenario(tasks=60, split_rate=0.05), seed).took_over
    assert took_over > 5


@pytest.mark.parametrize("block", range(BLOCKS))
def test_any_mixture_of_bad_luck_keeps_every_promise(block: int) -> None:
    took_over = 0
    for seed in range(block * SEEDS // BLOCKS, (block + 1) * SEEDS // BLOCKS):
        took_over += run_holders(any_holder_luck(seed), seed).took_over
    # The bad luck was real.
    assert took_over > SEEDS // BLOCKS // 2


def test_the_same_seed_gives_the_same_history() -> None:
    one, two = (run_holders(any_holder_luck(11), 11) for _ in range(2))
    assert one.holders()[0].logs.lengths() == two.holders()[0].logs.lengths()
