"""Containers whose provider is killed: kept or ended as its owner wants, nothing left behind."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import (
    NodeUnderTest,
    join_all,
    processes_below,
    sees_all,
    stop_all,
    up_all,
    wait_until,
)

AGAIN = "echo begun | tee -a begun; sleep 600"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[NodeUnderTest, NodeUnderTest]]:
    ada = NodeUnderTest(tmp_path / "ada", "ada")
    grace = NodeUnderTest(tmp_path / "grace", "grace")
    try:
        up_all([ada, grace])
        join_all([ada, grace])
        yield ada, grace
    finally:
        stop_all([ada, grace])


def used_s(node: NodeUnderTest) -> float:
    return sum(float(peer["cpu_s"]) for peer in node.json("usage"))


def row(node: NodeUnderTest, lease: str) -> dict[str, object]:
    [found] = [each for each in node.json("ps", "--all") if each["id"] == lease]
    return dict(found)


def test_a_container_outlives_the_death_of_its_node(
    pair: tuple[NodeUnderTest, NodeUnderTest],
) -> None:
    ada, grace = pair
    refused = ada.p2prc("create", "grace", "--lifetime", "none", status=5)
    assert "`p2prc policy set lend.lifetime none`" in refused.err
    grace.p2prc("policy", "set", "lend.lifetime", "none")
    kept = ada.json(
        "create", "grace", "--cpus", "0.2", "-e", "GREETING=hello", "--name", "box", "--lifetime",
        "none", "--volume", "data:/data", "--restart", "always", "--", "sh", "-c", AGAIN,
    )["id"]  # fmt: skip
    short = ada.json("create", "grace", "--cpus", "0.2", "--lifetime", "8s")["id"]
    given_back = ada.json("create", "grace", "--cpus", "0.2")["id"]
    ada.p2prc("exec", "box", "--", "sh", "-c", "echo $GREETING > file; echo kept > /data/file")
    ada.p2prc("rm", given_back)
    wait_until(lambda: len(grace.json("leases")) == 2, "one is given back")

    ada.p2prc("exec", "box", "--", "sh", "-c", "n=0; while [ $n -lt 150000 ]; do n=$((n+1)); done")
    wait_until(lambda: used_s(grace) > 0, "it is counted")
    time.sleep(1.5)
    counted_s = used_s(grace)
    expires_at = time.time() + 8
    grace.kill_9()
    time.sleep(max(0.0, expires_at - time.time()))
    grace.up()

    wait_until(lambda: row(ada, kept)["state"] == "active", "it is there again")
    assert ada.p2prc("exec", "box", "--", "sh", "-c", "cat file; echo $GREETING").out == (
        "hello\nhello\n"
    )
    wait_until(
        lambda: ada.p2prc("exec", "box", "--", "cat", "begun").out == "begun\n" * 2,
        "its main process began again",
    )
    printed = ada.p2prc("logs", "box")
    assert printed.out == "begun\n" * 2
    assert "it ended with its node" in printed.err
    assert row(ada, kept)["expires_at"] is None
    assert grace.json("leases")[0]["expires_at"] is None
    wait_until(lambda: row(ada, short)["state"] == "ended", "its time is over")
    assert row(ada, short)["ended_by"] == "time"
    assert [each["id"] for each in grace.json("leases")] == [kept]
    time.sleep(1.5)
    assert counted_s <= used_s(grace) < 1.8 * counted_s
    folders = list((grace.home / "leases").iterdir())
    assert [folder.name.rpartition("-")[2] for folder in folders] == [kept]

    said = ada.p2prc("volumes", "grace", "--erase", "data", status=6)
    assert "is used by a lease" in said.err
    ada.p2prc("rm", "box")
    wait_until(lambda: grace.json("leases") == [], "it is given back")
    assert list((grace.home / "leases").iterdir()) == []
    assert list((grace.home / "leases-logs").iterdir()) == []
    grace.kill_9()
    grace.up()
    assert grace.json("leases") == []

    wait_until(lambda: sees_all(ada, [ada, grace]), "they see each other")
    ada.p2prc("create", "grace", "--cpus", "0.2", "--volume", "data:/mnt", "--name", "next")
    assert ada.p2prc("exec", "next", "--", "cat", "/mnt/file").out == "kept\n"
    ada.p2prc("rm", "next")
    wait_until(lambda: [v["used"] for v in ada.json("volumes", "grace")] == [False], "it is free")
    grace.p2prc("volumes", "--erase", "data", "--peer", "ada")
    assert ada.json("volumes", "grace") == grace.json("volumes") == []


def test_an_owner_may_want_nothing_kept(pair: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    ada, grace = pair
    grace.p2prc("policy", "set", "lend.after_restart", "end")
    mark = grace.home / "mark"
    runs = f"sleep 600; : {mark}"
    lease = ada.json("create", "grace", "--cpus", "0.2", "--", "sh", "-c", runs)["id"]
    wait_until(lambda: processes_below(mark) != [], "it runs")
    grace.kill_9()
    grace.up()
    assert grace.json("leases") == []
    assert list((grace.home / "leases").iterdir()) == []
    assert processes_below(mark) == []
    wait_until(lambda: row(ada, lease)["state"] == "ended", "its requester learns of it")
    assert row(ada, lease)["ended_by"] == "owner"
