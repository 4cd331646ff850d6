"""A lease can be stopped while its owner needs the machine, and goes on where it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.runtime.port import Execution, Sandbox
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    REAL,
    Bench,
    another_life,
    finish,
    open_bench,
)

COUNT = """
import os, time
if os.fork():
    time.sleep(1000)
for number in range(100000):
    with open('count', 'w') as file:
        file.write(str(number))
    time.sleep(0.01)
"""


@pytest.fixture(params=[*REAL, CONTAINED])
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


def counted(sandbox: Sandbox) -> int:
    try:
        return int((sandbox.spec.folder / "work" / "count").read_text() or "0")
    except FileNotFoundError:
        return 0


async def until_it_stands_still(sandbox: Sandbox) -> int:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            before = counted(sandbox)
            await asyncio.sleep(0.3)
            if before == counted(sandbox):
                return before


async def until_it_goes_on(sandbox: Sandbox, beyond: int) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while counted(sandbox) <= beyond:
            await asyncio.sleep(0.02)


async def counting(sandbox: Sandbox) -> Execution:
    execution = await sandbox.execute(["python3", "-c", COUNT], variables={})
    await until_it_goes_on(sandbox, 0)
    return execution


async def test_what_is_suspended_stands_still_and_goes_on_where_it_was(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await counting(sandbox)
    await sandbox.suspend()
    await sandbox.suspend()
    stood_at = await until_it_stands_still(sandbox)
    await sandbox.resume()
    await until_it_goes_on(sandbox, stood_at)
    await execution.cancel()
    await finish(execution)


async def test_what_is_suspended_ends_as_soon_as_anything_else(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await counting(sandbox)
    await sandbox.suspend()
    await until_it_stands_still(sandbox)
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.end()
        result, *_ = await finish(execution)
    assert result.code == "lease-ended"
    assert not sandbox.spec.folder.exists()


@pytest.mark.parametrize("variant", ["shared", "bare", CONTAINED])
async def test_what_was_suspended_goes_on_when_the_next_node_takes_it_up(
    variant: str, tmp_path: Path
) -> None:
    async with open_bench(variant, tmp_path) as bench:
        sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
        stays = await sandbox.execute(
            ["sh", "-c", 'setsid python3 -c "$COUNT" >/dev/null 2>&1 &'],
            variables={"COUNT": COUNT},
        )
        await finish(stays)
        await until_it_goes_on(sandbox, 0)
        await sandbox.suspend()
        stood_at = await until_it_stands_still(sandbox)
        await bench.runtime.let_go()
        bench.runtime = await another_life(variant, tmp_path)
        [taken_up] = await bench.runtime.adopt([sandbox.spec])
        await until_it_goes_on(taken_up, stood_at)
