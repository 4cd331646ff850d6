"""An engine that dies under its leases, that has no disk, and a node that is killed."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2prc.errors import MachineCannot
from p2prc.model.identity import LeaseId
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.engine import Engine
from p2prc.runtime.port import SandboxSpec
from tests.contract.own_engine import OwnEngine, own_engine
from tests.contract.runtime_bench import (
    CONTAINED,
    ENGINE_WANTED,
    LIMITS,
    PATIENCE_S,
    first_output,
    open_bench,
    processes_with,
    run,
)
from tests.contract.test_runtime_adoption import KILLED


def spec_in(folder: Path, number: int) -> SandboxSpec:
    lease = LeaseId(f"{number:020x}")
    return SandboxSpec(lease, folder / f"lease-{number}", LIMITS, "container", has_sessions=True)


@pytest.fixture
def engine() -> Iterator[OwnEngine]:
    if os.geteuid() != 0 or shutil.which("dockerd") is None or os.environ.get(ENGINE_WANTED) == "0":
        pytest.skip("no engine of the test's own can be started here")
    # A socket's path is short.
    with tempfile.TemporaryDirectory(prefix="p2prc-") as folder, own_engine(Path(folder)) as found:
        if not found.start():
            pytest.skip("no engine of the test's own starts here")
        yield found


async def test_leases_outlive_an_engine_that_dies_and_comes_back(
    engine: OwnEngine, tmp_path: Path
) -> None:
    runtime = DockerRuntime(tmp_path / "home", engine.socket)
    try:
        sandbox = await runtime.create(spec_in(tmp_path, 1))
        stays = "(while :; do sleep 0.1; done) >/dev/null 2>&1 & echo $!"
        pid = (await run(sandbox, ["sh", "-c", stays]))[1].decode().strip()
        running = await sandbox.execute(["sh", "-c", "echo up; sleep 1000"], variables={})
        await first_output(running)
        await asyncio.to_thread(engine.kill)
        assert await asyncio.to_thread(engine.start)
        async with asyncio.timeout(PATIENCE_S):
            ended = await running.wait()
            assert (ended.code, "restarted" in ended.reason) == ("lease-ended", True)
            alive = await run(sandbox, ["sh", "-c", f"kill -0 {pid} && echo lives"])
            assert alive[1] == b"lives\n"
    finally:
        await runtime.close()


async def test_without_disk_a_container_is_refused_and_leaves_nothing(
    engine: OwnEngine, tmp_path: Path
) -> None:
    runtime = DockerRuntime(tmp_path / "home", engine.socket)
    asked = Engine(engine.socket)
    small = engine.folder / "data" / "overlay2"
    try:
        await runtime.probe()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4k", "none", small], check=True)
        try:
            with pytest.raises(MachineCannot):
                await runtime.create(spec_in(tmp_path, 1))
        finally:
            subprocess.run(["umount", small], check=True)
        assert await asked.containers([]) == []
        assert not (tmp_path / "lease-1").exists()
        sandbox = await runtime.create(spec_in(tmp_path, 2))
        assert (await run(sandbox, ["true"]))[0].status == 0
    finally:
        await runtime.close()
        await asked.close()


async def test_of_a_node_that_is_killed_what_is_kept_is_taken_up_and_the_rest_is_gone(
    tmp_path: Path,
) -> None:
    async with open_bench(CONTAINED, tmp_path) as bench:
        kept, lost = bench.spec(has_sessions=True), bench.spec(has_sessions=True)
        program = KILLED.format(variant=CONTAINED, folder=str(tmp_path))
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as daemon:
            assert daemon.stdout is not None
            assert await asyncio.to_thread(daemon.stdout.readline) == b"ready\n"
            daemon.send_signal(signal.SIGKILL)
        marks = [str(kept.folder), str(lost.folder)]
        assert all(processes_with(mark) for mark in marks)
        [adopted] = await bench.runtime.adopt([kept])
        assert processes_with(marks[0])
        assert not processes_with(marks[1])
        assert not lost.folder.exists()
        assert (await run(adopted, ["true"]))[0].status == 0
        await adopted.end()
        assert not processes_with(marks[0])
        mounted = await asyncio.to_thread(Path("/proc/mounts").read_text)
        assert str(tmp_path) not in mounted
        assert list(bench.folder.iterdir()) == []
