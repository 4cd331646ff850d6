"""Output patterns: a shell's meaning, and never a shell's cost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import JobInvalid
from p2prc.files.patterns import Patterns


def matches(pattern: str, path: str) -> bool:
    patterns = Patterns([pattern])
    *folders, name = path.split("/")
    positions = patterns.start
    for folder in folders:
        positions = patterns.descend(positions, folder)
    return patterns.matching(positions, name) == [0]


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("a.png", "a.png"),
        ("*.png", "a.png"),
        ("./*.png", "a.png"),
        ("frame_????.png", "frame_0001.png"),
        ("frame_[0-9].png", "frame_7.png"),
        ("frames/*.png", "frames/a.png"),
        ("**/*.png", "a.png"),
        ("**/*.png", "x/y/z/a.png"),
        ("x/**/z/*.png", "x/z/a.png"),
        ("x/**/z/*.png", "x/y/y/z/a.png"),
        ("**", "x/y/a"),
        ("out", "out"),
        ("out", "out/x/.hidden/a"),
        ("out/", "out/a"),
        (".", "x/.y"),
        (".*", ".hidden"),
        ("[[]x", "[x"),
        ("a/**/**/b", "a/b"),
    ],
)
def test_a_pattern_matches_as_in_a_shell(pattern: str, path: str) -> None:
    assert matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("*.png", "x/a.png"),
        ("*", ".hidden"),
        ("**", ".cache/a"),
        ("frames/*", "frames/x/a"),
        ("*/a", "a"),
        ("out/", "out"),
        ("out*", "outer/a"),
        ("x/**/z", "x/z/a/b.png".replace("z", "w")),
        ("a?b", "a/b"),
        ("A", "a"),
    ],
)
def test_a_pattern_does_not_match_more(pattern: str, path: str) -> None:
    assert not matches(pattern, path)


@pytest.mark.parametrize("pattern", ["", "/etc/passwd", "../x", "a/../../b", "a\\b", "a\0b", "/"])
def test_a_pattern_that_leaves_the_folder_is_refused(pattern: str) -> None:
    with pytest.raises(JobInvalid):
        Patterns([pattern])


def test_folders_in_which_nothing_can_match_are_left_out() -> None:
    patterns = Patterns(["frames/*.png"])
    assert patterns.descend(patterns.start, "frames")
    assert not patterns.descend(patterns.start, "node_modules")


@pytest.mark.timeout(5)
def test_a_hostile_pattern_costs_no_more_than_its_length() -> None:
    assert not matches("*a" * 199, "a" * 250 + "b")
    assert not matches("/".join(["**"] * 130 + ["x"]), "/".join(["a"] * 200))


@given(st.text(alphabet="ab*?[]!/.-", min_size=1, max_size=20), st.text("ab./", max_size=12))
def test_any_pattern_is_refused_or_answers(pattern: str, path: str) -> None:
    try:
        assert matches(pattern, path) in (True, False)
    except JobInvalid:
        return
