"""Images of a real engine: offered, pinned, built, fetched, and sent by somebody else."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import shutil
import socket
import subprocess
import tarfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from p2prc.errors import DiskFull, MachineCannot, PathInvalid, PolicyRefuses
from p2prc.model.resources import MEBIBYTE
from p2prc.runtime.docker import sent
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.engine import Engine
from tests.contract.runtime_bench import CONTAINED, Bench, engine_socket, open_bench, run

NAME = "p2prc-test-built"
RECIPE = "FROM scratch\nCOPY description.txt /there\nVOLUME /data\nHEALTHCHECK CMD /there\n"


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(CONTAINED, tmp_path) as opened:
        yield opened


@pytest.fixture
async def engine() -> AsyncIterator[Engine]:
    found = Engine(await engine_socket())
    yield found
    await found.remove_image(NAME)
    await found.close()


def docker(bench: Bench) -> DockerRuntime:
    assert isinstance(bench.runtime, DockerRuntime)
    return bench.runtime


def recipe(folder: Path) -> Path:
    folder.mkdir()
    (folder / "Dockerfile").write_text(RECIPE)
    (folder / "description.txt").write_text("What it\nis for.\n")
    ports = [{"PortName": "web", "InternalPort": 80, "Type": "tcp", "ExternalPort": 0}]
    (folder / "ports.json").write_text(json.dumps({"PortSet": ports}))
    return folder


async def build(bench: Bench, folder: Path) -> list[str]:
    return [said async for said in docker(bench).shelf.build(folder, NAME)]


async def test_an_image_is_built_from_a_folder_offered_by_name_and_pinned(
    bench: Bench, engine: Engine, tmp_path: Path
) -> None:
    runtime = docker(bench)
    assert any("Step 1" in said for said in await build(bench, recipe(tmp_path / "folder")))
    runtime.offer_images(("host",))
    assert [offer.name for offer in await runtime.offered_images()] == ["host"]
    with pytest.raises(PolicyRefuses):
        await runtime.create(bench.spec(image=NAME))
    runtime.offer_images(("host", NAME))
    _, offer = await runtime.offered_images()
    assert (offer.name, offer.origin, offer.ports) == (NAME, "built", {"web": 80})
    assert offer.description == "What it is for."
    runtime.offer_images((f"{NAME}@{offer.digest}",))
    assert [found.digest for found in await runtime.offered_images()] == [offer.digest]
    for image in (NAME, f"{NAME}@{offer.digest}"):
        await (await runtime.create(bench.spec(image=image))).end()
    runtime.offer_images((f"{NAME}@sha256:{'0' * 64}",))
    assert await runtime.offered_images() == ()
    with pytest.raises(PolicyRefuses):
        await runtime.create(bench.spec(image=NAME))


async def test_what_an_image_declares_gets_it_no_disk_and_no_command(
    bench: Bench, engine: Engine, tmp_path: Path
) -> None:
    await build(bench, recipe(tmp_path / "folder"))
    sandbox = await bench.runtime.create(bench.spec(image=NAME))
    [found] = await engine.containers([f"p2prc.folder={sandbox.spec.folder}"])
    facts = await engine.facts(found["Id"])
    assert facts is not None
    kinds = {mount["Destination"]: mount["Type"] for mount in facts["Mounts"]}
    assert kinds["/data"] == "tmpfs"
    assert "volume" not in kinds.values()
    assert "Health" not in facts["State"]


async def test_a_folder_without_a_recipe_and_a_bad_name_are_refused(
    bench: Bench, engine: Engine, tmp_path: Path
) -> None:
    with pytest.raises(PathInvalid):
        await build(bench, tmp_path)
    folder = recipe(tmp_path / "folder")
    for name in ("A b", "p2prc/host", "x;id", "x\nFROM y", ""):
        with pytest.raises(PathInvalid):
            async for _ in docker(bench).shelf.build(folder, name):
                pass
    (folder / "Dockerfile").write_text("FROM no-such-image-anywhere\n")
    with pytest.raises(MachineCannot):
        await build(bench, folder)


async def test_without_a_way_to_a_registry_the_reason_and_a_hint_are_told(
    bench: Bench,
) -> None:
    with pytest.raises(MachineCannot) as refused:
        async for _ in docker(bench).shelf.pull("127.0.0.1:9/nothing"):
            pass
    assert "--build" in refused.value.hint
    with pytest.raises(PathInvalid):
        async for _ in docker(bench).shelf.pull("x y"):
            pass


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """A registry of this machine's own; the engine takes one of the loopback without TLS."""
    program = shutil.which("docker-registry")
    if program is None or shutil.which("docker") is None:
        pytest.skip("no docker-registry, or no docker")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
    settings = {
        "version": 0.1,
        "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
        "http": {"addr": address},
    }
    (tmp_path / "registry.yml").write_text(json.dumps(settings))
    with subprocess.Popen(
        [program, "serve", str(tmp_path / "registry.yml")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            yield address
        finally:
            process.kill()


async def _of_docker(*words: str) -> int:
    running = await asyncio.create_subprocess_exec(
        "docker", *words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    return await running.wait()


async def test_an_image_comes_from_a_registry_with_its_progress(
    bench: Bench, engine: Engine, registry: str, tmp_path: Path
) -> None:
    name = f"{registry}/art/tool:1"
    await build(bench, recipe(tmp_path / "folder"))
    await _of_docker("tag", NAME, name)
    async with asyncio.timeout(60):
        while await _of_docker("push", name):
            await asyncio.sleep(0.1)  # It does not listen yet.
    await engine.remove_image(name)
    await engine.remove_image(NAME)
    try:
        said = [line async for line in docker(bench).shelf.pull(name)]
        assert any("Pull complete" in line for line in said)
        docker(bench).offer_images((name,))
        [offer] = await docker(bench).offered_images()
        assert (offer.name, offer.origin) == (name, "registry")
        await (await bench.runtime.create(bench.spec(image=name))).end()
    finally:
        await engine.remove_image(name)


# -- images that peers send -------------------------------------------------------------------


def archive(files: dict[str, bytes], *, size: int = 64) -> bytes:
    """Make an archive of some files."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def image(layer: bytes, **manifest: object) -> dict[str, bytes]:
    digest = f"sha256:{hashlib.sha256(layer).hexdigest()}"
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {},
            "rootfs": {
                "type": "layers",
                "diff_ids": [digest],
            },
        }
    ).encode()
    shown = {"Config": "config.json", "RepoTags": ["victim:latest"], "Layers": ["layer.tar"]}
    return {
        "manifest.json": json.dumps([{**shown, **manifest}]).encode(),
        "config.json": config,
        "layer.tar": layer,
        "repositories": b'{"victim": {"latest": "x"}}',
    }


async def test_a_sent_image_runs_and_takes_no_name_of_the_owners(
    bench: Bench, engine: Engine, tmp_path: Path
) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(archive(image(archive({"hello": b"from afar"}))))
    offer = await docker(bench).shelf.take(path, limit_bytes=MEBIBYTE)
    try:
        assert offer.origin == "peer"
        assert await engine.image("victim") is None
        docker(bench).offer_images(("host",))
        assert [found.name for found in await docker(bench).offered_images()] == ["host"]
        sandbox = await bench.runtime.create(bench.spec(image=offer.name))
        assert (await run(sandbox, ["/hello"]))[0].code == "command-not-found"
        assert await docker(bench).shelf.take(path, limit_bytes=MEBIBYTE) == offer
        await sandbox.end()
    finally:
        await engine.remove_image(offer.name)


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"manifest.json": b"{"},
        {**image(b""), "manifest.json": b"[]"},
        image(b"", Config="../../etc/passwd"),
        image(b"", Layers=["missing.tar"]),
        image(b"no archive at all" * 100),
        {**image(b""), "manifest.json": image(b"")["manifest.json"][:-1] + b",{}]"},
    ],
    ids=["empty", "broken", "none", "outside", "missing", "garbage", "two"],
)
def test_what_is_no_image_is_refused(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(archive(files))
    with pytest.raises(PathInvalid):
        sent.repack(path, io.BytesIO(), MEBIBYTE)


def test_a_small_archive_that_unpacks_to_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image.tar"
    big = archive({"big": bytes(8 * MEBIBYTE)})
    hole = io.BytesIO()
    with tarfile.open(fileobj=hole, mode="w", format=tarfile.PAX_FORMAT) as tar:
        entry = tarfile.TarInfo("hole")
        entry.size = 512
        entry.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
        entry.pax_headers["GNU.sparse.realsize"] = str(1 << 40)
        entry.pax_headers["GNU.sparse.name"] = "hole"
        tar.addfile(entry, io.BytesIO(b"0\n" + bytes(510)))
    many = archive({str(number): b"" for number in range(300)})
    for layer in (big, gzip.compress(big), hole.getvalue(), many):
        path.write_bytes(archive(image(layer)))
        with pytest.raises(DiskFull):
            sent.repack(path, io.BytesIO(), MEBIBYTE)


async def test_many_ask_for_images_at_once(bench: Bench) -> None:
    async with asyncio.timeout(15):
        found = await asyncio.gather(*(docker(bench).offered_images() for _ in range(20)))
    assert all(offers == found[0] for offers in found)
