"""Disks that are full, read-only or damaged: a clear error, and nothing finished is lost."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import (
    NodeUnderTest,
    at_once,
    join_all,
    stop_all,
    up_all,
    wait_until,
)
from tests.system.small_disks import SmallDisk, small_disk

MEBIBYTE = 1 << 20
SMALL = ("--disk", "4M", "--memory", "128M")
"""What a command may use on a disk of a few megabytes."""


class Full:
    """A network of two homes on disks of their own, and one on the usual disk."""

    def __init__(self, folder: Path, provider: SmallDisk, submitter: SmallDisk) -> None:
        self.provider_disk = provider
        self.submitter_disk = submitter
        self.provider = NodeUnderTest(provider.folder / "home", "small", within=provider.within)
        self.submitter = NodeUnderTest(submitter.folder / "home", "mine", within=submitter.within)
        self.usual = NodeUnderTest(folder / "usual", "usual")
        self.nodes = [self.provider, self.submitter, self.usual]


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Full]:
    folder = tmp_path_factory.mktemp("disks")
    with (
        small_disk(folder / "provider", size_bytes=24 * MEBIBYTE) as first,
        small_disk(folder / "submitter", size_bytes=24 * MEBIBYTE) as second,
    ):
        world = Full(folder, first, second)
        for disk in (first, second):
            # The quota must not be what refuses: the disk shall.
            (disk.outside / "home").mkdir(mode=0o700)
            (disk.outside / "home" / "config.toml").write_text('[cache]\nbytes = "1G"\n')
        try:
            at_once([lambda n=n: n.up("--cpus", "2", "--disk", "1G") for n in world.nodes])  # type: ignore[misc]
            ticket = world.submitter.p2prc("invite", "--lan").out.strip()
            at_once(
                [lambda n=n: n.p2prc("join", ticket) for n in (world.provider, world.usual)]  # type: ignore[misc]
            )
            wait_until(lambda: len(world.submitter.states()) == 3, "all three know each other")
            yield world
        finally:
            at_once([lambda n=n: n.p2prc("down", status=None) for n in world.nodes])  # type: ignore[misc]


def test_inputs_that_do_not_fit_at_the_provider_are_refused_with_the_reason(full: Full) -> None:
    large = full.usual.home.parent / "large"
    large.write_bytes(os.urandom(30 * MEBIBYTE))
    said = full.usual.p2prc(
        "--json", "run", "small", *SMALL, "--in", str(large), "--", "true", status=125
    )
    assert said.error["code"] == "disk-full"
    assert full.usual.p2prc("run", "small", *SMALL, "--", "echo", "well").out == "well\n"
    assert full.provider_disk.free_bytes > 16 * MEBIBYTE


def test_a_provider_with_a_full_disk_says_so_and_recovers(full: Full) -> None:
    script = full.usual.home.parent / "script"
    script.write_bytes(os.urandom(4096))
    filler = full.provider_disk.fill()
    try:
        said = full.usual.p2prc(
            "--json", "run", "small", *SMALL, "--in", str(script), "--", "true", status=125
        )
        assert said.error["code"] == "disk-full"
        assert said.error["hint"]
        said = full.usual.p2prc("--json", "create", "small", *SMALL, status=8)
        assert said.error["code"] == "disk-full"
        assert full.provider.json("status")["state"] == "running"
        assert full.provider.json("leases") == []
        assert list((full.provider_disk.outside / "home" / "leases").iterdir()) == []
    finally:
        filler.unlink()
    assert full.usual.p2prc("run", "small", *SMALL, "--", "echo", "well").out == "well\n"


def test_tasks_leave_a_provider_whose_disk_is_full(full: Full, tmp_path: Path) -> None:
    filler = full.provider_disk.fill(leaving_bytes=MEBIBYTE)
    try:
        job = full.usual.json(
            "map", *SMALL, "--cpus", "0.5", "--over", "i=1-6", "--out", "*.bin",
            "--to", str(tmp_path / "to"), "--on", "small,usual", "--",
            "sh", "-c", "head -c 2000000 /dev/urandom > {i}.bin",
        )["id"]  # fmt: skip
        full.usual.p2prc("watch", job)
    finally:
        filler.unlink()
    shown = full.usual.json("job", "show", job)
    assert shown["tasks"]["succeeded"] == 6
    assert {failure["node_name"] for failure in shown["failures"]} == {"small"}
    assert all("disk" in failure["reason"] for failure in shown["failures"])
    assert not any(str(full.provider.home) in failure["reason"] for failure in shown["failures"])
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "to").iterdir()}
    assert sizes == {f"{i}.bin": 2_000_000 for i in range(1, 7)}


def test_results_wait_for_room_where_they_are_to_go(full: Full, tmp_path: Path) -> None:
    """The folder's disk fills up in the middle of a job: nothing fails, nothing runs twice."""
    ran = tmp_path / "to"
    with small_disk(ran, size_bytes=6 * MEBIBYTE) as disk:
        filler = disk.fill(leaving_bytes=5 * MEBIBYTE // 2)
        job = full.usual.json(
            "map", *SMALL, "--over", "i=1-5", "--out", "*.bin", "--to", str(disk.outside),
            "--on", "usual", "--", "sh", "-c", "head -c 1000000 /dev/urandom > {i}.bin",
        )["id"]  # fmt: skip
        wait_until(
            lambda: "disk is full" in full.usual.json("job", "show", job)["blocked"],
            "the job says what it waits for",
        )
        assert len(list(disk.outside.glob("*.bin"))) >= 2
        filler.unlink()
        full.usual.p2prc("watch", job)
        shown = full.usual.json("job", "show", job)
        assert shown["state"] == "succeeded"
        assert shown["failures"] == []
        assert sum(share["succeeded"] for share in shown["nodes"].values()) == 5
        sizes = {path.name: path.stat().st_size for path in disk.outside.iterdir()}
        assert sizes == {f"{i}.bin": 1_000_000 for i in range(1, 6)}


def test_a_ledger_without_room_holds_the_job_and_loses_nothing(full: Full) -> None:
    mine, disk = full.submitter, full.submitter_disk
    job = mine.json(
        "map", *SMALL, "--over", "i=1-20", "--out", "*.txt", "--to", str(disk.folder / "to"),
        "--on", "usual", "--", "sh", "-c", "sleep 0.2; echo {i} > {i}.txt",
    )["id"]  # fmt: skip
    wait_until(lambda: mine.json("job", "show", job)["tasks"]["succeeded"] >= 2, "some are done")
    filler = disk.fill()
    try:
        wait_until(
            lambda: "disk is full" in mine.json("job", "show", job)["blocked"],
            "the job says what it waits for",
        )
        done = mine.json("job", "show", job)["tasks"]["succeeded"]
        said = mine.p2prc("--json", "map", "--over", "i=1-9", "--", "echo", "x" * 100_000, status=8)
        assert said.error["code"] == "disk-full"
    finally:
        filler.unlink()
    mine.p2prc("watch", job)
    shown = mine.json("job", "show", job)
    assert shown["tasks"]["succeeded"] == 20 > done
    assert len(list((disk.outside / "to").iterdir())) == 20


def test_a_home_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    said = NodeUnderTest(tmp_path / "file", "node").up("--json", status=8)
    assert said.error["code"] == "home-unusable"
    said = NodeUnderTest(tmp_path / "file" / "below", "node").up("--json", status=8)
    assert said.error["code"] == "home-unusable"
    with small_disk(tmp_path / "disk", options="ro") as disk:
        for home in (disk.folder, disk.folder / "new"):
            node = NodeUnderTest(home, "node", within=disk.within)
            said = node.up("--json", status=8)
            assert said.error["code"] == "home-unusable"
            assert "read-only" in said.error["message"].lower()
            assert str(home) in said.error["message"]
            assert said.error["hint"]


def test_a_damaged_state_is_set_aside_and_said(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "home", "node")
    try:
        node.up()
        before = node.id
        node.p2prc("down")
        state = node.home / "state.db"
        state.write_bytes(b"this is no database" * 1000)
        said = node.up()
        assert "damaged" in said.out
        assert node.id == before
        assert "damaged" in node.json("status")["notices"][0]
        assert [path.name for path in node.home.glob("state.damaged-*")]
        assert node.p2prc("run", "node", "--", "echo", "well").out == "well\n"
        node.p2prc("down")
        assert "damaged" not in node.up().out
        with sqlite3.connect(f"file:{state}?mode=ro", uri=True) as database:
            assert database.execute("pragma quick_check").fetchone() == ("ok",)
        database.close()
    finally:
        node.stop()


def test_a_state_cut_in_half_loses_no_membership(tmp_path: Path) -> None:
    founder, member = (NodeUnderTest(tmp_path / name, name) for name in ("ada", "grace"))
    try:
        up_all([founder, member])
        join_all([founder, member])
        network = founder.json("status")["network"]
        spare = member.home / "membership"
        wait_until(lambda: spare.exists() and spare.stat().st_size > 500, "it is kept")
        member.p2prc("down")
        assert (member.home / "membership").stat().st_mode & 0o777 == 0o600
        state = member.home / "state.db"
        os.truncate(state, state.stat().st_size // 2)
        said = member.up()
        assert "damaged" in said.out
        assert "membership was kept" in member.json("status")["notices"][0]
        assert member.json("status")["network"] == network
        wait_until(lambda: member.states().get("ada") == "alive", "it is back by itself")
        assert member.p2prc("run", "ada", "--", "echo", "well").out == "well\n"
    finally:
        stop_all([founder, member])


def test_a_damaged_key_is_said_and_never_replaced(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "home", "node")
    try:
        node.up()
        node.p2prc("down")
        for content in (b"", b"0123", b"not hexadecimal at all" * 3, b"\0" * 65):
            (node.home / "key").write_bytes(content)
            said = node.up("--json", status=8)
            assert said.error["code"] == "home-unusable"
            assert "key" in said.error["message"]
            assert "backup" in said.error["hint"]
            assert (node.home / "key").read_bytes() == content
    finally:
        node.stop()


def test_a_home_with_a_very_long_path_works(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / ("long" * 40) / ("path" * 40), "node")
    try:
        assert len(str(node.home)) > 300
        node.up()
        assert node.p2prc("run", "node", "--", "echo", "well").out == "well\n"
        node.p2prc("down")
        node.p2prc("status", status=9)
    finally:
        stop_all([node])
