"""Claims about how figures are judged and kept."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.report import Figure, Record
from benchmarks.work import Race


@pytest.mark.parametrize(
    ("figure", "verdict"),
    [
        (Figure("rate", 0.5, "x", at_least=0.5), True),
        (Figure("rate", 0.49, "x", at_least=0.5), False),
        (Figure("time", 150.0, "ms", at_most=150), True),
        (Figure("time", 151.0, "ms", at_most=150), False),
        (Figure("told only", 1.0), None),
    ],
)
def test_a_figure_says_whether_its_target_is_reached(figure: Figure, verdict: bool | None) -> None:
    assert figure.is_reached is verdict
    assert ("MISSED" in str(figure)) is (verdict is False)


def test_a_record_names_its_command_machine_and_what_it_missed(tmp_path: Path) -> None:
    figures = [Figure("fast enough", 1, at_least=1), Figure("slow", 2.0, "ms", at_most=1)]
    path = Record("bench", figures, {"every_second": [1.0]}, missing=["no parallel"]).keep(tmp_path)
    kept = json.loads(path.read_text())
    assert [figure["reached"] for figure in kept["figures"]] == [True, False]
    assert {"date", "command", "commit", "machine"} <= kept.keys()
    assert kept["missing"] == ["no parallel"]
    line = (tmp_path / "README.md").read_text().splitlines()[-1]
    assert path.name in line
    assert "1 of 2 targets reached; missed: slow (2 ms); 1 rivals were missing" in line


def test_a_record_of_the_same_day_replaces_the_one_before(tmp_path: Path) -> None:
    for value in (1.0, 2.0):
        path = Record("bench", [Figure("figure", value)], {}).keep(tmp_path)
    assert json.loads(path.read_text())["figures"][0]["value"] == 2.0
    assert (tmp_path / "README.md").read_text().count(f"[{path.name}]") == 1


def test_contenders_take_turns_and_the_median_counts() -> None:
    order: list[str] = []

    def contender(name: str, *times: float) -> float:
        order.append(name)
        return times[order.count(name) - 1]

    race = Race(
        {
            "ours": lambda: contender("ours", 9.0, 2.0, 1.0),
            "theirs": lambda: contender("theirs", 1.0, 1.0, 5.0),
        }
    )
    race.run(3)
    assert order == ["ours", "theirs", "theirs", "ours", "ours", "theirs"]
    assert race.ratio("ours", "theirs") == 0.5
    assert race.ratio("ours", "nobody") is None
