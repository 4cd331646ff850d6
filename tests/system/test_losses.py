"""kill -9 anywhere loses no finished work and leaves nothing behind."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.system.nodes import NodeUnderTest, is_alive, processes_below, wait_until

MakeNodes = Callable[..., list[NodeUnderTest]]


def facts_of(node: NodeUnderTest, job: str) -> list[dict[str, object]]:
    """Read a job's ledger from disk, as it is."""
    with sqlite3.connect(f"file:{node.home}/state.db?mode=ro", uri=True) as database:
        rows = database.execute("select content from fact where job = ? order by seq", (job,))
        found = [msgspec.msgpack.decode(row[0]) for row in rows]
    database.close()
    return found


def test_tasks_of_a_killed_provider_go_elsewhere(make_nodes: MakeNodes, tmp_path: Path) -> None:
    ada, grace, linus = make_nodes(3, "--cpus", "2")
    job = ada.json(
        "map", "--over", "i=1-18", "--out", "*.txt", "--to", str(tmp_path / "to"),
        "--on", f"{grace.name},{linus.name}", "--", "sh", "-c", "sleep 0.5; echo {i} > {i}.txt",
    )["id"]  # fmt: skip
    wait_until(lambda: ada.json("job", "show", job)["tasks"]["succeeded"] >= 2, "some are done")
    grace.kill_9()
    took_s = wait_until(
        lambda: any(
            row["state"] in ("suspect", "dead")
            for row in ada.json("nodes")
            if row["name"] == grace.name
        ),
        "the dead node is noticed",
    )
    assert took_s < 7.0
    ada.p2prc("watch", job)
    shown = ada.json("job", "show", job)
    assert shown["tasks"]["succeeded"] == 18
    assert len(list((tmp_path / "to").iterdir())) == 18


def test_a_submitter_that_is_killed_carries_on_and_repeats_no_finished_task(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    ada, grace, linus = make_nodes(3, "--cpus", "2")
    job = ada.json(
        "map", "--over", "i=1-20", "--out", "*.txt", "--to", str(tmp_path / "to"),
        "--on", f"{grace.name},{linus.name}", "--", "sh", "-c", "sleep 0.5; echo {i} > {i}.txt",
    )["id"]  # fmt: skip
    wait_until(lambda: ada.json("job", "show", job)["tasks"]["succeeded"] >= 4, "some are done")
    ada.kill_9()
    finished = {fact["task"] for fact in facts_of(ada, job) if fact["type"] == "succeeded"}
    before = len(facts_of(ada, job))
    assert len(finished) >= 4
    ada.up()
    ada.p2prc("watch", job)
    again = {fact["task"] for fact in facts_of(ada, job)[before:] if fact["type"] == "assigned"}
    assert not finished & again
    assert ada.json("job", "show", job)["tasks"]["succeeded"] == 20
    assert len(list((tmp_path / "to").iterdir())) == 20


def test_a_killed_daemon_leaves_no_process_of_its_tenants(make_nodes: MakeNodes) -> None:
    ada, grace = make_nodes(2)
    running = ada.start("run", grace.name, "--", "sh", "-c", "echo started; sleep 300")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    grace.kill_9()
    wait_until(lambda: not processes_below(grace.home), "nothing is left", timeout_s=5)
    running.communicate(timeout=20)
    assert running.returncode == 125
    assert not _sleepers()


def _sleepers() -> list[str]:
    listed = subprocess.run(
        ["pgrep", "-fx", "sleep 300"], capture_output=True, text=True, check=False
    )
    return listed.stdout.split()


def test_a_second_daemon_in_one_home_is_refused_and_a_stale_socket_is_not(
    make_nodes: MakeNodes,
) -> None:
    (ada,) = make_nodes(1)
    said = ada.p2prc("--json", "up", "--detach", status=8)
    assert said.error["code"] == "home-busy"
    pid = ada.kill_9()
    assert not is_alive(pid)
    ada.p2prc("status", status=9)
    ada.up()
    ada.p2prc("status")
