"""What is promised of containers alone: walls, limits, and lives longer than the node's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.errors import MachineCannot
from p2prc.model.resources import MEBIBYTE
from p2prc.runtime.docker.engine import Engine
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    Bench,
    engine_socket,
    open_bench,
    python,
    run,
)

FORK_BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
WALLS = """
import os, socket
status = open('/proc/self/status').read()
for line in status.splitlines():
    if line.startswith(('CapEff', 'CapBnd', 'NoNewPrivs', 'Seccomp:')):
        print(line.replace('\\t', ' '))
print(os.listdir('/sys/class/net'))
for path in ('/var/run/docker.sock', '/root/.bashrc', '/home', '/etc/shadow'):
    print(path, os.path.exists(path) and bool(os.access(path, os.R_OK)))
for path in ('/x', '/usr/x', '/inputs/x', '/etc/x'):
    try:
        open(path, 'w')
        print('wrote', path)
    except OSError:
        pass
try:
    os.kill(1, 9)
except OSError:
    pass
"""


@pytest.fixture
async def bench(tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(CONTAINED, tmp_path) as opened:
        yield opened


async def test_a_tenant_has_no_power_no_network_and_nothing_of_the_hosts(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    _, said = await python(sandbox, WALLS)
    lines = said.splitlines()
    assert "CapEff: 0000000000000000" in lines
    assert "CapBnd: 0000000000000000" in lines
    assert "NoNewPrivs: 1" in lines
    assert "Seccomp: 2" in lines
    assert "['lo']" in lines
    assert not [line for line in lines if "True" in line or "wrote" in line]
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_a_fork_bomb_is_dead_at_once_and_the_next_command_runs(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["python", "-c", FORK_BOMB], variables={})
    await asyncio.sleep(0.5)
    await execution.cancel()
    async with asyncio.timeout(PATIENCE_S):
        assert (await execution.wait()).code == "lease-ended"
    assert (await sandbox.usage()).processes == 0
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_memory_and_disk_are_held_to_their_limits(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=64 * MEBIBYTE, disk_bytes=8 * MEBIBYTE)
    result, _ = await python(sandbox, "x = bytearray(b'x') * (200 << 20)")
    assert (result.code, result.reason.split(":")[0]) == ("limit-exceeded", "memory")
    many = "for n in range(5): open(str(n), 'wb').write(bytes(4 << 20))\n"
    many += "import time; time.sleep(30)"
    result, _ = await python(sandbox, many)
    assert (result.code, result.reason.split(":")[0]) == ("limit-exceeded", "disk")


async def test_a_container_that_somebody_removes_ends_its_lease_with_the_reason(
    bench: Bench,
) -> None:
    sandbox = await bench.sandbox()
    running = await sandbox.execute(["sleep", "1000"], variables={})
    engine = Engine(await engine_socket())
    try:
        [found] = await engine.containers([f"p2prc.folder={sandbox.spec.folder}"])
        await engine.remove(found["Id"])
    finally:
        await engine.close()
    async with asyncio.timeout(PATIENCE_S):
        ended = await sandbox.wait_ended()
        assert (await running.wait()).code == "lease-ended"
    assert "container" in ended.reason
    assert not sandbox.spec.folder.exists()


async def test_without_a_graphics_card_the_engine_s_reason_is_told_and_nothing_is_left(
    bench: Bench,
) -> None:
    engine = Engine(await engine_socket())
    try:
        if "nvidia" in (await engine.info()).get("Runtimes", {}):
            pytest.skip("there may be a card here")
    finally:
        await engine.close()
    with pytest.raises(MachineCannot) as refused:
        await bench.sandbox(gpus=1)
    assert "gpu" in refused.value.message
    assert not bench.folder.exists() or list(bench.folder.iterdir()) == []
