"""The runtime `process` by itself, beside bare bubblewrap with the same bomb."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.containers.inhabitants import Inhabitants
from benchmarks.containers.part import Part, Took, median_ms, nothing_taken
from benchmarks.report import Figure
from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits
from p2prc.runtime.port import SandboxSpec
from p2prc.runtime.process.adapter import ProcessRuntime

ROUNDS = 30
BOMBS = 9
COMMANDS = 3
PROCESSES = Limits().processes
ENOUGH = PROCESSES * 7 // 8
EXPLODES_S = 5.0
BOMB_S = 0.2
BOMBS_OF = {
    "shells": ["bash", "-c", "b() { while :; do b & done; }; b"],
    "interpreters": ["python3", "-c", "import os\nwhile 1:\n try: os.fork()\n except OSError: 0"],
}
"""What an interpreter has of memory, the kernel needs some tenths of a millisecond to take back."""
CREATE_MS, EXEC_MS, GONE_MS = 60.0, 25.0, 50.0
_ANY_USER = 654_321


def measure() -> Part:
    """Make leases, use them, kill them."""
    if os.geteuid() != 0:
        return Part([], missing=["process: needs root, like a node that gives each tenant a user"])
    if shutil.which("bwrap") is None:
        return Part([], missing=["process: bubblewrap"])
    took = asyncio.run(_take_turns())
    return Part(_figures(took), took)


async def _take_turns() -> Took:
    took = nothing_taken()
    with tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder:
        runtime = ProcessRuntime(Path(folder) / "home")
        try:
            await runtime.probe()
            await _life(runtime, Path(folder) / "warm", nothing_taken())
            for number in range(ROUNDS):
                await _life(runtime, Path(folder) / f"{number:020x}", took)
                await asyncio.to_thread(_bare_true, took)
            for number in range(ROUNDS, ROUNDS + BOMBS):
                for kind in BOMBS_OF:
                    await _bomb(runtime, Path(folder) / f"{number:020x}", kind, took)
                    await asyncio.to_thread(_bare_bomb, kind, took)
        finally:
            await runtime.close()
    return took


def _figures(took: Took) -> list[Figure]:
    def figure(title: str, what: str, at_most: float | None = None) -> Figure:
        return Figure(f"process: {title}", median_ms(took[what]), "ms", at_most=at_most)

    return [
        figure("create to usable", "create", CREATE_MS),
        figure("exec true", "exec", EXEC_MS),
        figure("kill to gone, one command", "kill", GONE_MS),
        figure(f"kill to gone, fork bomb of {PROCESSES} shells", "bomb of shells", GONE_MS),
        figure(
            f"kill to gone, fork bomb of {PROCESSES} interpreters", "bomb of interpreters", GONE_MS
        ),
        figure("rm, until it is answered", "rm"),
        figure("bare bwrap, true", "bare true"),
        figure("bare bwrap, the same shells killed", "bare bomb of shells"),
        figure("bare bwrap, the same interpreters killed", "bare bomb of interpreters"),
    ]


async def _life(runtime: ProcessRuntime, folder: Path, took: Took) -> None:
    """Note how long a lease takes to create, for `true`, and to be gone."""
    clock = time.perf_counter
    spec = SandboxSpec(LeaseId(folder.name), folder, Limits(), "userns", has_sessions=True)
    began = clock()
    sandbox = await runtime.create(spec)
    took["create"].append(clock() - began)
    for _ in range(COMMANDS):
        began = clock()
        running = await sandbox.execute(["true"], variables={})
        async for _ in running.output():
            pass
        await running.wait()
        took["exec"].append(clock() - began)
    mark = uuid.uuid4().hex
    running = await sandbox.execute(["sh", "-c", "sleep 1000; exit", mark], variables={})
    tenants = await asyncio.to_thread(Inhabitants, mark)
    began = clock()
    gone = asyncio.create_task(asyncio.to_thread(tenants.gone_at))
    await sandbox.end()
    took["rm"].append(clock() - began)
    took["kill"].append(await gone - began)
    await running.wait()


async def _bomb(runtime: ProcessRuntime, folder: Path, kind: str, took: Took) -> None:
    """Note how long a fork bomb goes on once it is killed."""
    spec = SandboxSpec(LeaseId(folder.name), folder, Limits(), "userns", has_sessions=True)
    sandbox = await runtime.create(spec)
    mark = uuid.uuid4().hex
    running = await sandbox.execute([*BOMBS_OF[kind], mark], variables={})
    tenants = await asyncio.to_thread(Inhabitants, mark)
    await asyncio.to_thread(explode, tenants)
    gone = asyncio.create_task(asyncio.to_thread(tenants.gone_at))
    began = time.perf_counter()
    await sandbox.end()
    took[f"rm of {kind}"].append(time.perf_counter() - began)
    took[f"bomb of {kind}"].append(await gone - began)
    await running.wait()


def explode(tenants: Inhabitants) -> None:
    """Wait until a bomb has as many processes as it may have; raises RuntimeError."""
    if (count := tenants.wait_for(ENOUGH, within_s=EXPLODES_S)) < PROCESSES // 2:
        raise RuntimeError(f"the bomb has no more than {count} processes")
    time.sleep(BOMB_S)


def _bare_true(took: Took) -> None:
    began = time.perf_counter()
    subprocess.run(["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"], check=True)
    took["bare true"].append(time.perf_counter() - began)


def _bare_bomb(kind: str, took: Took) -> None:
    mark = uuid.uuid4().hex
    walls = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "--proc", "/proc"]
    bomb = subprocess.Popen(
        ["prlimit", f"--nproc={PROCESSES}", *walls, *BOMBS_OF[kind], mark],
        user=_ANY_USER,
        group=_ANY_USER,
        extra_groups=[],
        stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    tenants = Inhabitants(mark)
    explode(tenants)
    began = time.perf_counter()
    tenants.kill()
    took[f"bare bomb of {kind}"].append(tenants.gone_at() - began)
    bomb.wait()
