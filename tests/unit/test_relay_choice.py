"""Which relays we are reached through."""

from __future__ import annotations

from p2prc.protocol.relay_choice import (
    MEASURE_OTHERS_S,
    MEASURE_USED_S,
    Candidate,
    CandidatesChanged,
    Measure,
    Measured,
    RelayChoice,
    Tick,
    Use,
)

NEAR, MIDDLE, FAR = (Candidate(f"http://{name}/", "member") for name in ("near", "middle", "far"))
OURS = Candidate("https://ours/", "named")
STRANGE = Candidate("https://strange/", "foreign")


def started(*candidates: Candidate, is_foreign_wanted: bool = False) -> RelayChoice:
    choice = RelayChoice()
    choice.handle(CandidatesChanged(candidates, is_foreign_wanted), 0.0)
    return choice


def used(choice: RelayChoice) -> tuple[str, ...]:
    return tuple(each.url for each in choice.used)


def measured(choice: RelayChoice, now: float = 0.0, **latencies: float | None) -> None:
    for name, latency_s in latencies.items():
        choice.handle(Measured(f"http://{name}/", latency_s), now)


def test_the_nearest_two_are_used() -> None:
    choice = RelayChoice()
    asked = choice.handle(CandidatesChanged((FAR, MIDDLE, NEAR)), 0.0)
    assert {effect.url for effect in asked if isinstance(effect, Measure)} == {
        NEAR.url,
        MIDDLE.url,
        FAR.url,
    }
    measured(choice, far=0.2, middle=0.05, near=0.01)
    assert used(choice) == (NEAR.url, MIDDLE.url)


def test_a_relay_in_use_gives_way_only_to_one_that_is_clearly_nearer() -> None:
    choice = started(MIDDLE, FAR, NEAR)
    measured(choice, middle=0.05, far=0.051)
    measured(choice, near=0.045)
    assert used(choice) == (MIDDLE.url, FAR.url)
    measured(choice, near=0.001)
    measured(choice, near=0.001)
    assert NEAR.url in used(choice)


def test_a_relay_that_falls_silent_is_replaced_after_two_misses() -> None:
    choice = started(NEAR, MIDDLE, FAR)
    measured(choice, near=0.01, middle=0.05, far=0.2)
    measured(choice, near=None)
    assert used(choice) == (NEAR.url, MIDDLE.url)
    assert choice.deadline is not None
    assert choice.handle(Measured(NEAR.url, None), 3.0)[0] == Use((MIDDLE, FAR))


def test_a_lone_relay_is_never_given_up() -> None:
    choice = started(NEAR)
    measured(choice, near=0.01)
    measured(choice, near=None)
    measured(choice, near=None)
    assert used(choice) == (NEAR.url,)
    assert not choice.alive
    measured(choice, near=0.02)
    assert choice.alive == (NEAR.url,)


def test_strangers_hear_of_us_only_when_wanted_and_nobody_else_is_there() -> None:
    choice = RelayChoice()
    assert choice.handle(CandidatesChanged((STRANGE,)), 0.0) == []
    assert choice.handle(CandidatesChanged((NEAR, STRANGE), is_foreign_wanted=True), 100.0)[:1]
    measured(choice, 100.0, near=0.01)
    choice.handle(Measured(STRANGE.url, 0.001), 100.0)
    assert used(choice) == (NEAR.url,)
    assert Measure(STRANGE.url) not in choice.handle(Tick(), 1000.0)
    measured(choice, 1001.0, near=None)
    measured(choice, 1004.0, near=None)
    choice.handle(Tick(), 1065.0)
    choice.handle(Measured(STRANGE.url, 0.001), 1065.0)
    assert used(choice)[0] == STRANGE.url


def test_one_named_by_hand_comes_first() -> None:
    choice = started(NEAR, MIDDLE, OURS)
    measured(choice, near=0.01, middle=0.02)
    choice.handle(Measured(OURS.url, 0.3), 0.0)
    assert used(choice) == (OURS.url, NEAR.url)


def test_those_in_use_are_measured_often_and_others_rarely() -> None:
    choice = started(NEAR, MIDDLE, FAR)
    measured(choice, 0.0, near=0.01, middle=0.05, far=0.2)
    assert choice.handle(Tick(), MEASURE_USED_S) == [Measure(MIDDLE.url), Measure(NEAR.url)]
    assert choice.handle(Tick(), MEASURE_OTHERS_S) == [Measure(FAR.url)]


def test_a_relay_that_is_gone_from_the_table_is_used_no_more() -> None:
    choice = started(NEAR, MIDDLE)
    measured(choice, near=0.01, middle=0.05)
    assert choice.handle(CandidatesChanged((MIDDLE,)), 1.0)[0] == Use((MIDDLE,))


def test_a_relay_that_other_members_use_comes_between_members_and_strangers() -> None:
    shared = Candidate("https://shared/", "shared")
    choice = started(shared, STRANGE, is_foreign_wanted=True)
    choice.handle(Measured(shared.url, 0.2), 0.0)
    choice.handle(Measured(STRANGE.url, 0.001), 0.0)
    assert used(choice) == (shared.url,)
    choice.handle(CandidatesChanged((NEAR, shared, STRANGE), is_foreign_wanted=True), 1.0)
    measured(choice, 1.0, near=0.01)
    assert used(choice) == (NEAR.url,)
    measured(choice, 4.0, near=None)
    measured(choice, 7.0, near=None)
    choice.handle(Tick(), 7.0 + MEASURE_USED_S)
    choice.handle(Measured(shared.url, 0.2), 10.0)
    assert used(choice)[0] == shared.url


def test_two_that_are_as_near_as_each_other_keep_their_order() -> None:
    choice = started(NEAR, MIDDLE)
    measured(choice, near=0.001, middle=0.002)
    order = used(choice)
    for number in range(10):
        measured(choice, number, near=0.001 + 0.004 * (number % 2), middle=0.003)
        assert used(choice) == order
    for _ in range(10):
        measured(choice, 20.0, near=0.3, middle=0.003)
    assert used(choice) == (MIDDLE.url, NEAR.url)
