"""Volumes: they outlive leases, have one user at a time, a bound, and an end when erased."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2prc.errors import DiskFull, JobInvalid, NotFound, PeerBusy, RuntimeMissing
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import MEBIBYTE
from p2prc.model.workload import Volume
from p2prc.node.volumes import VOLUMES_LIMIT, VolumeStore
from p2prc.runtime.port import VolumeMount
from tests.contract.runtime_bench import CONTAINED, WALLED, Bench, open_bench, python, run

ALICE, BOB = NodeId("a" * 64), NodeId("b" * 64)
ONE, TWO = LeaseId("1" * 20), LeaseId("2" * 20)
DATA = (Volume("data", "/data"),)


async def hold(
    store: VolumeStore, peer: NodeId, lease: LeaseId, volumes: tuple[Volume, ...]
) -> tuple[VolumeMount, ...]:
    return await store.hold(peer, lease, volumes, disk_bytes=100 * MEBIBYTE)


@pytest.fixture
def store(tmp_path: Path) -> VolumeStore:
    return VolumeStore(tmp_path / "volumes", lambda: MEBIBYTE)


async def test_a_volume_is_its_peers_own_and_has_one_user_at_a_time(store: VolumeStore) -> None:
    [mount] = await hold(store, ALICE, ONE, DATA)
    assert await hold(store, ALICE, ONE, DATA) == (mount,)
    with pytest.raises(PeerBusy):
        await hold(store, ALICE, TWO, DATA)
    # Another peer may call its lease and its volume the same.
    [other] = await hold(store, BOB, ONE, DATA)
    assert other.source != mount.source
    store.release(BOB, ONE)
    (mount.source / "file").write_bytes(b"x" * 1000)
    with pytest.raises(PeerBusy):
        await store.erase(ALICE, "data")
    store.release(ALICE, ONE)
    assert [(each.name, each.is_used) for each in await store.kept(ALICE)] == [("data", False)]
    assert len(await store.kept()) == 2
    await store.erase(ALICE, "data")
    assert await store.kept(ALICE) == []
    for name in ("data", "../" + BOB, ""):
        with pytest.raises(NotFound):
            await store.erase(ALICE, name)


async def test_volumes_of_one_peer_have_a_bound_in_bytes_and_number(store: VolumeStore) -> None:
    [mount] = await hold(store, ALICE, ONE, DATA)
    store.release(ALICE, ONE)
    (mount.source / "file").write_bytes(bytes(2 * MEBIBYTE))
    with pytest.raises(DiskFull):
        await hold(store, ALICE, TWO, DATA)
    assert not (await store.kept(ALICE))[0].is_used
    for number in range(VOLUMES_LIMIT):
        await hold(store, BOB, ONE, (Volume(f"v{number}", "/data"),))
    with pytest.raises(DiskFull):
        await hold(store, BOB, ONE, (Volume("more", "/data"),))


async def test_a_volume_larger_than_its_containers_disk_is_refused(store: VolumeStore) -> None:
    [mount] = await hold(store, ALICE, ONE, DATA)
    store.release(ALICE, ONE)
    (mount.source / "file").write_bytes(bytes(MEBIBYTE // 2))
    with pytest.raises(DiskFull) as told:
        await store.hold(ALICE, TWO, DATA, disk_bytes=MEBIBYTE // 4)
    assert "--disk" in told.value.hint
    assert not (await store.kept(ALICE))[0].is_used


# -- in sandboxes of every kind that has folders of its own -----------------------------------


@pytest.fixture(params=[CONTAINED, *WALLED])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def test_what_is_in_a_volume_is_there_for_the_next_lease(
    bench: Bench, tmp_path: Path
) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    first = await bench.runtime.create(replace(bench.spec(), volumes=(VolumeMount(kept, "/data"),)))
    made = await run(first, ["sh", "-c", "umask 77; mkdir /data/d; echo here > /data/d/f"])
    assert made[0].status == 0
    (kept / "link").symlink_to("/etc/passwd")
    await first.end()
    owner = Path("/etc/passwd").stat().st_uid
    second = await bench.runtime.create(
        replace(bench.spec(), volumes=(VolumeMount(kept, "/srv/data"),))
    )
    assert (await run(second, ["cat", "/srv/data/d/f"]))[1] == b"here\n"
    assert Path("/etc/passwd").stat().st_uid == owner
    await second.end()
    assert (kept / "d" / "f").read_text() == "here\n"


async def test_a_volume_counts_against_the_disk_of_its_lease(bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    limits = bench.spec().limits
    spec = replace(bench.spec(limits), volumes=(VolumeMount(kept, "/data"),))
    sandbox = await bench.runtime.create(spec)
    flood = "for n in range(9): open(f'/data/{n}', 'wb').write(bytes(16 << 20))\n"
    result, _ = await python(sandbox, flood + "import time; time.sleep(30)")
    assert (result.code, result.reason.split(":")[0]) == ("limit-exceeded", "disk")


@pytest.mark.parametrize(
    "target", ["/usr", "/usr/bin", "/work/x", "/etc", "/proc/1", "/.p2prc-first"]
)
async def test_a_volume_hides_nothing_of_the_systems(
    bench: Bench, tmp_path: Path, target: str
) -> None:
    with pytest.raises(JobInvalid):
        await bench.runtime.create(replace(bench.spec(), volumes=(VolumeMount(tmp_path, target),)))


async def test_two_volumes_are_apart(bench: Bench, tmp_path: Path) -> None:
    mounts = (VolumeMount(tmp_path, "/data"), VolumeMount(tmp_path, "/data/inner"))
    with pytest.raises(JobInvalid):
        await bench.runtime.create(replace(bench.spec(), volumes=mounts))


async def test_nothing_but_the_volume_can_be_written(bench: Bench, tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    sandbox = await bench.runtime.create(
        replace(bench.spec(), volumes=(VolumeMount(kept, "/srv/data"),))
    )
    result, _, _ = await run(sandbox, ["sh", "-c", "echo no > /srv/no; echo yes > /srv/data/yes"])
    assert result.status == 0
    assert [path.name for path in kept.iterdir()] == ["yes"]
    script = "cp /bin/true /srv/data/t; chmod u+s /srv/data/t; mknod /srv/data/n c 1 3"
    assert (await run(sandbox, ["sh", "-c", script]))[0].status != 0
    assert not (kept / "n").exists()
    await sandbox.end()


@pytest.mark.parametrize("variant", ["fenced", "bare"])
async def test_without_folders_of_its_own_a_sandbox_says_that_it_keeps_none(
    variant: str, tmp_path: Path
) -> None:
    async with open_bench(variant, tmp_path) as bench:
        with pytest.raises(RuntimeMissing):
            await bench.runtime.create(
                replace(bench.spec(), volumes=(VolumeMount(tmp_path, "/data"),))
            )
