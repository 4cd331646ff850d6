"""Cores go to leases by load, and never more of them than the owner lends."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from p2prc.runtime.process.cores import CoreBook, Load, Ticks, loads_between, read_ticks


def book(cores: int, lent: int, seed: int = 1) -> CoreBook:
    return CoreBook(tuple(range(cores)), lent, Random(seed))


def test_a_lease_gets_whole_cores_rounded_up() -> None:
    ours = book(8, 8)
    assert len(ours.start("a", 1)) == 1
    assert len(ours.start("b", 1000)) == 1
    assert len(ours.start("c", 1001)) == 2


def test_leases_take_different_cores_while_there_are_any() -> None:
    ours = book(4, 4)
    taken = [core for name in "abcd" for core in ours.start(name, 1000)]
    assert sorted(taken) == [0, 1, 2, 3]


def test_busy_cores_are_avoided() -> None:
    ours = book(4, 4)
    ours.loads = {0: Load(0.9), 1: Load(0.8), 2: Load(0.0), 3: Load(0.7)}
    assert ours.start("a", 1000) == (2,)


def test_equal_cores_are_not_taken_in_the_order_of_their_numbers() -> None:
    assert {book(8, 8, seed).start("a", 1000) for seed in range(20)} != {(0,)}


def test_a_lease_moves_when_others_come_to_its_core_and_stays_otherwise() -> None:
    ours = book(4, 4)
    (core,) = ours.start("a", 1000)
    assert ours.rebalance() == {}
    ours.loads = {core: Load(0.2)}
    assert ours.rebalance() == {}
    ours.loads = {core: Load(1.0)}
    moved = ours.rebalance()
    assert moved["a"] != (core,)


@given(
    st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(0, 9000)), max_size=30),
    st.integers(1, 8),
    st.lists(st.floats(0, 1), min_size=8, max_size=8),
)
def test_all_leases_together_never_use_more_cores_than_are_lent(
    starts: list[tuple[str, int]], lent: int, loads: list[float]
) -> None:
    ours = book(8, lent)
    current: dict[str, tuple[int, ...]] = {}
    for number, (name, millis) in enumerate(starts):
        if millis == 0:
            ours.stop(name)
            current.pop(name, None)
        else:
            current[name] = ours.start(name, millis)
        if number % 5 == 4:
            turned = loads[number % 8 :] + loads[: number % 8]
            ours.loads = {core: Load(load, 1 - load) for core, load in enumerate(turned)}
            current |= ours.rebalance()
        used = {core for cores in current.values() for core in cores}
        assert len(used) <= lent
        assert all(cores for cores in current.values())


def test_three_programs_that_know_nothing_of_each_other_soon_share_two_cores() -> None:
    rounds = []
    for seed in range(200):
        books = [book(2, 1, seed * 3 + number) for number in range(3)]
        cores = [ours.start("a", 1000)[0] for ours in books]
        rounds.append(0)
        while len(set(cores)) < 2:
            rounds[-1] += 1
            for ours in books:
                ours.loads = {core: Load(0.02, float(core in cores)) for core in (0, 1)}
            cores = [
                ours.rebalance().get("a", (core,))[0]
                for ours, core in zip(books, cores, strict=True)
            ]
        assert rounds[-1] < 20
    assert sum(rounds) / len(rounds) < 1
    assert max(rounds) >= 1


def test_who_shares_a_core_stays_when_no_core_is_idle() -> None:
    ours = book(2, 1)
    ours.start("a", 1000)
    ours.loads = {0: Load(0.0, 1.0), 1: Load(0.0, 1.0)}
    assert [ours.rebalance() for _ in range(20)] == [{}] * 20


def test_polite_work_is_better_company_than_the_owners() -> None:
    ours = book(2, 1)
    ours.loads = {0: Load(1.0, 0.0), 1: Load(0.0, 1.0)}
    assert ours.start("a", 1000) == (1,)


def test_low_priority_work_is_told_from_other_work() -> None:
    before = read_ticks("cpu 1 1 1 1 1 1 1 1 0 0\ncpu0 0 0 0 0 0 0 0 0 0 0\n")
    after = read_ticks("cpu0 10 60 10 20 0 0 0 0 0 0\nintr 5\n")
    assert before == {0: Ticks(0, 0, 0)}
    assert loads_between(before, after) == {0: Load(0.2, 0.6)}
