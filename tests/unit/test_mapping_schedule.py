"""The router's promise: renewed in time, not given up too soon, and not begged for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2prc.protocol.mapping_schedule import (
    LIFETIME_LIMIT_S,
    RETRY_LIMIT_S,
    RETRY_S,
    Ask,
    Failed,
    Lost,
    MappingSchedule,
    Opened,
    RouteChanged,
    Tick,
)


def opened() -> MappingSchedule:
    machine = MappingSchedule()
    assert machine.handle(RouteChanged(has_router=True), 0) == [Ask()]
    assert machine.handle(Opened(1200), 0) == []
    return machine


def test_a_promise_is_renewed_at_half_of_its_life() -> None:
    machine = opened()
    assert machine.handle(Tick(), 599) == []
    assert machine.handle(Tick(), 600) == [Ask()]
    assert machine.handle(Opened(1200), 601) == []
    assert machine.deadline == 1201


def test_a_renewal_that_fails_is_tried_until_the_promise_is_over() -> None:
    machine, asked = opened(), []
    while machine.is_open:
        assert machine.deadline is not None
        now = machine.deadline
        asked.append(now)
        effects = machine.handle(Tick(), now)
        assert effects in ([Ask()], [Lost(), Ask()])
        machine.handle(Failed(), now)
    assert asked[:3] == [600, 900, 1050]
    assert 1200 <= asked[-1] <= 1205
    assert len(asked) < 12
    assert machine.deadline == asked[-1] + RETRY_S


def test_a_router_that_opens_nothing_is_asked_ever_more_rarely() -> None:
    machine, now, pauses = MappingSchedule(), 0.0, []
    machine.handle(RouteChanged(has_router=True), 0)
    for _ in range(8):
        assert machine.handle(Failed(), now) == []
        assert machine.deadline is not None
        pauses.append(machine.deadline - now)
        now = machine.deadline
        assert machine.handle(Tick(), now) == [Ask()]
    assert pauses[0] == RETRY_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == RETRY_LIMIT_S


def test_another_way_out_begins_anew() -> None:
    machine = opened()
    assert machine.handle(RouteChanged(has_router=True), 10) == [Lost(), Ask()]
    machine.handle(Failed(), 10)
    assert machine.handle(RouteChanged(has_router=False), 20) == []
    assert machine.deadline is None
    assert machine.handle(Tick(), 5000) == []


def test_after_a_long_sleep_the_port_is_lost_and_asked_for() -> None:
    assert opened().handle(Tick(), 90_000) == [Lost(), Ask()]


@given(st.floats(0, 2**32))
def test_no_promise_makes_us_ask_all_the_time_or_never(lifetime_s: float) -> None:
    machine = MappingSchedule()
    machine.handle(RouteChanged(has_router=True), 0)
    machine.handle(Opened(lifetime_s), 0)
    assert machine.deadline is not None
    assert 10 <= machine.deadline <= LIFETIME_LIMIT_S / 2
