"""The owner of a machine stays its owner: ceilings, limits, and the end of whatever runs."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, at_once, processes_below, stop_all, wait_until

OWNED = ("--cpus", "2", "--memory", "1G", "--disk", "1G")
FORK_BOMB = """
import os, time
alive = 0
try:
    for _ in range(300):
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        alive += 1
except BlockingIOError:
    print("stopped at", alive, flush=True)
    raise SystemExit(11)
"""


class Owned:
    """A machine that is lent, and two that use it."""

    def __init__(self, owner: NodeUnderTest, users: list[NodeUnderTest]) -> None:
        self.owner = owner
        self.users = users

    def start(self, number: int, *words: str) -> subprocess.Popen[str]:
        """Begin a command on the owner's machine and wait until it prints `started`."""
        running = self.users[number].start(
            "run", "owner", "--memory", "64M", "--disk", "64M", *words
        )
        assert running.stdout is not None
        assert running.stdout.readline() == "started\n", running.communicate()
        return running

    def holders(self) -> list[str]:
        return sorted(row["peer_name"] for row in self.owner.json("leases"))


@pytest.fixture(scope="module")
def owned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Owned]:
    folder = tmp_path_factory.mktemp("owner")
    owner = NodeUnderTest(folder / "owner", "owner")
    users = [NodeUnderTest(folder / name, name) for name in ("ada", "bob")]
    try:
        at_once([lambda: owner.up(*OWNED), *(lambda u=user: u.up("--no-lend") for user in users)])
        ticket = owner.p2prc("invite", "--lan").out.strip()
        at_once([lambda u=user: u.p2prc("join", ticket) for user in users])  # type: ignore[misc]
        for user in users:
            wait_until(
                lambda user=user: user.states().get("owner") == "alive",  # type: ignore[misc]
                "they see the owner",
            )
        yield Owned(owner, users)
    finally:
        stop_all([owner, *users])


SLEEP = ("--", "sh", "-c", "echo started; sleep 120")


def ended(running: subprocess.Popen[str]) -> str:
    """Wait for a command that could not finish; return what it said about that."""
    _, err = running.communicate(timeout=20)
    assert running.returncode == 125
    return err


def test_up_says_what_is_lent_to_whom_and_how_to_change_that(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "home", "node")
    try:
        said = node.up("--cpus", "1", "--memory", "300M", "--disk", "2G").out
        assert node.id in said
        for words in ("1 core", "300 MiB", "2 GiB", "members", "no network"):
            assert words in said
        for command in ("p2prc policy", "p2prc pause", "p2prc leases", "p2prc kill", "invite"):
            assert command in said
        node.p2prc("down")
        said = node.up("--no-lend").out
        assert "lends nothing" in said
        assert node.json("status")["lending"]["enabled"] is False
    finally:
        node.stop()


def test_a_node_that_lends_nothing_refuses_and_says_so(owned: Owned) -> None:
    ada = owned.users[0]
    wait_until(lambda: "bob" in ada.states(), "ada knows bob")
    said = ada.p2prc("--json", "run", "bob", "--", "true", status=125)
    assert said.error["code"] in ("policy-refuses", "no-node-matches")
    assert "lends nothing" in said.error["message"]
    assert ada.json("run", "any", *SMALL, "--", "true")["node"] == owned.owner.id


SMALL = ("--memory", "64M", "--disk", "64M")


def test_ceilings_hold_over_all_leases_together(owned: Owned) -> None:
    running = [owned.start(0, *SLEEP), owned.start(1, *SLEEP)]
    try:
        leases = owned.owner.json("leases")
        assert len(leases) == 2
        assert {row["peer_name"] for row in leases} == {"ada", "bob"}
        said = owned.users[0].p2prc("--json", "run", "owner", *SMALL, "--", "true", status=125)
        assert said.error["code"] in ("peer-busy", "no-node-matches")
        assert said.error["retryable"]
    finally:
        killed = owned.owner.json("kill", "--all")["ended"]
    assert sorted(killed) == sorted(row["id"] for row in leases)
    assert all("owner" in ended(process) for process in running)
    assert owned.owner.json("leases") == []
    said = owned.users[0].p2prc(
        "--json", "run", "owner", "--memory", "2G", "--disk", "64M", "--", "true", status=125
    )
    assert "memory" in said.error["message"]


