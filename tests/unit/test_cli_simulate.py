"""`simulate`: what it prints, the files it writes, and how it refuses."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line
from p2prc.simulation import load_scenario, parse_scenario, run_scenario, scenario_names, with_nodes

PAGE = (Path(__file__).parents[2] / "docs" / "simulation.md").read_text()
HEAD = "name = 'mine'\ndescription = 'of my own'\nduration_s = 3\nnodes = 4\nstarts = 'warm'\n"
Answer = tuple[int, str, str]
Call = Callable[..., Answer]


@pytest.fixture
def call(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command line where no node runs: its status, what it printed, what it told."""

    def run(*arguments: str) -> Answer:
        status = run_command_line(["simulate", *arguments], Invocation(str(tmp_path / "home")))
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


@pytest.fixture
def own(tmp_path: Path) -> Callable[[str], str]:
    def write(text: str) -> str:
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return str(path)

    return write


def test_a_scenario_that_ships_is_run_without_a_node(call: Call) -> None:
    status, out, err = call("skew", "--nodes", "12", "--seed", "5")
    assert status == 0
    assert out.startswith("skew, seed 5\n")
    assert "known to all after\n  change " in out
    assert re.search(r"\n  ok      wrong pictures at the end: 0, at most 0\n", out)
    assert err.startswith("simulating skew: 12 nodes for 60 s of their time\n")


def test_a_program_gets_the_whole_report(call: Call) -> None:
    status, out, _ = call("skew", "--nodes", "12", "--seed", "5", "--json")
    report = json.loads(out)
    assert status == 0
    assert report["ok"] is all(check["ok"] for check in report["checks"])
    assert report["trace"] == run_scenario(with_nodes(load_scenario("skew"), 12), 5).trace
    assert [one["name"] for one in report["milestones"]] == ["change", "crash", "restart"]
    assert report["samples"][-1][1] == 1.0


def test_a_picture_and_a_trace_are_written(call: Call, own: Callable[[str], str]) -> None:
    file = own(HEAD + "[[happenings]]\nkind = 'change'\nat_s = 2\n")
    picture, trace = file.replace(".toml", ".png"), file.replace(".toml", ".txt")
    status, _, err = call(file, "--plot", picture, "--trace", trace)
    assert status == 0
    assert err.endswith(f"look at it: {picture}\n")
    assert Path(picture).read_bytes().startswith(b"\x89PNG\r\n")
    lines = Path(trace).read_text().splitlines()
    assert any(re.fullmatch(r"2\.000000 happening change \d", line) for line in lines)
    assert [line for line in lines if " link " in line and line.endswith(" up")]
    times = [float(line.split()[0]) for line in lines]
    assert times == sorted(times)


def test_the_list_says_what_ships(call: Call) -> None:
    status, out, _ = call("--list")
    assert status == 0
    assert [line.split()[0] for line in out.splitlines()] == scenario_names()
    _, out, _ = call("--list", "--json")
    assert [one["name"] for one in json.loads(out)] == scenario_names()


@pytest.mark.parametrize("name", scenario_names())
def test_every_scenario_that_ships_is_described(name: str) -> None:
    assert re.search(rf"^\| .*`{name}`", PAGE, re.MULTILINE)


def test_the_example_of_the_page_can_be_run() -> None:
    example = re.findall(r"^```toml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[-1]
    assert run_scenario(parse_scenario(example)).has_met_all


def test_a_check_that_fails_is_work_that_failed(call: Call, own: Callable[[str], str]) -> None:
    hard = "[[happenings]]\nkind = 'change'\nat_s = 2.9\n"
    hard += "[[checks]]\nfigure = 'known-to-all-s'\nof = 'change'\nat_most = 0.0001\n"
    status, out, err = call(own(HEAD + hard))
    assert status == 7
    assert "not ok" in out
    assert "error: checks of mine that failed: 1 of " in err


# -- refusals -----------------------------------------------------------------------------------


def test_an_unknown_scenario_is_refused_with_those_that_ship(call: Call) -> None:
    status, out, err = call("apocalypse")
    assert (status, out) == (3, "")
    assert err.startswith("error: no scenario 'apocalypse'\nhint: one of ")
    assert "flash-crowd" in err


def test_no_scenario_is_wrong_usage(call: Call) -> None:
    status, _, err = call()
    assert status == 2
    assert "--list" in err


def test_a_file_that_is_not_there_is_refused(call: Call) -> None:
    status, _, err = call("./nowhere.toml")
    assert status == 3
    assert err.startswith("error: cannot read ./nowhere.toml: No such file or directory\nhint: ")


def test_a_place_that_cannot_be_written_is_refused_before_the_work(call: Call) -> None:
    status, _, err = call("idle", "--plot", "/nowhere/a.png")
    assert status == 3
    assert err.startswith("error: cannot write /nowhere/a.png")
    assert "simulating" not in err


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("name = ", "not a scenario"),
        ("name = 'x'\ndescription = ''\n", "duration_s"),
        (HEAD + "lost = 0.1\n", "unknown field `lost`"),
        (HEAD + "loss = 1.5\n", "$.loss"),
        (HEAD + "loss = nan\n", "$.loss"),
        (HEAD + "[[happenings]]\nkind = 'flood'\nat_s = 1\n", "flood"),
        (HEAD + "[[happenings]]\nkind = 'crash'\nat_s = 1\nnode = 4\n", "there are 4 nodes"),
        (HEAD + "[[happenings]]\nkind = 'heal'\nat_s = 9\n", "after the end"),
        (HEAD + "[nat]\npublic = 0.5\n", "add up to 0.5"),
        (HEAD + "[nat]\npublic = 0\ncone = 1\n[relays]\ncount = 1\nare_members = true\n", "public"),
        (HEAD + "notice_s = [5, 4]\n", "upside down"),
        (
            HEAD + "[[happenings]]\nkind = 'crowd'\nat_s = 1\nshare = 0.6\n"
            "[[happenings]]\nkind = 'crowd'\nat_s = 2\nshare = 0.6\n",
            "nobody whom they could join",
        ),
        (HEAD + "[[checks]]\nfigure = 'luck'\nat_most = 1\n", "luck"),
        (HEAD + "[[checks]]\nfigure = 'known-to-all-s'\nat_most = 1\n", "`of`"),
    ],
)
def test_a_malformed_file_is_refused_with_its_reason(
    call: Call, own: Callable[[str], str], text: str, reason: str
) -> None:
    status, out, err = call(own(text))
    assert (status, out) == (3, "")
    assert reason in err.splitlines()[0]
    assert err.splitlines()[1].startswith("hint: ")


def test_a_file_that_is_no_text_is_refused(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(b"name = '\xff'")
    assert call(str(path))[0] == 3


@pytest.mark.parametrize("nodes", ["1", "0", "-3", "20001"])
def test_a_number_of_nodes_that_makes_no_network_is_refused(call: Call, nodes: str) -> None:
    status, _, err = call("idle", "--nodes", nodes)
    assert status == 3
    assert "2 to 20000 nodes" in err


def test_too_few_nodes_for_what_happens_are_refused(call: Call) -> None:
    status, _, err = call("crash", "--nodes", "5")
    assert status == 3
    assert "crash happens to node 7, and there are 5 nodes" in err
    assert "--nodes 8" in err
