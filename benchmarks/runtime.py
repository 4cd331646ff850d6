"""How fast the embedded runtime starts things, next to bare `bwrap` and GNU parallel.

Run `python benchmarks/runtime.py`; every figure comes from this one run on this machine.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from pathlib import Path

from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits
from p2prc.runtime.port import Sandbox, SandboxSpec
from p2prc.runtime.process.adapter import ProcessRuntime

COMMANDS = 300
JOBS = 3
LIVES = 30
BOMB_S = 0.3
BOMB_PROCESSES = 64
FORK_BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
BWRAP = ["bwrap", "--ro-bind", "/", "/", "--unshare-all", "true"]


async def run_true(sandbox: Sandbox) -> None:
    running = await sandbox.execute(["true"], variables={})
    async for _ in running.output():
        pass
    assert (await running.wait()).status == 0


class Benchmark:
    """A runtime in a folder of its own, and what it can do in a second."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runtime = ProcessRuntime(folder / "home")
        self._made = 0

    async def create(
        self, *, is_isolated: bool = False, tier: str = "userns", has_sessions: bool = False
    ) -> Sandbox:
        self._made += 1
        folder = self._folder / "leases" / str(self._made)
        lease = LeaseId(f"{self._made:020x}")
        spec = SandboxSpec(
            lease,
            folder,
            Limits(processes=BOMB_PROCESSES) if has_sessions else Limits(),
            tier,
            is_isolated=is_isolated,
            has_sessions=has_sessions,
        )
        return await self._runtime.create(spec)

    async def create_run_end(self, count: int) -> None:
        for _ in range(count):
            sandbox = await self.create()
            await run_true(sandbox)
            await sandbox.end()

    async def run_in(self, sandboxes: list[Sandbox], count: int) -> None:
        """Run `count` commands, one after another in each sandbox and all sandboxes at once."""
        left = iter(range(count))

        async def work(sandbox: Sandbox) -> None:
            for _ in left:
                await run_true(sandbox)

        async with asyncio.TaskGroup() as group:
            for sandbox in sandboxes:
                group.create_task(work(sandbox))

    async def one_life(self, tier: str, took: dict[str, list[float]], *, is_bomb: bool) -> None:
        """Note how long a lease with sessions takes to create, for `true`, and to be gone."""
        clock = time.perf_counter
        began = clock()
        sandbox = await self.create(tier=tier, has_sessions=True)
        took["create"].append(clock() - began)
        began = clock()
        await run_true(sandbox)
        took["exec `true`"].append(clock() - began)
        argv = ["python", "-c", FORK_BOMB] if is_bomb else ["sleep", "1000"]
        running = await sandbox.execute(argv, variables={})
        await asyncio.sleep(BOMB_S if is_bomb else 0)
        began = clock()
        await sandbox.end()
        took["fork bomb to gone" if is_bomb else "kill to gone"].append(clock() - began)
        await running.wait()

    async def close(self) -> None:
        await self._runtime.close()


async def lives(bench: Benchmark) -> None:
    """Print the medians of what people at work wait for, tier by tier."""
    for tier in ("userns", "unshare", "landlock", "none"):
        took: dict[str, list[float]] = defaultdict(list)
        for count in range(LIVES):
            await bench.one_life(tier, took, is_bomb=count % 2 == 1)
        for what, times in took.items():
            milliseconds = sorted(1000 * time_s for time_s in times)
            middle = statistics.median(milliseconds)
            print(f"{tier:10} {what:20} {middle:8.1f} ms, at most {milliseconds[-1]:.1f}")


async def rate(what: str, count: int, work: Callable[[], Awaitable[None]]) -> None:
    began = time.perf_counter()
    await work()
    show(what, count, time.perf_counter() - began)


def show(what: str, count: int, took_s: float) -> None:
    print(f"{what:44} {count / took_s:8.0f} /s {1000 * took_s / count:8.2f} ms each", flush=True)


def rate_of_loop(what: str, argv: list[str], count: int) -> None:
    began = time.perf_counter()
    for _ in range(count):
        subprocess.run(argv, check=True)
    show(what, count, time.perf_counter() - began)


def rate_of_parallel(what: str, argv: list[str]) -> None:
    if shutil.which("parallel") is None:
        return
    words = ["parallel", f"-j{JOBS}", "-N0", *argv, ":::", *map(str, range(COMMANDS))]
    began = time.perf_counter()
    subprocess.run(words, check=True, stderr=subprocess.DEVNULL)
    show(what, COMMANDS, time.perf_counter() - began)


def resident_mib(pid: int) -> tuple[float, float]:
    """Return the resident size of a process, and its share of it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    sizes = dict(line.split(":") for line in rollup.splitlines()[1:])
    return int(sizes["Rss"].split()[0]) / 1024, int(sizes["Pss"].split()[0]) / 1024


def show_memory() -> None:
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    for nursery in children:
        below = Path(f"/proc/{nursery}/task/{nursery}/children").read_text().split()
        for name, pid in [("nursery", nursery), *(("supervisor", pid) for pid in below)]:
            rss, pss = resident_mib(int(pid))
            print(f"{name:44} {rss:6.1f} MiB resident, {pss:.1f} MiB its own share")


async def main() -> None:
    """Print all rates."""
    with tempfile.TemporaryDirectory() as folder:
        bench = Benchmark(Path(folder))
        await bench.create_run_end(1)
        await rate("create, run `true`, end", 50, lambda: bench.create_run_end(50))
        shared = [await bench.create() for _ in range(JOBS)]
        await rate("one sandbox", COMMANDS, lambda: bench.run_in(shared[:1], COMMANDS))
        await rate(f"{JOBS} sandboxes", COMMANDS, lambda: bench.run_in(shared, COMMANDS))
        show_memory()
        await lives(bench)
        isolated = [await bench.create(is_isolated=True) for _ in range(JOBS)]
        await rate("one isolated", COMMANDS, lambda: bench.run_in(isolated[:1], COMMANDS))
        await rate(f"{JOBS} isolated", COMMANDS, lambda: bench.run_in(isolated, COMMANDS))
        await bench.close()
    rate_of_loop("`bwrap … true`, one after another", BWRAP, 100)
    rate_of_parallel(f"parallel -j{JOBS} true", ["true"])
    rate_of_parallel(f"parallel -j{JOBS} bwrap … true", BWRAP)


if __name__ == "__main__":
    asyncio.run(main())
