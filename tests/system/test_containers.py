"""Containers between real nodes: made, worked in, kept over a restart, given back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contract.runtime_bench import ENGINE_WANTED
from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all, wait_until


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


def test_many_at_once_and_what_of_them_cannot_be(tmp_path: Path) -> None:
    has_engine = os.environ.get(ENGINE_WANTED) != "0" and Path("/var/run/docker.sock").is_socket()
    usual = {"P2PRC_RUNTIME": "auto"} if has_engine else {}
    ada = NodeUnderTest(tmp_path / "ada", "ada")
    grace = NodeUnderTest(tmp_path / "grace", "grace", variables=usual)
    try:
        up_all([ada, grace], "--cpus", "1")
        join_all([ada, grace])
        for runtime in ("process", "docker") if has_engine else ("process",):
            _make_many(ada, grace, runtime)
    finally:
        stop_all([ada, grace])


def _make_many(ada: NodeUnderTest, grace: NodeUnderTest, runtime: str) -> None:
    made = ada.json(
        "create", "grace", "--count", "20", "--cpus", "0.04", "--memory", "64M", "--name", "w",
        "--group", "web", "--ports", "2", "--runtime", runtime,
    )  # fmt: skip
    assert sorted(row["name"] for row in made) == sorted(f"w-{n}" for n in range(1, 21))
    assert {row["state"] for row in ada.json("ps")} == {"active"}
    said = ada.p2prc("exec", "web", "--", "sh", "-c", "echo $P2PRC_PORT2; exit 3", status=3)
    assert sorted(said.out.split()) == sorted([*(row["name"] for row in made), *["|", "8001"] * 20])

    some = ada.p2prc("--json", "create", "grace", "--count", "3", "--cpus", "0.1", status=6)
    assert len(some.data) == 2
    assert some.error["code"] == "peer-busy"
    assert len(ada.json("ps")) == len(grace.json("leases")) == 22
    ada.p2prc("rm", "web", *(row["id"] for row in some.data))
    assert ada.json("ps", "--all") == []
    wait_until(lambda: grace.json("leases") == [], "all are given back")


def test_a_container_from_create_to_rm(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, grace = pair
    made = ada.json(
        "create", "grace", "--cpus", "0.3", "-e", "GREETING=hello", "--name", "box",
        "--", "sh", "-c", "echo began; sleep 600",
    )  # fmt: skip
    assert (made["node"], made["state"]) == (grace.id, "active")

    said = ada.p2prc("exec", "box", "--", "sh", "-c", "echo $GREETING; exit 3", status=3)
    assert said.out == "hello\n"
    assert ada.p2prc("exec", "-i", "box", "--", "cat", stdin="over\n").out == "over\n"
    assert "does not exist" in ada.p2prc("exec", "box", "--", "nonesuch", status=125).err
    wait_until(lambda: ada.p2prc("logs", "box").out == "began\n", "it came to be so")

    (tmp_path / "sent" / "inner").mkdir(parents=True)
    (tmp_path / "sent" / "inner" / "file").write_bytes(content := os.urandom(300_000))
    ada.p2prc("cp", str(tmp_path / "sent"), "box:there")
    ada.p2prc("cp", "box:there", str(tmp_path / "back"))
    assert (tmp_path / "back" / "inner" / "file").read_bytes() == content
    assert ada.p2prc("cp", "box:nothing", str(tmp_path / "x"), status=4).err

    ada.kill_9()
    ada.up()
    wait_until(lambda: [row["state"] for row in ada.json("ps")] == ["active"], "it came to be so")
    assert ada.p2prc("exec", "box", "--", "ls").out == "there\n"

    other = ada.json("create", "grace", "--cpus", "0.3")
    grace.p2prc("kill", other["id"])
    [gone] = [row for row in ada.json("ps") if row["id"] == other["id"]]
    assert (gone["state"], gone["ended_by"]) == ("ended", "owner")

    ada.p2prc("rm", "box")
    wait_until(lambda: grace.json("leases") == [], "it came to be so")
    ada.p2prc("rm", other["id"])
    assert ada.json("ps", "--all") == []
