"""Quantities: what people write, and what nobody should."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import SettingInvalid
from p2prc.model.quantities import (
    format_cpus,
    format_duration,
    format_size,
    parse_cpus,
    parse_duration,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("4096", 4096),
        ("512M", 512 << 20),
        ("2g", 2 << 30),
        ("1.5GiB", 3 << 29),
        ("1 KB", 1024),
        ("7b", 7),
        ("1P", 1 << 50),
    ],
)
def test_sizes_are_binary(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text", ["", "G", "-1", "1e9", "nan", "inf", "1,5G", "1G2", "٣G", "1 0", "9" * 50, "2000P"]
)
def test_a_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400), ("7D", 604800), ("none", None)],
)
def test_durations_name_their_units(text: str, duration_s: float | None) -> None:
    assert parse_duration(text) == duration_s


@pytest.mark.parametrize("text", ["", "10", "h", "-1h", "1h1h", "1w", "10000d", "1h 30m", "never"])
def test_a_duration_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_duration(text)


@pytest.mark.parametrize(("text", "millis"), [("2", 2000), ("0.5", 500), ("0", 0), (" 1 ", 1000)])
def test_cores_may_be_parts(text: str, millis: int) -> None:
    assert parse_cpus(text) == millis


@pytest.mark.parametrize("text", ["", "-1", "nan", "1e3", "all", "1001", ".5"])
def test_a_number_of_cores_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(SettingInvalid):
        parse_cpus(text)


@given(st.integers(0, 1000), st.sampled_from([0, 10, 20, 30, 40, 50]))
def test_a_round_size_reads_back_as_itself(count: int, shift: int) -> None:
    assert parse_size(format_size(count << shift)) == count << shift


@given(st.integers(0, 300 * 86400))
def test_a_duration_reads_back_as_itself(duration_s: int) -> None:
    assert parse_duration(format_duration(duration_s)) == duration_s


@given(st.integers(0, 1_000_000))
def test_cores_read_back_as_themselves(cpu_millis: int) -> None:
    assert parse_cpus(format_cpus(cpu_millis)) == cpu_millis


@given(st.text(max_size=60))
def test_any_text_is_a_quantity_or_a_refusal(text: str) -> None:
    for parse in (parse_size, parse_duration, parse_cpus):
        try:
            value = parse(text)
        except SettingInvalid:
            continue
        assert value is None or value >= 0
