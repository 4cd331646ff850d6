"""How fast leases in containers are, next to the engine's own command line on the same image.

Taken in turns, so that both sides meet the same machine.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

from benchmarks.containers.inhabitants import Inhabitants
from benchmarks.containers.part import Part, Took, median_ms, nothing_taken
from benchmarks.containers.process import BOMBS_OF, PROCESSES, explode
from benchmarks.report import Figure
from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.presence import candidates, find_engine
from p2prc.runtime.port import SandboxSpec

ROUNDS = 15
COMMANDS = 3
KINDS = (None, *BOMBS_OF)
"""Of life: without a bomb, or with one."""
NAME = "p2prc-benchmark"
AT_MOST = {"create": 1.0, "exec `true`": 1.3, "rm": 1.0}
"""Times of the engine's own command line."""
GONE_MS = 150.0


async def our_life(
    runtime: DockerRuntime, folder: Path, took: Took, *, bomb: str | None = None
) -> None:
    """Note how long a lease takes to create, for `true`, and to be gone; or for a bomb in it."""
    clock = time.perf_counter
    spec = SandboxSpec(LeaseId(folder.name), folder, Limits(), "container", has_sessions=True)
    began = clock()
    sandbox = await runtime.create(spec)
    took["create"].append(clock() - began)
    for _ in range(COMMANDS):
        began = clock()
        running = await sandbox.execute(["true"], variables={})
        await running.wait()
        took["exec `true`"].append(clock() - began)
    if bomb is None:
        began = clock()
        await sandbox.end()
        took["rm"].append(clock() - began)
        return
    mark = uuid.uuid4().hex
    running = await sandbox.execute([*BOMBS_OF[bomb], mark], variables={})
    tenants = await asyncio.to_thread(Inhabitants, mark)
    await asyncio.to_thread(explode, tenants)
    gone = asyncio.create_task(asyncio.to_thread(tenants.gone_at))
    began = clock()
    await sandbox.end()
    took[f"rm of {bomb} that fork"].append(clock() - began)
    took[f"{bomb} that fork"].append(await gone - began)
    await running.wait()


def their_life(image: str, took: Took) -> None:
    """Note the same of the engine's command line."""
    mounts = ["-v", "/usr:/usr:ro", "--network", "none"]
    words = ["run", "-d", "--name", NAME, *mounts, image, "/usr/bin/sleep", "1000"]
    took["create"].append(_timed(*words))
    for _ in range(COMMANDS):
        took["exec `true`"].append(_timed("exec", NAME, "/usr/bin/true"))
    took["rm"].append(_timed("rm", "-f", NAME))


def _timed(*words: str) -> float:
    began = time.perf_counter()
    subprocess.run(["docker", *words], check=True, capture_output=True)
    return time.perf_counter() - began


def measure() -> Part:
    """Return the figures beside the engine's."""
    return asyncio.run(_measure())


async def _measure() -> Part:
    socket = await find_engine(candidates(os.environ, Path.home()))
    if socket is None:
        return Part([], missing=["engine: no container engine answers here"])
    ours, theirs = nothing_taken(), nothing_taken()
    with tempfile.TemporaryDirectory() as folder:
        runtime = DockerRuntime(Path(folder) / "home", socket)
        try:
            await runtime.probe()
            [host] = await runtime.offered_images()
            for number in range(ROUNDS):
                lease = Path(folder) / "leases" / f"{number:020x}"
                await our_life(runtime, lease, ours, bomb=KINDS[number % len(KINDS)])
                await asyncio.to_thread(their_life, host.digest, theirs)
        finally:
            await runtime.close()
    times = {f"p2prc: {what}": took for what, took in ours.items()}
    times |= {f"docker: {what}": took for what, took in theirs.items()}
    return Part(_figures(ours, theirs), times)


def _figures(ours: Took, theirs: Took) -> list[Figure]:
    found = []
    for what, at_most in AT_MOST.items():
        mine, rival = median_ms(ours[what]), median_ms(theirs[what])
        found += [
            Figure(f"container: {what}", mine, "ms"),
            Figure(f"container: {what} / docker", mine / rival, "x", at_most=at_most),
        ]
    for kind in BOMBS_OF:
        gone = median_ms(ours[f"{kind} that fork"])
        title = f"container: kill to gone, {PROCESSES} {kind} that fork"
        found.append(Figure(title, gone, "ms", at_most=GONE_MS))
    return found
