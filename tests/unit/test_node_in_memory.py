"""Whole nodes in one process: memory network, fake runtime, everything else as shipped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from p2prc.authority import found_network, verify_chain
from p2prc.errors import NotMember, PolicyRefuses
from p2prc.model.identity import NodeId
from p2prc.model.job import Job, Step
from p2prc.model.resources import GIBIBYTE, Capacity, RuntimeOffer
from p2prc.model.workload import Command, Workload
from p2prc.node.handshake import introduce
from p2prc.node.node import Adapters, Node, open_node
from p2prc.node.own_record import SelfDescription
from p2prc.node.standing import Standing
from p2prc.plugins.hooks import Hooks, HookSet
from p2prc.protocol.jobs.parameters import parse_over
from p2prc.protocol.lending import LendingPolicy
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.fake import FakeRuntime
from p2prc.runtime.port import OutputChunk
from p2prc.storage.blobs import BlobStore
from p2prc.storage.state import open_state
from p2prc.transport.memory import MemoryNetwork
from p2prc.transport.port import Channel
from p2prc.wire.signed import public_key_of

DAY_S = 86400.0


@asynccontextmanager
async def node_of(
    network: MemoryNetwork,
    folder: Path,
    name: str,
    policy: LendingPolicy | None = None,
    *,
    founds_open: bool = False,
    plugins: Sequence[Hooks] = (),
) -> AsyncIterator[Node]:
    """A node that lends two cores."""
    secret = name.encode().ljust(32, b"\0")
    runtime = FakeRuntime(has_sessions=True)
    endpoint = network.endpoint(NodeId(public_key_of(secret).hex()))
    async with AsyncExitStack() as stack:
        folder = folder / name
        folder.mkdir()
        adapters = Adapters(
            endpoint=endpoint,
            runtime=runtime,
            environments=EnvironmentStore(folder / "environments", quota_bytes=GIBIBYTE),
            blobs=BlobStore(folder / "blobs", quota_bytes=GIBIBYTE),
            state=stack.enter_context(open_state(folder / "state.db")),
            leases_folder=folder / "leases",
            rng=Random(name),
            hooks=HookSet(plugins),
        )
        description = SelfDescription(
            name=name,
            software="test",
            cpus=2,
            memory_bytes=8 * GIBIBYTE,
            lent=Capacity(cpu_millis=2000, memory_bytes=8 * GIBIBYTE, disk_bytes=99 * GIBIBYTE),
            runtimes=(RuntimeOffer("process", "userns"),),
            addresses=await endpoint.addresses(),
        )
        yield await stack.enter_async_context(
            open_node(
                secret, description, policy or LendingPolicy(), adapters, founds_open=founds_open
            )
        )


@asynccontextmanager
async def two_nodes(
    folder: Path, policy_of_second: LendingPolicy | None = None
) -> AsyncIterator[tuple[Node, Node]]:
    """Two members of one network that know each other."""
    network = MemoryNetwork()
    async with (
        node_of(network, folder, "ada") as ada,
        node_of(network, folder, "grace", policy_of_second) as grace,
    ):
        ticket, _ = ada.inviting.invite(expires_s=DAY_S, may_invite=False, reach="lan")
        await grace.joining.join(ticket)
        async with asyncio.timeout(10):
            while len(ada.network.nodes()) < 2:
                await _next_turn()
        yield ada, grace


async def _next_turn() -> None:
    turn = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, turn.set)
    await turn.wait()


async def run(node: Node, target: NodeId | None, *argv: str) -> tuple[int | None, bytes]:
    """Run a command and return its status and what it printed."""
    printed = bytearray()

    async def keep(chunk: OutputChunk) -> None:
        printed.extend(chunk.content)

    async def started(_node: NodeId, _lease: object) -> None:
        return

    finished = await node.runs.run(
        target,
        Workload(),
        Command(argv),
        owner="test",
        printed=keep,
        noted=lambda _: None,
        started=started,
    )
    return finished.outcome.status, bytes(printed)


async def test_a_command_runs_on_the_other_node_and_on_this_one(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        assert await run(ada, grace.id, "echo", "hello") == (0, b"hello\n")
        assert await run(ada, ada.id, "echo", "self") == (0, b"self\n")
        assert await run(grace, None, "false") == (1, b"")


async def test_a_job_runs_on_both_nodes_and_ends(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        step = Step(
            name="step",
            command=Command(("echo", "{i}")),
            parameters=(parse_over("i=1-20"),),
        )
        job = Job(name="job", submitter=ada.id, salt="salt", steps=(step,))
        runner = ada.jobs.submit(job, "/")
        async with asyncio.timeout(20):
            while not runner.ledger.is_ended:
                await runner.wait_changed()
        assert runner.ledger.state == "succeeded"
        assert sum(counts.succeeded for counts in runner.ledger.nodes.values()) == 20
        assert set(runner.ledger.nodes) == {ada.id, grace.id}


async def test_a_node_that_lends_to_nobody_refuses_with_the_owners_reason(tmp_path: Path) -> None:
    nobody = LendingPolicy(lends_to=frozenset())
    async with two_nodes(tmp_path, nobody) as (ada, grace):
        with pytest.raises(PolicyRefuses, match="lends nothing"):
            await ada.runs.run(
                grace.id,
                Workload(),
                Command(("true",)),
                owner="test",
                printed=_never,
                noted=lambda _: None,
                started=_never_started,
            )


async def _never(_: OutputChunk) -> None:
    raise AssertionError("a refused command printed something")


async def _never_started(_node: NodeId, _lease: object) -> None:
    raise AssertionError("a refused command was started")


async def test_a_stranger_is_refused_with_a_reason_and_learns_nothing_else(tmp_path: Path) -> None:
    network = MemoryNetwork()
    secret = b"s" * 32
    stranger = NodeId(public_key_of(secret).hex())
    own_network = found_network(secret)
    async with node_of(network, tmp_path, "ada") as ada:
        endpoint = network.endpoint(stranger)
        addresses = ada.network.told.description.addresses
        for claimed in (stranger, ada.id):
            connection = await endpoint.connect(ada.id, addresses, Channel.CONTROL, timeout_s=5)
            standing = Standing(claimed, own_network, verify_chain(own_network, network=stranger))
            with pytest.raises(NotMember):
                await introduce(connection, standing)
            await connection.close()
        async with asyncio.timeout(5):
            while ada.links.refusals["not-member"] < 2:
                await _next_turn()
        assert len(ada.network.nodes()) == 1
