"""How fast leases in containers are, next to the engine's own command line on the same image.

Run `python -m benchmarks.containers` where a container engine answers; medians of one run, taken in
turns so that both sides meet the same machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.presence import candidates, find_engine
from p2prc.runtime.port import SandboxSpec

ROUNDS = 12
COMMANDS = 3
BOMB_S = 0.3
FORK_BOMB = "import os\nwhile True:\n  try: os.fork()\n  except OSError: pass"
NAME = "p2prc-benchmark"
Took = dict[str, list[float]]


async def our_life(runtime: DockerRuntime, folder: Path, took: Took, *, is_bomb: bool) -> None:
    """Note how long a lease takes to create, for `true`, and to be gone."""
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
    if is_bomb:
        bomb = await sandbox.execute(["python", "-c", FORK_BOMB], variables={})
        await asyncio.sleep(BOMB_S)
        began = clock()
        await sandbox.end()
        took["fork bomb to gone"].append(clock() - began)
        await bomb.wait()
    else:
        began = clock()
        await sandbox.end()
        took["rm"].append(clock() - began)


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


async def main() -> None:
    socket = await find_engine(candidates(os.environ, Path.home()))
    if socket is None:
        print("no container engine answers here")
        return
    ours: Took = defaultdict(list)
    theirs: Took = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder:
        runtime = DockerRuntime(Path(folder) / "home", socket)
        try:
            await runtime.probe()
            [host] = await runtime.offered_images()
            for number in range(ROUNDS):
                lease = Path(folder) / "leases" / f"{number:020x}"
                await our_life(runtime, lease, ours, is_bomb=number % 2 == 1)
                await asyncio.to_thread(their_life, host.digest, theirs)
        finally:
            await runtime.close()
    print(f"{'median, ms':20} {'p2prc':>8} {'docker':>8}   ratio")
    for what, times in ours.items():
        middle, rival = 1000 * statistics.median(times), theirs.get(what)
        if rival is None:
            print(f"{what:20} {middle:8.1f}")
        else:
            other = 1000 * statistics.median(rival)
            print(f"{what:20} {middle:8.1f} {other:8.1f} {middle / other:7.2f}")


if __name__ == "__main__":
    asyncio.run(main())
