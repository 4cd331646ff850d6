"""Whoever dies, nothing of a lease is left: supervisors, nurseries and daemons get SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.contract.runtime_bench import (
    PATIENCE_S,
    REAL,
    Bench,
    first_output,
    open_bench,
    processes_with,
    run,
)

BUSY = """
import os, sys, time
for _ in range(5):
    if os.fork() == 0:
        os.setsid()
        break
print('busy', flush=True)
time.sleep(1000)
"""
DAEMON = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from tests.contract.runtime_bench import open_bench, first_output

async def main():
    async with open_bench({variant!r}, Path({folder!r})) as bench:
        sandboxes = [await bench.sandbox() for _ in range(2)]
        for sandbox in sandboxes:
            mark = str(sandbox.spec.folder)
            running = await sandbox.execute(['python', '-c', {busy!r}, mark], variables={{}})
            await first_output(running)
        await bench.sandbox()
        print('ready', flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""


@pytest.fixture(params=REAL)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


def children(pid: int) -> list[int]:
    threads = Path(f"/proc/{pid}/task")
    return [
        int(child)
        for thread in threads.iterdir()
        for child in (thread / "children").read_text().split()
    ]


def nursery() -> int:
    """The one child of ours that runs `supervisor.py`."""
    (found,) = (
        pid
        for pid in children(os.getpid())
        if b"supervisor.py" in Path(f"/proc/{pid}/cmdline").read_bytes()
    )
    return found


async def test_a_killed_supervisor_takes_its_lease_along_and_no_other(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    mark = str(sandbox.spec.folder)
    (supervisor,) = children(nursery())
    other = await bench.sandbox()
    execution = await sandbox.execute(["python", "-c", BUSY, mark], variables={})
    await first_output(execution)
    os.kill(supervisor, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE_S):
        assert (await execution.wait()).code == "lease-ended"
        assert (await sandbox.wait_ended()).code == "lease-ended"
        while processes_with(mark):
            await asyncio.sleep(0.01)
    assert not sandbox.spec.folder.exists()
    assert (await run(other, ["true"]))[0].status == 0
    assert (await run(await bench.sandbox(), ["true"]))[0].status == 0


async def test_a_killed_nursery_harms_no_lease_and_comes_back(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    os.kill(nursery(), signal.SIGKILL)
    assert (await run(sandbox, ["true"]))[0].status == 0
    other = await bench.sandbox()
    assert (await run(other, ["true"]))[0].status == 0
    await sandbox.end()
    assert not sandbox.spec.folder.exists()


@pytest.mark.parametrize("variant", REAL)
def test_a_killed_daemon_leaves_nothing_within_two_seconds(variant: str, tmp_path: Path) -> None:
    program = DAEMON.format(
        tests=str(Path(__file__).parent), variant=variant, folder=str(tmp_path), busy=BUSY
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, start_new_session=True
    ) as daemon:
        assert daemon.stdout is not None
        assert daemon.stdout.readline() == b"ready\n"
        leases = tmp_path / "leases"
        assert len(list(leases.iterdir())) == 3
        marks = [str(leases / "lease-1"), str(leases / "lease-2")]
        assert all(processes_with(mark) for mark in marks)
        (nurse,) = children(daemon.pid)
        ours = [nurse, *children(nurse)]
        assert len(ours) == 4
        daemon.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 2
    while any(map(is_alive, ours)) or any(map(processes_with, marks)) or any(leases.iterdir()):
        assert time.monotonic() < deadline, "something is left"


def is_alive(pid: int) -> bool:
    """Say whether the process runs; one that nobody has reaped does not."""
    try:
        return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return False
