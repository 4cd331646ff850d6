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
ROUNDS = 5
ROUND_S = 6.0
COLLECTOR_PERCENT = 1.0
PEER = NodeId("a" * 64)
LIMITS = Limits(cpu_millis=100, memory_bytes=64 * MEBIBYTE, disk_bytes=64 * MEBIBYTE, processes=16)


def measure() -> Part:
    """Return the collector's share of a core."""
    return asyncio.run(_measure())


async def _measure() -> Part:
    with tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder:
        async with AsyncExitStack() as stack:
            node = await open_one(stack, Path(folder))
            async with asyncio.TaskGroup() as group:
                await asyncio.gather(*(lend(node, number) for number in range(LEASES)))
                commands = [group.create_task(wait_in(node, number)) for number in range(LEASES)]
                await asyncio.sleep(3)
                part = await watch_them(node)
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


async def lend(node: Node, number: int) -> None:
    granted: asyncio.Future[Control] = asyncio.get_running_loop().create_future()
    request = RequestLease(lease_of(number), Workload(LIMITS))
    node.provider.letter(PEER, request, granted.set_result)
    answer = await granted
    assert isinstance(answer, LeaseGranted), answer


async def wait_in(node: Node, number: int) -> None:
    request = RunCommand(lease_of(number), Command(("sleep", "1000")))
    await node.provider.run(PEER, request, printed)


async def printed(_: OutputChunk) -> None:
    """Nothing is printed."""


async def watch_them(node: Node) -> Part:
    with_it, without, of_leases = [], [], []
    for _ in range(ROUNDS):
        own, supervisors = await part_of_a_core()
        with_it.append(own)
        of_leases.append(supervisors)
        node.collector.pause()
        own, _supervisors = await part_of_a_core()
        without.append(own)
        node.collector.resume()
    cost = statistics.median(with_it) - statistics.median(without)
    samples_s = [await one_sample_s(node) for _ in range(20)]
    count = len(node.provider.leases())
    return Part(
        [
            Figure(
                f"collector, {count} leases, a sample a second, of a core",
                100 * cost,
                "%",
                at_most=COLLECTOR_PERCENT,
            ),
            Figure("node without its collector", 100 * statistics.median(without), "%"),
            Figure("one sample, processor time in the node", median_ms(samples_s), "ms"),
            Figure(f"supervisors of {count} leases", 100 * statistics.median(of_leases), "%"),
        ],
        {
            "with the collector (cores)": with_it,
            "without it (cores)": without,
            "supervisors (cores)": of_leases,
            "one sample": samples_s,
        },
    )


async def part_of_a_core() -> tuple[float, float]:
    tree = watch.descendants(os.getpid())
    own, others, at = time.process_time(), watch.cpu_s(tree), time.monotonic()
    await asyncio.sleep(ROUND_S)
    passed_s = time.monotonic() - at
    return (time.process_time() - own) / passed_s, (watch.cpu_s(tree) - others) / passed_s


async def one_sample_s(node: Node) -> float:
    before = time.process_time()
    await node.collector.look(asyncio.get_running_loop().time())
    return time.process_time() - before
