"""kill -9 anywhere loses no finished work and leaves nothing behind."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from pathlib import Path

import msgspec

from tests.system.nodes import NodeUnderTest, at_once, is_alive, processes_below, wait_until

MakeNodes = Callable[..., list[NodeUnderTest]]


def facts_of(node: NodeUnderTest, job: str) -> list[dict[str, object]]:
    """Read a job's ledger from disk, as it is: facts on pages, then those that are on none yet."""
    with sqlite3.connect(f"file:{node.home}/state.db?mode=ro", uri=True) as database:
        database.execute("begin")
        pages = database.execute("select envelope from page where job = ? order by seq", (job,))
        payloads = [msgspec.msgpack.decode(row[0])[1] for row in pages]
        found = [fact for payload in payloads for fact in msgspec.msgpack.decode(payload)["facts"]]
        rows = database.execute("select content from fact where job = ? order by seq", (job,))
        found += [msgspec.msgpack.decode(row[0]) for row in rows]
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
    # Half of it goes by even where the machine is idle; `make figures` measures it.
    assert took_s < 25.0
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
    before = facts_of(ada, job)
    assert len(finished) >= 4
    ada.up()
    ada.p2prc("watch", job)
    since = [fact for fact in facts_of(ada, job) if fact not in before]
    again = {fact["task"] for fact in since if fact["type"] == "assigned"}
    assert not finished & again
    assert ada.json("job", "show", job)["tasks"]["succeeded"] == 20
    assert len(list((tmp_path / "to").iterdir())) == 20


LARGE_BYTES = 96 << 20
LARGE = f"yes {{i}} | head -c {LARGE_BYTES} > {{i}}.bin"


def is_receiving(node: NodeUnderTest) -> bool:
    """Whether a large blob is half here."""
    try:
        sizes = [path.stat().st_size for path in (node.home / "blobs" / "incoming").iterdir()]
    except FileNotFoundError:
        # It was finished between two looks.
        return False
    # The job's own description passes through there too, and is small.
    return any(1 << 20 < size < LARGE_BYTES for size in sizes)


