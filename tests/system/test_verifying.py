"""Results that are done twice and compared, on real nodes of which one lies."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all

Nodes = list[NodeUnderTest]

# What a liar's daemon runs first: each file that a command made is altered before it gets its name.
LIE = """
import p2prc.files.collect as collect

honest = collect.collect_outputs

def collect_outputs(work, *arguments, **options):
    for path in work.iterdir():
        if path.is_file() and not path.is_symlink():
            path.write_bytes(path.read_bytes() + b"lie")
    return honest(work, *arguments, **options)

collect.collect_outputs = collect_outputs
"""


@pytest.fixture(scope="module")
def with_liar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """Two honest nodes, and one that alters what comes out of every task."""
    folder = tmp_path_factory.mktemp("liars")
    (folder / "lie").mkdir()
    (folder / "lie" / "sitecustomize.py").write_text(LIE)
    lie = {"PYTHONPATH": str(folder / "lie")}
    nodes = [NodeUnderTest(folder / name, name) for name in ("ada", "grace")]
    nodes.append(NodeUnderTest(folder / "mallory", "mallory", variables=lie))
    try:
        up_all(nodes, "--cpus", "2")
        join_all(nodes)
        yield nodes
    finally:
        stop_all(nodes)


def test_a_lying_node_is_caught_reported_and_left_out_and_its_results_are_done_again(
    with_liar: Nodes, tmp_path: Path
) -> None:
    ada, _, mallory = with_liar
    to = tmp_path / "results"
    said = ada.p2prc(
        "map", "--watch", "--verify", "1", "--over", "i=1-12", "--out", "*.txt", "--to", str(to),
        "--", "sh", "-c", "echo {i} > {i}.txt",
    )  # fmt: skip
    assert {path.name: path.read_text() for path in to.iterdir()} == {
        f"{i}.txt": f"{i}\n" for i in range(1, 13)
    }
    assert "left out: its result of task" in said.out
    assert "12 tasks compared" in said.out
    [job] = [job["id"] for job in ada.json("jobs") if job["tasks"]["total"] == 12]
    shown = ada.json("job", "show", job)
    assert {share["name"] for share in shown["nodes"].values() if share["left_out"]} == {"mallory"}
    assert shown["nodes"][mallory.id]["succeeded"] == 0
    assert shown["verification"] == {
        "share": 1.0, "compared": 12, "unverified": 0, "reason": "",
    }  # fmt: skip


def test_nothing_can_be_compared_where_nothing_comes_back(with_liar: Nodes) -> None:
    said = with_liar[0].p2prc(
        "--json", "map", "--verify", "0.5", "--over", "i=1-3", "--", "true", status=3
    )
    assert "--out" in said.error["hint"]


def test_two_nodes_that_disagree_fail_the_task_and_both_are_named(
    with_liar: Nodes, tmp_path: Path
) -> None:
    said = with_liar[0].p2prc(
        "map", "--watch", "--verify", "1", "--on", "grace,mallory", "--over", "i=1-2",
        "--out", "*.txt", "--to", str(tmp_path / "to"), "--", "sh", "-c", "echo {i} > {i}.txt",
        status=7,
    )  # fmt: skip
    assert "gave different results" in said.out
    assert "grace" in said.out
    assert "mallory" in said.out
    assert not list((tmp_path / "to").glob("*.txt"))
