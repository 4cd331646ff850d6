"""When the owner needs the machine: quiet hours, load and input."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import SettingInvalid
from p2prc.model.quiet_hours import MINUTES_A_DAY, QuietSpan, parse_quiet_hours
from p2prc.protocol.owner_needs import RELEASE_S, AwayRule, OwnerSample, OwnerWatch

MONDAY, SATURDAY, SUNDAY = 0, 5, 6


def covered(text: str, weekday: int, minute: int) -> bool:
    return any(span.covers(weekday, minute) for span in parse_quiet_hours(text))


def test_office_hours_are_those_of_the_days_named() -> None:
    text = "mon-fri 09:00-18:00, sat 10:00-12:00"
    assert covered(text, MONDAY, 9 * 60)
    assert not covered(text, MONDAY, 18 * 60)
    assert covered(text, SATURDAY, 11 * 60)
    assert not covered(text, SUNDAY, 11 * 60)


def test_a_night_belongs_to_the_day_on_which_it_begins() -> None:
    assert covered("sat 22:00-06:00", SATURDAY, 23 * 60)
    assert covered("sat 22:00-06:00", SUNDAY, 5 * 60)
    assert not covered("sat 22:00-06:00", SATURDAY, 5 * 60)
    assert covered("fri-mon 22:00-06:00", SUNDAY, 23 * 60)


@pytest.mark.parametrize(
    "text",
    ["soon", "mon", "9-18", "mon 25:00-26:00", "mon 09:60-10:00", "xyz 09:00-10:00",
     "09:00-09:00", "24:00-06:00", "mon-fri-sun 09:00-10:00", "٠٩:00-10:00"],
)  # fmt: skip
def test_what_are_no_hours_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_quiet_hours(text)


@given(st.text(alphabet="monfrisatu0123456789:-, ", max_size=40))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        spans = parse_quiet_hours(text)
    except SettingInvalid:
        return
    for span in spans:
        assert span.days
        assert 0 <= span.begin < MINUTES_A_DAY
        assert 0 <= span.end <= MINUTES_A_DAY


@given(
    st.frozensets(st.integers(0, 6), min_size=1),
    st.integers(0, MINUTES_A_DAY - 1),
    st.integers(0, MINUTES_A_DAY),
)
def test_a_span_is_as_long_as_it_says_in_a_week(days: frozenset[int], begin: int, end: int) -> None:
    if begin == end:
        return
    span = QuietSpan(days, begin, end)
    length = end - begin if begin < end else MINUTES_A_DAY - begin + end
    minutes = sum(span.covers(day, minute) for day in range(7) for minute in range(MINUTES_A_DAY))
    assert minutes == length * len(days)


def at(load: float | None = None, idle_s: float | None = None) -> OwnerSample:
    return OwnerSample(MONDAY, 12 * 60, load, idle_s)


def test_who_comes_back_has_the_machine_at_once_and_leaves_it_slowly() -> None:
    watch, rule = OwnerWatch(), AwayRule(load_limit=0.5)
    assert watch.look((), rule, at(load=0.1), 0) == ""
    assert watch.look((), rule, at(load=0.9), 1) != ""
    assert watch.look((), rule, at(load=0.1), 2) != ""
    assert watch.look((), rule, at(load=0.1), 1 + RELEASE_S) == ""


def test_input_counts_where_the_machine_tells_of_it() -> None:
    watch, rule = OwnerWatch(), AwayRule(idle_s=600)
    assert watch.look((), rule, at(), 0) == ""
    assert watch.look((), rule, at(idle_s=600), 0) == ""
    assert watch.look((), rule, at(idle_s=5), 0) != ""
    assert watch.look((), AwayRule(), at(idle_s=5), 1) == ""


def test_quiet_hours_end_on_the_minute() -> None:
    watch, quiet = OwnerWatch(), parse_quiet_hours("mon 11:00-12:01")
    assert "quiet" in watch.look(quiet, AwayRule(load_limit=1), at(load=0), 0)
    after = OwnerSample(MONDAY, 12 * 60 + 1, 0.0, None)
    assert watch.look(quiet, AwayRule(load_limit=1), after, 1) == ""
