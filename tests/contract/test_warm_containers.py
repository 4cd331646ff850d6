"""Containers that run before anybody wants them: as good as any other, and nobody's twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from p2prc.model.resources import GIBIBYTE, MEBIBYTE, Limits
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.engine import Engine
from p2prc.runtime.port import Sandbox, SandboxSpec
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    Bench,
    another_life,
    engine_socket,
    open_bench,
    python,
    run,
)

USUAL = Limits(memory_bytes=96 * MEBIBYTE, disk_bytes=GIBIBYTE, processes=20, lifetime_s=600)


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(CONTAINED, tmp_path) as opened:
        yield opened


def _runtime(bench: Bench) -> DockerRuntime:
    assert isinstance(bench.runtime, DockerRuntime)
    return bench.runtime


async def _warmed(bench: Bench, count: int = 1) -> None:
    runtime = _runtime(bench)
    runtime.keep_warm(count)
    async with asyncio.timeout(2 * PATIENCE_S):
        while runtime.warm_count < count:
            await asyncio.sleep(0.02)


async def _ours(bench: Bench) -> set[str]:
    engine = Engine(await engine_socket())
    try:
        found = await engine.containers([f"p2prc.home={_runtime(bench).mark}"])
        return {str(one["Id"]) for one in found}
    finally:
        await engine.close()


def _container(sandbox: Sandbox) -> str:
    return str(getattr(sandbox, "container"))  # noqa: B009 - of this runtime alone


async def test_a_lease_gets_a_warm_container_with_its_own_limits(bench: Bench) -> None:
    await _warmed(bench)
    [waiting] = await _ours(bench)
    spec = bench.spec(USUAL, has_sessions=True)
    sandbox = await bench.runtime.create(spec)
    assert _container(sandbox) == waiting
    ended, out, _ = await run(sandbox, ["sh", "-c", "pwd; ls -A; echo x > made; id -u"])
    assert (ended.status, out.split()[0]) == (0, b"/work")
    assert (spec.folder / "work" / "made").read_text() == "x\n"
    ended, said = await python(sandbox, "x = bytearray(400 << 20)\nprint('had it')")
    assert "had it" not in said
    forks = (
        "import os, time\nn = 0\ntry:\n  while True:\n    os.fork() or time.sleep(9)\n    n += 1\n"
    )
    forks += "except OSError:\n  print(n)"
    _, said = await python(sandbox, forks)
    assert int(said.split()[-1]) < USUAL.processes + 2
    await sandbox.end()
    async with asyncio.timeout(PATIENCE_S):
        while waiting in await _ours(bench):
            await asyncio.sleep(0.02)
    assert not spec.folder.exists()
    # Another waits for the next, and nothing is left of the one before.
    await _warmed(bench)
    [fresh] = await _ours(bench)
    assert fresh != waiting
    warm = bench.folder.parent / "home" / "runtime-docker" / "warm"
    assert [each.is_dir() for each in warm.iterdir()] == [True]


@pytest.mark.parametrize(
    "limits",
    [
        msgspec.structs.replace(USUAL, disk_bytes=64 * MEBIBYTE),
        msgspec.structs.replace(USUAL, lifetime_s=5 * 3600.0),
    ],
)
async def test_what_a_warm_container_cannot_be_is_made(bench: Bench, limits: Limits) -> None:
    await _warmed(bench)
    [waiting] = await _ours(bench)
    sandbox = await bench.runtime.create(bench.spec(limits))
    assert _container(sandbox) != waiting
    assert (await run(sandbox, ["true"]))[0].status == 0
    assert waiting in await _ours(bench)
    _runtime(bench).keep_warm(0)
    async with asyncio.timeout(PATIENCE_S):
        while waiting in await _ours(bench):
            await asyncio.sleep(0.02)


async def test_the_next_life_takes_up_leases_and_ends_what_waited(
    bench: Bench, tmp_path: Path
) -> None:
    await _warmed(bench, 2)
    spec: SandboxSpec = bench.spec(USUAL, has_sessions=True)
    sandbox = await bench.runtime.create(spec)
    await run(sandbox, ["sh", "-c", "echo kept > file"])
    await _warmed(bench, 2)
    assert len(await _ours(bench)) == 3
    # As it is after kill -9: nobody says goodbye to anything, or replaces it.
    _runtime(bench)._warm._is_closed = True
    bench.runtime = await another_life(CONTAINED, tmp_path)
    [taken] = await bench.runtime.adopt([spec])
    assert _container(taken) == _container(sandbox)
    assert await _ours(bench) == {_container(taken)}
    _, out, _ = await run(taken, ["cat", "file"])
    assert out == b"kept\n"
    await taken.end()
    assert not spec.folder.exists()
    warm = tmp_path / "home" / "runtime-docker" / "warm"
    assert list(warm.iterdir()) == []


async def test_one_that_dies_while_it_waits_is_replaced(bench: Bench) -> None:
    await _warmed(bench)
    [waiting] = await _ours(bench)
    engine = Engine(await engine_socket())
    await engine.remove(waiting)
    await engine.close()
    async with asyncio.timeout(2 * PATIENCE_S):
        while await _ours(bench) in ({waiting}, set()):
            await asyncio.sleep(0.02)
    await _warmed(bench)
    sandbox = await bench.runtime.create(bench.spec(USUAL))
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_many_leases_in_a_row_leave_nothing(bench: Bench) -> None:
    await _warmed(bench, 2)
    for _ in range(5):
        sandbox = await bench.runtime.create(bench.spec(USUAL))
        assert (await run(sandbox, ["true"]))[0].status == 0
        await sandbox.end()
    _runtime(bench).keep_warm(0)
    async with asyncio.timeout(2 * PATIENCE_S):
        while await _ours(bench):
            await asyncio.sleep(0.02)