def check_large(folder: Path, count: int) -> None:
    """See that every large output is there, whole and right."""
    for i in range(1, count + 1):
        content = (folder / f"{i}.bin").read_bytes()
        piece = f"{i}\n".encode()
        assert len(content) == LARGE_BYTES
        assert content == (piece * (LARGE_BYTES // len(piece) + 1))[:LARGE_BYTES]


def test_a_provider_that_dies_or_freezes_while_it_sends_a_result_is_replaced(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    """A killed process's port refuses what comes; a machine without power says nothing at all."""
    killed, frozen = make_nodes(3, "--cpus", "1"), make_nodes(3, "--cpus", "1")
    at_once(
        [
            lambda: _lose_the_sender(killed, signal.SIGKILL, tmp_path / "killed"),
            lambda: _lose_the_sender(frozen, signal.SIGSTOP, tmp_path / "frozen"),
        ]
    )


def _lose_the_sender(nodes: list[NodeUnderTest], how: signal.Signals, to: Path) -> None:
    ada, *providers = nodes
    pids = {provider.id: provider.pid for provider in providers}
    job = ada.json(
        "map", "--over", "i=1-3", "--out", "*.bin", "--to", str(to),
        "--on", ",".join(pids), "--", "sh", "-c", LARGE,
    )["id"]  # fmt: skip
    wait_until(lambda: is_receiving(ada), "a result is on its way", poll_s=0.002)
    sender = next(str(fact["node"]) for fact in facts_of(ada, job) if fact["type"] == "assigned")
    os.kill(pids[sender], how)
    try:
        ada.p2prc("watch", job)
    finally:
        if how == signal.SIGSTOP:
            os.kill(pids[sender], signal.SIGCONT)
    shown = ada.json("job", "show", job)
    assert shown["tasks"]["succeeded"] == 3
    assert sorted(path.name for path in to.iterdir()) == ["1.bin", "2.bin", "3.bin"]
    check_large(to, 3)


def test_a_submitter_that_dies_while_it_receives_a_result_takes_it_up_again(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    ada, grace = make_nodes(2, "--cpus", "1")
    to = tmp_path / "to"
    job = ada.json(
        "map", "--over", "i=1-2", "--out", "*.bin", "--to", str(to), "--on", grace.name,
        "--", "sh", "-c", LARGE,
    )["id"]  # fmt: skip
    pid = ada.pid
    wait_until(lambda: is_receiving(ada), "a result is on its way", poll_s=0.002)
    os.kill(pid, signal.SIGKILL)
    before = facts_of(ada, job)
    ada.up("--cpus", "1")
    ada.p2prc("watch", job)
    assert ada.json("job", "show", job)["tasks"]["succeeded"] == 2
    check_large(to, 2)
    # What grace had finished was handed over, not run again.
    assert attempts_of(ada, job, task=0) == 1
    assert len(before) < len(facts_of(ada, job))


def attempts_of(node: NodeUnderTest, job: str, task: int) -> int:
    """Count how often a task was given to somebody."""
    return sum(fact["type"] == "assigned" and fact["task"] == task for fact in facts_of(node, job))


def test_what_was_finished_while_both_sides_were_killed_is_collected_and_not_run_again(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    ada, grace = make_nodes(2, "--cpus", "2")
    to = tmp_path / "to"
    job = ada.json(
        "map", "--over", "i=1-2", "--out", "*.txt", "--to", str(to), "--on", grace.name,
        "--", "sh", "-c", "sleep 2; echo {i} > {i}.txt",
    )["id"]  # fmt: skip
    wait_until(lambda: ada.json("job", "show", job)["tasks"]["running"] == 2, "both run")
    ada.kill_9()
    wait_until(lambda: held_by(grace) == 2, "grace finished both and keeps the outcomes")
    grace.kill_9()
    assert not to.exists() or not list(to.iterdir())
    at_once([lambda node=node: node.up("--cpus", "2") for node in (ada, grace)])  # type: ignore[misc]
    ada.p2prc("watch", job)
    assert sorted(path.name for path in to.iterdir()) == ["1.txt", "2.txt"]
    assert [attempts_of(ada, job, task) for task in (0, 1)] == [1, 1]
    wait_until(lambda: held_by(grace) == 0, "grace forgets what was acknowledged")


def held_by(node: NodeUnderTest) -> int:
    """Count the outcomes that a node keeps for submitters."""
    with sqlite3.connect(f"file:{node.home}/state.db?mode=ro", uri=True) as database:
        (count,) = database.execute("select count(*) from attempt").fetchone()
    database.close()
    return int(count)


def test_an_owner_who_ends_everything_costs_a_job_a_detour_and_no_retry(
    make_nodes: MakeNodes,
) -> None:
    ada, grace, linus = make_nodes(3, "--cpus", "2")
    job = ada.json(
        "map", "--retries", "0", "--over", "i=1-12", "--on", f"{grace.name},{linus.name}",
        "--", "sleep", "0.6",
    )["id"]  # fmt: skip
    wait_until(lambda: len(grace.json("leases")) == 2, "grace works")
    wait_until(lambda: ada.json("job", "show", job)["tasks"]["running"] >= 3, "tasks run")
    assert len(grace.json("kill", "--all")["ended"]) == 2
    grace.p2prc("pause")
    ada.p2prc("watch", job)
    shown = ada.json("job", "show", job)
    assert shown["tasks"]["succeeded"] == 12
    assert shown["failures"]
    assert all("owner" in failure["reason"] for failure in shown["failures"])


def test_two_submitters_share_one_provider_and_both_finish(make_nodes: MakeNodes) -> None:
    ada, grace, linus = make_nodes(3, "--cpus", "2")
    words = ("--on", linus.name, "--", "sleep", "0.3")
    endless = ada.json("map", "--over", "i=1-1000", *words)["id"]
    wait_until(lambda: len(linus.json("leases")) == 2, "one holds all of it")
    job = grace.json("map", "--over", "i=1-12", *words)["id"]
    grace.p2prc("watch", job)
    assert grace.json("job", "show", job)["tasks"]["succeeded"] == 12
    tasks = ada.json("job", "show", endless)["tasks"]
    assert (tasks["failed"], tasks["queued"] > 0) == (0, True), tasks
    ada.p2prc("cancel", endless)
    wait_until(lambda: linus.json("leases") == [], "nothing is held")


def test_isolated_tasks_share_nothing_and_others_a_sandbox_without_what_was_left(
    make_nodes: MakeNodes,
) -> None:
    ada, grace = make_nodes(2, "--cpus", "1")
    alone = "test ! -e /tmp/mark && touch /tmp/mark"
    fresh = "test ! -e mark && touch mark && ! pgrep sleep && (setsid sleep 100 &) ; true"
    for options, script in (("--isolate",), alone), ((), fresh):
        words = ("--over", "i=1-6", "--on", grace.name, "--", "sh", "-c", script)
        ada.p2prc("map", "--watch", "--retries", "0", *options, *words)
    wait_until(lambda: grace.json("leases") == [], "nothing is held")
    wait_until(lambda: len(processes_below(grace.home)) <= 1, "no process is left")


def test_a_killed_daemon_leaves_no_process_of_its_tenants(make_nodes: MakeNodes) -> None:
    ada, grace = make_nodes(2)
    running = ada.start("run", grace.name, "--", "sh", "-c", "echo started; sleep 300")
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n"
    grace.kill_9()
    wait_until(lambda: not processes_below(grace.home), "nothing is left", timeout_s=20)
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


def test_a_paused_node_is_still_paused_after_a_crash(make_nodes: MakeNodes) -> None:
    (ada,) = make_nodes(1)
    ada.p2prc("pause")
    ada.kill_9()
    ada.up()
    assert ada.json("status")["state"] == "paused"
    ada.p2prc("run", "any", "--", "true", status=125)
    ada.p2prc("resume")
    ada.p2prc("run", "any", "--", "true")


def test_a_node_that_is_stopped_says_so_and_is_welcome_back(make_nodes: MakeNodes) -> None:
    ada, grace = make_nodes(2)

    def state_of_grace() -> str:
        rows = {row["id"]: row["state"] for row in ada.json("nodes")}
        return str(rows[identity])

    identity = grace.id
    grace.p2prc("down")
    wait_until(lambda: state_of_grace() == "left", "it is known to have stopped", timeout_s=20)
    grace.up()
    wait_until(lambda: state_of_grace() == "alive", "it is back")
    ada.p2prc("run", grace.name, "--", "true")
