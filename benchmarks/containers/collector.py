"""What it costs to look at fifty leases once a second.

A node in memory with the real sandbox lends fifty leases, each with a command that waits. Said is
the processor time of the node while its collector samples, less what it takes without it, and that
of the leases' supervisors, as parts of one core.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
import time
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random

from benchmarks.containers.part import Part, median_ms
from benchmarks.report import Figure
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, MEBIBYTE, Capacity, Limits
from p2prc.model.workload import Command, Workload
from p2prc.node.node import Adapters, Node, open_node
from p2prc.node.own_record import SelfDescription
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import Control, LeaseGranted, RequestLease, RunCommand
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.port import OutputChunk
from p2prc.runtime.process import watch
from p2prc.runtime.process.adapter import ProcessRuntime
from p2prc.storage.blobs import BlobStore
from p2prc.storage.state import open_state
from p2prc.transport.memory import MemoryNetwork
from p2prc.wire.signed import public_key_of

LEASES = 50
ROUNDS = 3
ROUND_S = 4.0
SETTLE_S = 3.0
COLLECTOR_PERCENT = 1.0
PEER = NodeId("a" * 64)
LIMITS = Limits(cpu_millis=100, memory_bytes=64 * MEBIBYTE, disk_bytes=64 * MEBIBYTE, processes=16)


def measure() -> Part:
    """Return the collector's share of a core."""
    return asyncio.run(_measure())


async def _measure() -> Part:
    idle, working = await _of_leases(has_sessions=True), await _of_leases(has_sessions=False)
    times = {f"idle: {what}": each for what, each in idle.times_s.items()}
    times |= {f"waiting: {what}": each for what, each in working.times_s.items()}
    return Part([*idle.figures, *working.figures], times)


async def _of_leases(*, has_sessions: bool) -> Part:
    """Measure with containers in which nothing runs, or with leases whose command waits."""
    with tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder:
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
            node = await open_one(stack, Path(folder))
            made = (lend(node, number, has_sessions=has_sessions) for number in range(LEASES))
            await asyncio.gather(*made)
            numbers = () if has_sessions else range(LEASES)
            commands = [group.create_task(wait_in(node, number)) for number in numbers]
            await asyncio.sleep(SETTLE_S)
            kind = "idle leases" if has_sessions else "leases with a command"
            part = await watch_them(node, kind)
            for command in commands:
                command.cancel()
            return part


async def open_one(stack: AsyncExitStack, folder: Path) -> Node:
    secret = b"collector".ljust(32, b"\0")
    runtime = ProcessRuntime(folder)
    stack.push_async_callback(runtime.close)
    endpoint = MemoryNetwork().endpoint(NodeId(public_key_of(secret).hex()))
    adapters = Adapters(
        endpoint=endpoint,
        runtime=runtime,
        environments=EnvironmentStore(folder / "environments", quota_bytes=GIBIBYTE),
        blobs=BlobStore(folder / "blobs", quota_bytes=GIBIBYTE),
        state=stack.enter_context(open_state(folder / "state.db")),
        leases_folder=folder / "leases",
        rng=Random(1),
    )
    description = SelfDescription(
        name="bench",
        software="bench",
        cpus=64,
        memory_bytes=64 * GIBIBYTE,
        lent=Capacity(cpu_millis=64_000, memory_bytes=64 * GIBIBYTE, disk_bytes=64 * GIBIBYTE),
        runtimes=await runtime.probe(),
        addresses=await endpoint.addresses(),
    )
    return await stack.enter_async_context(
        open_node(secret, description, LendingPolicy(), adapters)
    )


def lease_of(number: int) -> LeaseId:
    return LeaseId(f"{number:020x}")


async def lend(node: Node, number: int, *, has_sessions: bool) -> None:
    granted: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
    request = RequestLease(lease_of(number), Workload(LIMITS), has_sessions=has_sessions)
    node.provider.letter(PEER, request, granted.set_result)
    answer = await granted
    assert isinstance(answer, LeaseGranted), answer


async def wait_in(node: Node, number: int) -> None:
    request = RunCommand(lease_of(number), Command(("sleep", "1000")))
    await node.provider.run(PEER, request, printed)


async def printed(_: OutputChunk) -> None:
    """Nothing is printed."""


async def watch_them(node: Node, kind: str) -> Part:
    with_it, without, of_leases, not_asked = [], [], [], []
    for _ in range(ROUNDS):
        own, supervisors = await part_of_a_core()
        with_it.append(own)
        of_leases.append(supervisors)
        node.collector.pause()
        own, supervisors = await part_of_a_core()
        without.append(own)
        not_asked.append(supervisors)
        node.collector.resume()
    cost = statistics.median(with_it) - statistics.median(without)
    samples_s = [await one_sample_s(node) for _ in range(20)]
    told = f"{len(node.provider.leases())} {kind}"
    return Part(
        [
            _share(f"collector, {told}, a sample a second", cost, at_most=COLLECTOR_PERCENT),
            Figure(f"one sample of {told}, in the node", median_ms(samples_s), "ms"),
            _share(f"supervisors of {told}, asked once a second", statistics.median(of_leases)),
            _share(f"supervisors of {told}, not asked", statistics.median(not_asked)),
        ],
        {
            "with the collector (cores)": with_it,
            "without it (cores)": without,
            "supervisors (cores)": of_leases,
            "supervisors, not asked (cores)": not_asked,
            "one sample": samples_s,
        },
    )


def _share(title: str, cores: float, at_most: float | None = None) -> Figure:
    return Figure(title, 100 * cores, "% core", at_most=at_most)


async def part_of_a_core() -> tuple[float, float]:
    tree = watch.descendants(os.getpid())
    own, others, at = time.process_time(), _cpu_s(tree), time.monotonic()
    await asyncio.sleep(ROUND_S)
    passed_s = time.monotonic() - at
    return (time.process_time() - own) / passed_s, (_cpu_s(tree) - others) / passed_s


def _cpu_s(pids: list[int]) -> float:
    """Return what these processes have run, to the nanosecond: supervisors do very little."""
    return sum(int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) for pid in pids) / 1e9


async def one_sample_s(node: Node) -> float:
    before = time.process_time()
    await node.collector.look(asyncio.get_running_loop().time())
    return time.process_time() - before
