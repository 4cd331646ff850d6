"""The owner's rules on real nodes: usage that survives a kill, quiet hours, shares, host access."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, at_once, stop_all, wait_until

SMALL = ("--memory", "64M", "--disk", "64M")
BUSY = ("--", "sh", "-c", "echo started; while :; do :; done")


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[NodeUnderTest, NodeUnderTest]]:
    owner = NodeUnderTest(tmp_path / "owner", "owner")
    ada = NodeUnderTest(tmp_path / "ada", "ada")
    try:
        at_once(
            [
                lambda: owner.up("--cpus", "2", "--memory", "1G", "--disk", "1G"),
                lambda: ada.up("--no-lend"),
            ]
        )
        ada.p2prc("join", owner.p2prc("invite", "--lan").out.strip())
        wait_until(lambda: ada.states().get("owner") == "alive", "ada sees the owner")
        yield owner, ada
    finally:
        stop_all([owner, ada])


def started(node: NodeUnderTest, *words: str) -> subprocess.Popen[str]:
    running = node.start("run", "owner", *SMALL, *words)
    assert running.stdout is not None
    assert running.stdout.readline() == "started\n", running.communicate()
    return running


def test_usage_of_a_lease_that_a_killed_node_held_is_kept(
    pair: tuple[NodeUnderTest, NodeUnderTest],
) -> None:
    owner, ada = pair
    running = started(ada, *BUSY)
    try:
        wait_until(
            lambda: any(row["cpu_s"] > 0 for row in owner.json("usage")),
            "something is counted",
            timeout_s=20,
        )
        [before] = owner.json("usage")
        os.kill(owner.json("status")["pid"], signal.SIGKILL)
        running.communicate(timeout=60)
        owner.up()
        [after] = owner.json("usage", "--since", "1d")
    finally:
        running.kill()
        running.communicate()
    assert after["peer_name"] == "ada"
    assert after["cpu_s"] >= before["cpu_s"] > 0
    assert (before["leases"], after["leases"]) == (1, 1)


def test_an_owner_who_needs_the_machine_has_it_and_gives_it_back(
    pair: tuple[NodeUnderTest, NodeUnderTest],
) -> None:
    owner, ada = pair
    running = started(ada, *BUSY)
    owner.p2prc("policy", "set", "lend.quiet_hours", "00:00-24:00")
    wait_until(lambda: owner.json("leases")[0]["state"] == "suspended", "it is suspended")
    assert "quiet hours" in owner.json("status")["lending"]["needed_for"]
    assert "nothing new: these are the owner's quiet hours" in owner.p2prc("status").out
    said = ada.p2prc("--json", "run", "owner", *SMALL, "--", "true", status=125)
    assert said.error["code"] in ("lending-paused", "no-node-matches")
    # Two readings of a stopped lease are equal, which no running one's are.
    wait_until(
        lambda: owner.json("leases")[0]["cpu_s"] == owner.json("leases")[0]["cpu_s"],
        "it uses nothing",
    )
    owner.p2prc("policy", "set", "lend.quiet_hours", "")
    wait_until(lambda: owner.json("leases")[0]["state"] == "active", "it goes on")
    owner.p2prc("policy", "set", "lend.when_needed", "end")
    owner.p2prc("policy", "set", "lend.quiet_hours", "00:00-24:00")
    _, err = running.communicate(timeout=20)
    assert running.returncode == 125
    assert "quiet hours" in err


def test_a_peers_share_and_its_use_are_shown(pair: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    owner, ada = pair
    owner.p2prc("policy", "set", "lend.per_peer.cpus", "1")
    running = started(ada, *BUSY)
    rules = {row["key"]: row for row in owner.json("policy", "show")}
    assert rules["lend.per_peer.cpus"]["used"] == "1"
    assert rules["lend.leases"]["used"] == "1"
    said = ada.p2prc("--json", "run", "owner", *SMALL, "--", "true", status=125)
    assert "one peer" in said.error["message"]
    said = ada.p2prc("--json", "run", "owner", "--gpus", "1", "--", "true", status=125)
    assert "graphics card" in said.error["message"]
    bad = owner.p2prc("--json", "policy", "set", "lend.quiet_hours", "soon", status=3)
    assert "soon" in bad.error["message"]
    kept = {row["key"]: row["value"] for row in owner.json("policy", "show")}
    assert kept["lend.per_peer.cpus"] == "1"
    owner.p2prc("kill", "--all")
    running.communicate(timeout=20)


def test_host_access_is_for_who_is_named_in_its_file(
    pair: tuple[NodeUnderTest, NodeUnderTest],
) -> None:
    owner, ada = pair
    bare = ("run", "owner", *SMALL, "--tier", "none", "--", "ls", "/")
    said = ada.p2prc("--json", *bare, status=125)
    assert "host access" in said.error["message"]
    file = owner.home / "host-access"
    file.write_text(ada.id)
    file.chmod(0o600)
    # Looked at every half minute, and whenever a rule changes.
    owner.p2prc("policy", "set", "lend.leases", "9")
    assert owner.json("status")["host_access"] == [ada.id]
    assert "host access is on: ada" in owner.p2prc("status").out
    assert "root" in ada.p2prc(*bare).out.split()
    file.write_text("")
    owner.p2prc("policy", "set", "lend.leases", "8")
    assert owner.json("status")["host_access"] == []
    assert "host access" in ada.p2prc("--json", *bare, status=125).error["message"]
