"""A runtime of any kind with sandboxes to try, for the tests of runtimes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from p2prc.model.identity import LeaseId
from p2prc.model.resources import MEBIBYTE, Limits
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.presence import candidates, find_engine
from p2prc.runtime.fake import FakeRuntime
from p2prc.runtime.port import Execution, Exit, Feature, Runtime, Sandbox, SandboxSpec
from p2prc.runtime.process.adapter import ProcessRuntime
from p2prc.runtime.process.assets import find_bubblewrap

LIMITS = Limits(memory_bytes=512 * MEBIBYTE, disk_bytes=64 * MEBIBYTE, processes=64, lifetime_s=60)
PATIENCE_S = 15.0
"""What takes milliseconds on an idle machine may take this long on a busy one."""
WALLED = ("shared", "isolated", "unshared")
REAL = (*WALLED, "fenced", "bare")
CONTAINED = "docker"
ENGINE_WANTED = "P2PRC_TEST_ENGINE"
"""Set to 0 for no test with a real engine; they run wherever one answers."""
_TIERS = {"bare": "none", "fenced": "landlock", "unshared": "unshare", CONTAINED: "container"}


@dataclass
class Bench:
    """A runtime of one kind, and the sandboxes it makes."""

    runtime: Runtime
    folder: Path
    variant: str
    made: int = 0

    @property
    def tier(self) -> str:
        return _TIERS.get(self.variant, "userns")

    def features(self) -> frozenset[Feature]:
        found = self.runtime.features(self.tier)
        if self.variant == "isolated":
            return found & {Feature.INPUT}
        return found

    def spec(
        self,
        limits: Limits = LIMITS,
        *,
        environment: Path | None = None,
        has_sessions: bool = False,
        image: str = "",
    ) -> SandboxSpec:
        self.made += 1
        return SandboxSpec(
            LeaseId(f"{self.made:020x}"),
            self.folder / f"lease-{self.made}",
            limits,
            self.tier,
            environment=environment,
            is_isolated=self.variant == "isolated",
            has_sessions=has_sessions,
            image=image,
        )

    async def sandbox(self, *, environment: Path | None = None, **limits: int | float) -> Sandbox:
        wanted = msgspec.structs.replace(LIMITS, **limits)
        return await self.runtime.create(self.spec(wanted, environment=environment))


@asynccontextmanager
async def open_bench(
    variant: str, folder: Path, *, core_count: int | None = None
) -> AsyncIterator[Bench]:
    if variant in ("shared", "isolated") and not find_bubblewrap():
        pytest.skip("bubblewrap is not installed")
    home = folder / "home"
    runtime: Runtime
    if variant == "fake":
        runtime = FakeRuntime()
    elif variant == CONTAINED:
        runtime = DockerRuntime(home, await engine_socket(), offered=("host", "*"))
    else:
        tier = _TIERS.get(variant, "userns")
        runtime = ProcessRuntime(home, core_count=core_count, tiers=(tier, "none"))
    bench = Bench(runtime, folder / "leases", variant)
    try:
        yield bench
    finally:
        async with asyncio.timeout(20):
            await runtime.close()
            if bench.runtime is not runtime:
                # The next life's: left open, it would be the fault of whatever test comes later.
                await bench.runtime.close()


async def another_life(variant: str, folder: Path) -> Runtime:
    """Return the runtime of a node that starts with the same home after another was lost."""
    home = folder / "home"
    if variant == CONTAINED:
        return DockerRuntime(home, await engine_socket(), offered=("host", "*"))
    return ProcessRuntime(home)


async def engine_socket() -> Path:
    """Return where the container engine of this machine listens; skip the test without one."""
    if os.environ.get(ENGINE_WANTED) == "0":
        pytest.skip(f"{ENGINE_WANTED}=0: no test with a container engine")
    socket = await find_engine(candidates(os.environ, Path.home()))
    if socket is None:
        pytest.skip("no container engine answers here")
    return socket


async def finish(execution: Execution) -> tuple[Exit, bytes, bytes]:
    """Read all output and wait for the end."""
    printed = {1: b"", 2: b""}
    async for chunk in execution.output():
        printed[chunk.channel] += chunk.content
    return await execution.wait(), printed[1], printed[2]


async def run(
    sandbox: Sandbox, argv: Sequence[str], timeout_s: float | None = None, **variables: str
) -> tuple[Exit, bytes, bytes]:
    return await finish(await sandbox.execute(argv, variables=variables, timeout_s=timeout_s))


async def python(sandbox: Sandbox, program: str, timeout_s: float = 50) -> tuple[Exit, str]:
    """Run a Python program inside; return how it ended and all that it printed."""
    result, out, err = await run(sandbox, ["python", "-c", program], timeout_s)
    return result, (out + err).decode()


async def first_output(execution: Execution) -> str:
    """Return the first thing that a command prints; it goes on running."""
    async for chunk in execution.output():
        return chunk.content.decode()
    return ""


def processes_with(mark: str) -> list[int]:
    """Return the pids of all processes that have the mark among their words."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes()
            except OSError:
                continue
            if mark.encode() in words:
                found.append(int(process.name))
    return found
