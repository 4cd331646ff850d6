"""A job outlives the node that it was submitted on, and whoever has its key collects it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.system.nodes import NodeUnderTest, wait_until

MakeNodes = Callable[..., list[NodeUnderTest]]
TASKS = 16


def succeeded(node: NodeUnderTest, key: str) -> int:
    return int(node.json("job", "show", key)["tasks"]["succeeded"])


def test_a_safe_job_is_finished_without_its_submitter_and_collected_by_its_key(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    ada, grace, linus, barbara = make_nodes(4, "--cpus", "1")
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    (inputs / "word.txt").write_text("hello")
    created = ada.json(
        "map", "--wait-safe", "--over", f"i=1-{TASKS}", "--in", str(inputs / "word.txt"),
        "--out", "*.out", "--to", str(tmp_path / "lost"), "--on", f"{grace.name},{linus.name}",
        "--", "sh", "-c", "sleep 1.5; (cat word.txt; echo {i}) > {i}.out",
    )  # fmt: skip
    job, key = created["id"], created["key"]
    assert ada.json("job", "show", job)["safe"]
    wait_until(lambda: succeeded(ada, job) >= 2, "some are done")
    ada.kill_9()
    died_at = time.monotonic()
    at_death = succeeded(barbara, key)
    took_s = died_at + wait_until(
        lambda: "job taken over" in grace.log + linus.log, "a keeper takes over", timeout_s=25
    )
    assert took_s - died_at < 15.0
    wait_until(lambda: succeeded(barbara, key) > at_death + 1, "it goes on")
    # Reading is all that the key allows.
    said = barbara.p2prc("--json", "cancel", key, status=5)
    assert said.error["code"] == "not-allowed"
    barbara.p2prc("job", "show", f"{job}{'0' * 32}", status=4)
    barbara.p2prc("watch", key)
    shown = barbara.json("job", "show", key)
    assert (shown["state"], shown["tasks"]["succeeded"]) == ("succeeded", TASKS)
    to = tmp_path / "to"
    assert barbara.json("results", key, "--to", str(to))["missing"] == 0
    assert sorted(path.name for path in to.iterdir()) == sorted(
        f"{i}.out" for i in range(1, TASKS + 1)
    )
    assert all((to / f"{i}.out").read_text() == f"hello{i}\n" for i in range(1, TASKS + 1))
    # The submitter comes back after all: it gets what was made without it, once.
    ada.up("--cpus", "1")
    wait_until(lambda: ada.json("job", "show", job)["state"] == "succeeded", "ada hears of it")
    wait_until(
        lambda: len(list((tmp_path / "lost").iterdir())) == TASKS, "ada gets all", timeout_s=60
    )
    ada.p2prc("watch", job)
