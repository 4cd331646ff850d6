"""Sandboxes with sessions outlive the node that made them, and the next one takes them up."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.errors import LeaseEnded
from p2prc.runtime.port import Feature, Runtime
from p2prc.runtime.process.adapter import ProcessRuntime
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    WALLED,
    Bench,
    another_life,
    first_output,
    open_bench,
    processes_with,
    run,
)

LASTING = ("shared", "unshared", "fenced", "bare")
KILLED = """
import asyncio, os, sys
from pathlib import Path
from tests.contract.runtime_bench import open_bench, first_output, run

async def main():
    async with open_bench({variant!r}, Path({folder!r})) as bench:
        for _ in range(2):
            sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
            mark = str(sandbox.spec.folder)
            stays = 'setsid sh -c "while :; do sleep 0.05; done" ' + mark + ' >/dev/null 2>&1 &'
            await run(sandbox, ['sh', '-c', stays])
            goes = await sandbox.execute(['sh', '-c', 'echo on; sleep 1000'], variables={{}})
            await first_output(goes)
        print('ready', flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(params=(*LASTING, CONTAINED))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def next_life(bench: Bench) -> Runtime:
    bench.runtime = await another_life(bench.variant, bench.folder.parent)
    return bench.runtime


async def test_the_next_life_of_a_node_takes_up_what_is_kept_and_ends_the_rest(
    bench: Bench,
) -> None:
    assert Feature.ADOPT in bench.features()
    kept = await bench.runtime.create(bench.spec(has_sessions=True))
    lost = await bench.runtime.create(bench.spec(has_sessions=True))
    plain = await bench.sandbox()
    pid = (await run(kept, ["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"]))[1].decode()
    await run(kept, ["sh", "-c", "echo here > file"])
    await bench.runtime.let_go()
    runtime = await next_life(bench)
    [adopted] = await runtime.adopt([kept.spec])
    assert adopted.spec == kept.spec
    assert adopted.work_path == kept.work_path
    alive = await run(adopted, ["sh", "-c", f"kill -0 {pid.strip()} && cat file"])
    assert alive[1] == b"here\n"
    assert (await adopted.usage()).processes >= 1
    assert not lost.spec.folder.exists()
    assert not plain.spec.folder.exists()
    assert await runtime.adopt([kept.spec]) == []
    await adopted.end()
    assert not kept.spec.folder.exists()
    with pytest.raises(LeaseEnded):
        await run(adopted, ["true"])


async def test_a_node_of_another_home_takes_up_nothing(bench: Bench, tmp_path: Path) -> None:
    kept = await bench.runtime.create(bench.spec(has_sessions=True))
    other = await another_life(bench.variant, tmp_path / "other")
    try:
        assert await other.adopt([kept.spec]) == []
    finally:
        await other.close()
    assert (await run(kept, ["true"]))[0].status == 0


@pytest.mark.parametrize("variant", LASTING)
async def test_leases_outlive_a_node_that_is_killed_without_the_commands_it_read(
    variant: str, tmp_path: Path
) -> None:
    async with open_bench(variant, tmp_path) as bench:
        kept, lost = bench.spec(has_sessions=True), bench.spec(has_sessions=True)
        program = KILLED.format(variant=variant, folder=str(tmp_path))
        with subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        ) as daemon:
            assert daemon.stdout is not None
            assert await asyncio.to_thread(daemon.stdout.readline) == b"ready\n"
            daemon.send_signal(signal.SIGKILL)
        await asyncio.sleep(0.3)
        marks = [str(kept.folder), str(lost.folder)]
        assert all(processes_with(mark) for mark in marks)
        [adopted] = await bench.runtime.adopt([kept])
        assert processes_with(marks[0])
        assert not processes_with(marks[1])
        assert not lost.folder.exists()
        if variant in WALLED:
            # Elsewhere nobody's commands are seen, or everybody's.
            script = "cat /proc/[0-9]*/cmdline | tr '\\0' '\\n'"
            shown = (await run(adopted, ["sh", "-c", script]))[1]
            assert marks[0].encode() in shown
            assert b"sleep\n1000" not in shown
        await bench.runtime.close()
        async with asyncio.timeout(PATIENCE_S):
            while any(map(processes_with, marks)):
                await asyncio.sleep(0.01)
        assert list((tmp_path / "home" / "runtime" / "kept").iterdir()) == []


@pytest.mark.parametrize("variant", LASTING)
async def test_a_lease_waits_only_so_long_for_its_node(variant: str, tmp_path: Path) -> None:
    async with open_bench(variant, tmp_path) as bench:
        await bench.runtime.close()
        bench.runtime = ProcessRuntime(tmp_path / "home", kept_s=0.3)
        sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
        running = await sandbox.execute(["sh", "-c", "echo up; sleep 1000"], variables={})
        await first_output(running)
        await bench.runtime.let_go()
        async with asyncio.timeout(PATIENCE_S):
            while sandbox.spec.folder.exists():
                await asyncio.sleep(0.02)
        assert await bench.runtime.adopt([sandbox.spec]) == []


@pytest.mark.parametrize("variant", LASTING)
async def test_what_a_dead_supervisor_left_is_buried(variant: str, tmp_path: Path) -> None:
    async with open_bench(variant, tmp_path) as bench:
        sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
        await run(sandbox, ["touch", "left"])
        await bench.runtime.let_go()
        registry = tmp_path / "home" / "runtime" / "kept"
        (record,) = registry.glob("*.json")
        kept = record.read_bytes()
        runtime = await next_life(bench)
        assert await runtime.adopt([]) == []
        # As after a power cut: the record and the folder are there, and nobody answers.
        record.write_bytes(kept)
        (sandbox.spec.folder / "work").mkdir(parents=True)
        assert await runtime.adopt([sandbox.spec]) == []
        assert not sandbox.spec.folder.exists()
        assert list(registry.iterdir()) == []