def test_a_job_never_holds_more_than_is_lent(owned: Owned) -> None:
    samples: list[int] = []
    ada = owned.users[0]
    job = ada.json("map", *SMALL, "--over", "i=1-16", "--", "sleep", "0.3")["id"]

    def is_over() -> bool:
        samples.append(len(owned.owner.json("leases")))
        return bool(ada.json("job", "show", job)["state"] == "succeeded")

    wait_until(is_over, "the job is done")
    assert max(samples) == 2
    wait_until(lambda: owned.owner.json("leases") == [], "nothing is held any more")


def test_kill_peer_ends_what_one_node_runs_and_nothing_else(owned: Owned) -> None:
    adas, bobs = owned.start(0, *SLEEP), owned.start(1, *SLEEP)
    owned.owner.p2prc("kill", "--peer", "ada")
    assert "owner" in ended(adas)
    assert bobs.poll() is None
    assert owned.holders() == ["bob"]
    owned.owner.p2prc("kill", owned.owner.json("leases")[0]["id"])
    ended(bobs)
    owned.owner.p2prc("kill", status=2)
    said = owned.owner.p2prc("--json", "kill", "ab" * 10, status=4)
    assert said.error["code"] == "lease-unknown"


def test_a_pause_lets_what_runs_go_on_and_lends_nothing_new(owned: Owned) -> None:
    ada = owned.users[0]
    running = owned.start(0, *SLEEP)
    owned.owner.p2prc("pause")
    assert owned.owner.json("status")["state"] == "paused"
    said = ada.p2prc("--json", "run", "any", *SMALL, "--", "true", status=125)
    assert said.error["code"] in ("lending-paused", "no-node-matches")
    job = ada.json("map", *SMALL, "--over", "i=1-2", "--", "true")["id"]
    assert running.poll() is None
    owned.owner.p2prc("resume")
    ada.p2prc("watch", job)
    owned.owner.p2prc("kill", "--all")
    ended(running)


def test_a_memory_hog_is_ended_and_its_requester_is_told_how_much_it_took(owned: Owned) -> None:
    said = owned.users[0].p2prc(
        "--json", "run", "owner", *SMALL, "--",
        "python3", "-c", "hog = b'x' * (400 << 20); print(len(hog))", status=125,
    )  # fmt: skip
    assert said.error["code"] == "limit-exceeded"
    assert "memory" in said.error["message"]
    assert owned.owner.json("leases") == []


def test_work_that_takes_too_long_is_ended(owned: Owned) -> None:
    ada = owned.users[0]
    said = ada.p2prc(
        "--json", "run", "owner", *SMALL, "--timeout", "1s", "--", "sleep", "60", status=125
    )
    assert said.error["code"] == "timed-out"
    said = ada.p2prc(
        "--json", "run", "owner", *SMALL, "--lifetime", "1s", "--", "sleep", "60", status=125
    )
    assert said.error["code"] in ("timed-out", "lease-ended")
    assert "time" in said.error["message"]


def test_three_hundred_processes_do_not_fit_and_none_is_left(owned: Owned) -> None:
    said = owned.users[0].p2prc(
        "run", "owner", "--memory", "512M", "--disk", "64M", "--",
        "python3", "-c", FORK_BOMB, status=None,
    )  # fmt: skip
    assert said.status == 11, said
    reached = int(said.out.split()[-1])
    assert 10 < reached <= 256
    wait_until(
        lambda: len(processes_below(owned.owner.home)) <= 1, "only the daemon is left", timeout_s=5
    )


def test_what_ran_leaves_no_process_and_no_file(owned: Owned) -> None:
    ada = owned.users[0]
    ada.p2prc(
        "run", "owner", *SMALL, "--",
        "sh", "-c", "echo x > left; mkdir -p deep/er; (setsid sleep 300 &) ; echo done",
    )  # fmt: skip
    wait_until(lambda: not list((owned.owner.home / "leases").iterdir()), "no folder is left")
    wait_until(lambda: len(processes_below(owned.owner.home)) <= 1, "no process is left")
