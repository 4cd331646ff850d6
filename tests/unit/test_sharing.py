"""How jobs of one node share what there is: the rule alone, and two coordinators under it."""

from __future__ import annotations

from dataclasses import replace
from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace as changed

from p2prc.model.identity import AttemptId, JobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.resources import GIBIBYTE, Capacity, RuntimeOffer
from p2prc.model.workload import Command, Outcome
from p2prc.protocol.jobs.coordinator import Coordinator
from p2prc.protocol.jobs.events import (
    AttemptEnded,
    CloseSlot,
    OffersChanged,
    OpenSlot,
    SlotOpened,
    SlotRefused,
    SlotsAllowed,
    StartAttempt,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.sharing import Claim, slot_limits
from p2prc.protocol.placement import NodeOffer
from p2prc.wire.codec import encode

NODE = NodeId("a" * 64)
ONE, TWO, THREE = JobId("1" * 20), JobId("2" * 20), JobId("3" * 20)


OTHER = NodeId("b" * 64)


def claim(
    job: JobId, wanted: int, *, priority: int = 0, held: int = 0, millis: int = 1000
) -> Claim:
    return Claim(job, priority, millis, wanted, {NODE: 99}, {NODE: held})


def shared(free: int, *claims: Claim) -> dict[JobId, int]:
    found = slot_limits(claims, {NODE: free})
    return {job: sum(limits.values()) for job, limits in found.items() if limits is not None}


def test_a_job_alone_may_have_all() -> None:
    assert slot_limits([claim(ONE, 100)], {NODE: 8000}) == {ONE: None}


def test_equal_jobs_get_equal_shares_and_who_wants_less_leaves_the_rest() -> None:
    assert shared(8000, claim(ONE, 100), claim(TWO, 100)) == {ONE: 4, TWO: 4}
    found = shared(9000, claim(ONE, 100), claim(TWO, 1), claim(THREE, 100))
    assert found == {ONE: 4, TWO: 1, THREE: 4}


def test_what_is_held_already_is_shared_too_and_shares_are_of_cores() -> None:
    assert shared(0, claim(ONE, 100, held=8), claim(TWO, 100)) == {ONE: 4, TWO: 4}
    assert shared(8000, claim(ONE, 100, millis=2000), claim(TWO, 100)) == {ONE: 2, TWO: 4}


def test_higher_priority_comes_first_and_the_rest_goes_to_the_others() -> None:
    assert shared(8000, claim(ONE, 6), claim(TWO, 100, priority=5)) == {TWO: 8, ONE: 0}
    assert shared(8000, claim(ONE, 6), claim(TWO, 5, priority=5)) == {TWO: 5, ONE: 3}


def test_one_slot_goes_to_who_was_served_least() -> None:
    served = replace(claim(ONE, 9), served_s=600.0)
    assert shared(1000, served, claim(TWO, 9)) == {ONE: 0, TWO: 1}


def test_who_can_go_elsewhere_leaves_a_node_to_who_cannot() -> None:
    anywhere = Claim(ONE, 0, 1000, 2, {NODE: 2, OTHER: 2}, {NODE: 2})
    tied = Claim(TWO, 5, 1000, 9, {NODE: 2})
    found = slot_limits([anywhere, tied], {NODE: 0, OTHER: 2000})
    assert found == {ONE: {OTHER: 2}, TWO: {NODE: 2}}


def test_a_job_keeps_its_places_where_that_takes_nothing_from_others() -> None:
    one = Claim(ONE, 0, 1000, 2, {NODE: 4, OTHER: 4}, {NODE: 2})
    two = Claim(TWO, 0, 1000, 2, {NODE: 4, OTHER: 4}, {OTHER: 2})
    found = slot_limits([one, two], {NODE: 2000, OTHER: 2000})
    assert found == {ONE: {NODE: 2}, TWO: {OTHER: 2}}


some_nodes = st.dictionaries(st.sampled_from([NODE, OTHER]), st.integers(1, 9), max_size=2)
claims = st.lists(
    st.builds(
        Claim,
        st.integers(0, 999).map(lambda number: JobId(f"{number:020d}")),
        st.integers(-1, 1),
        st.sampled_from([500, 1000, 4000]),
        st.integers(1, 50),
        some_nodes,
        some_nodes,
    ),
    min_size=2,
    max_size=6,
    unique_by=lambda one: one.job,
)


@given(claims, st.integers(0, 40_000))
def test_nothing_is_given_twice_nor_to_who_does_not_want_it(wanted: list[Claim], free: int) -> None:
    limits = slot_limits(wanted, {NODE: free, OTHER: free})
    for node in (NODE, OTHER):
        left = free + sum(one.held.get(node, 0) * one.slot_millis for one in wanted)
        for one in wanted:
            mine = limits[one.job] or {}
            assert mine.get(node, 0) <= one.fits.get(node, 0)
            assert sum(mine.values()) <= one.wanted
            left -= mine.get(node, 0) * one.slot_millis
        assert left >= 0
        # No room is left that somebody wants.
        for one in wanted:
            mine = limits[one.job] or {}
            if sum(mine.values()) < one.wanted and mine.get(node, 0) < one.fits.get(node, 0):
                assert one.slot_millis > left


def test_the_name_of_a_job_without_priority_is_what_it_was_before_there_were_any() -> None:
    assert b"priority" not in encode(Job("j", NODE, "salt", (Step("s", Command(("true",))),)))


class Shared:
    """Coordinators that share one node: it runs tasks, one second each, in so many slots."""

    def __init__(self, cores: int, *jobs: Job) -> None:
        self.cores = cores
        self.now = 0.0
        self.coordinators = [
            Coordinator(Ledger(job), Random(seed)) for seed, job in enumerate(jobs)
        ]
        self.leases: dict[LeaseId, int] = {}
        self.running: list[tuple[int, AttemptId]] = []

    def feed(self, number: int, event: object) -> None:
        for effect in self.coordinators[number].handle(event, self.now):  # type: ignore[arg-type]
            match effect:
                case OpenSlot() if len(self.leases) < self.cores:
                    self.leases[effect.lease] = number
                    self.feed(number, SlotOpened(NODE, effect.lease, "userns"))
                case OpenSlot():
                    refused = SlotRefused(
                        NODE, effect.lease, "peer-busy", "busy", is_retryable=True
                    )
                    self.feed(number, refused)
                case CloseSlot():
                    self.leases.pop(effect.lease, None)
                case StartAttempt():
                    self.running.append((number, effect.attempt))
                case _:
                    pass

    def second(self) -> None:
        """Look round as the node does, then let everything that runs end."""
        free = (self.cores - len(self.leases)) * 1000
        lent = Capacity(self.cores * 1000, 512 * GIBIBYTE, 512 * GIBIBYTE)
        offer = NodeOffer(
            node=NODE,
            name="ada",
            is_reachable=True,
            is_lending=True,
            lent=lent,
            free=replace_cpu(lent, free),
            runtimes=(RuntimeOffer("process", "userns"),),
        )
        wanted = [one.claim for one in self.coordinators if one.claim is not None]
        limits = slot_limits(wanted, {NODE: free})
        for number, one in enumerate(self.coordinators):
            self.feed(number, SlotsAllowed(limits.get(one.ledger.job_id)))
            self.feed(number, OffersChanged((offer,)))
        self.now += 1.0
        ending, self.running = self.running, []
        for number, attempt in ending:
            self.feed(number, AttemptEnded(NODE, attempt, Outcome(0, duration_s=1.0)))

    def done(self) -> list[int]:
        return [one.ledger.counts.succeeded for one in self.coordinators]


def replace_cpu(lent: Capacity, free_millis: int) -> Capacity:
    return Capacity(free_millis, lent.memory_bytes, lent.disk_bytes)


def job(name: str, tasks: int = 400) -> Job:
    numbers = IntegerRange("i", (IntegerSpan(1, tasks),))
    return Job(name, NODE, "salt", (Step("s", Command(("true",)), parameters=(numbers,)),))


def test_a_second_job_gets_its_half_while_the_first_goes_on() -> None:
    world = Shared(8, job("first"))
    for _ in range(10):
        world.second()
    assert world.done()[0] > 60
    world.coordinators.append(Coordinator(Ledger(job("second")), Random(9)))
    before = world.done()
    for _ in range(20):
        world.second()
    first, second = (now - then for now, then in zip(world.done(), before, strict=True))
    assert first + second > 120
    assert abs(first - second) < 25


def test_a_more_important_job_takes_all_and_gives_all_back() -> None:
    world = Shared(4, job("usual"), changed(job("urgent", 40), priority=10))
    for _ in range(20):
        world.second()
    assert world.done()[1] == 40
    before = world.done()[0]
    for _ in range(5):
        world.second()
    assert world.done()[0] - before > 12
