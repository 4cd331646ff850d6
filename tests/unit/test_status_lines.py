"""Claims about lines in a command's output that are meant for us."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from p2prc.protocol.jobs.status_lines import (
    LINE_LIMIT_BYTES,
    FailText,
    Progress,
    SetVariable,
    StatusReader,
    StatusText,
    UnsetVariable,
    read_status_line,
)

OUTPUT = (
    b"plain\nopenjd_progress: 12.5\r\nopenjd_status: half way\nxopenjd_fail: not ours\n"
    b"openjd_env: A=b=c\nopenjd_unset_env: A\nopenjd_fail: no room"
)
FOUND = [
    Progress(12.5),
    StatusText("half way"),
    SetVariable("A", "b=c"),
    UnsetVariable("A"),
    FailText("no room"),
]


@given(st.lists(st.integers(1, len(OUTPUT)), max_size=20))
def test_lines_are_found_however_the_output_is_cut(cuts: list[int]) -> None:
    reader = StatusReader()
    edges = [0, *sorted(set(cuts)), len(OUTPUT)]
    found = [line for start, end in pairwise(edges) for line in reader.feed(OUTPUT[start:end])]
    assert [*found, *reader.finish()] == FOUND


def test_what_is_malformed_is_plain_output() -> None:
    for line in (
        b"openjd_progress: 101", b"openjd_progress: nan", b"openjd_progress: x",
        b"openjd_env: =x", b"openjd_env: A", b"openjd_env: A\xff=b", b"openjd_env: A=\0",
        b"openjd_unset_env: A B", b"openjd_else: x", b"openjd_status:x", b"openjd_",
    ):  # fmt: skip
        assert read_status_line(line) is None, line


def test_an_endless_line_is_not_kept() -> None:
    reader = StatusReader()
    assert reader.feed(b"openjd_status: " + b"x" * LINE_LIMIT_BYTES) == []
    assert reader.feed(b"x" * LINE_LIMIT_BYTES) == []
    assert reader.feed(b"\nopenjd_progress: 1\n") == [Progress(1.0)]
