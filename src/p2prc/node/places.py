"""Places to run things on this node: a lease's sandbox, its inputs, its commands, its outputs.

A command's way: fetch its inputs, lay them into the working folder, run it, gather what it made,
empty the working folder. Whatever fails on that way is the command's outcome, in the error's own
code, so the requester reads the same sentence as the owner.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

from p2prc.errors import LeaseEnded, P2prcError, PeerBusy
from p2prc.files.collect import OutputLimits, collect_outputs
from p2prc.files.place import link_farm, place_inputs
from p2prc.model.environment import EnvironmentLock
from p2prc.model.identity import BlobId, LeaseId, NodeId
from p2prc.model.tree import Tree
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.protocol.lending import NO_ISOLATION
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.port import Execution, Exit, OutputChunk, Runtime, Sandbox, SandboxSpec
from p2prc.storage.blobs import BlobStore

LOG_TAIL_BYTES = 16 * 1024
OUTPUT_TIMEOUT_S = 600.0

Obtain = Callable[[NodeId, BlobId, str], Awaitable[Tree]]
"""Bring a tree of a peer, manifest and blobs, into our store, pinned for an owner."""
Print = Callable[[OutputChunk], Awaitable[None]]
"""Take what a command prints; waiting slows the command down."""
Progress = Callable[[str], None]


@dataclass(slots=True)
class Place:
    """A lease's sandbox and what runs in it now."""

    peer: NodeId
    lease: LeaseId
    workload: Workload
    sandbox: Sandbox
    running: Execution | None = None
    is_busy: bool = False
    is_cancelled: bool = False
    end_reason: str = ""
    environment: EnvironmentLock | None = None
    placed: set[BlobId] = field(default_factory=set)

    @property
    def token(self) -> str:
        """Our reason for keeping blobs and granting trees: this lease."""
        return f"lease-{self.peer}-{self.lease}"


class Places:
    """Makes and ends places and runs commands in them."""

    def __init__(
        self,
        *,
        runtime: Runtime,
        environments: EnvironmentStore,
        blobs: BlobStore,
        folder: Path,
        obtain: Obtain,
    ) -> None:
        self._runtime = runtime
        self._environments = environments
        self._blobs = blobs
        self._folder = folder
        self._obtain = obtain

    async def create(
        self,
        peer: NodeId,
        lease: LeaseId,
        workload: Workload,
        *,
        tier: str,
        is_isolated: bool,
        progress: Progress,
    ) -> Place:
        """Make the environment and the sandbox. Raises MachineCannot."""
        environment: Path | None = None
        if workload.environment is not None:
            environment = await self._environments.ensure(
                workload.environment, progress=progress, user=f"{peer}/{lease}"
            )
        spec = SandboxSpec(
            lease=lease,
            folder=self._folder / f"{peer[:16]}-{lease}",
            limits=workload.limits,
            tier=tier,
            environment=environment,
            is_isolated=is_isolated,
        )
        sandbox = await self._runtime.create(spec)
        return Place(peer, lease, workload, sandbox, environment=workload.environment)

    async def end(self, place: Place) -> None:
        """Kill what runs and forget the place."""
        await place.sandbox.end()
        self._blobs.unpin(place.token)
        if place.environment is not None:
            self._environments.release(place.environment, user=f"{place.peer}/{place.lease}")

    async def run(self, place: Place, command: Command, printed: Print, *, keeper: str) -> Outcome:
        """Run one command from inputs to outputs; whatever fails is its outcome.

        The outputs are in the store, pinned for `keeper`. Raises PeerBusy.
        """
        if place.is_busy:
            raise PeerBusy("the lease runs another command at present")
        place.is_busy, place.is_cancelled = True, False
        started = asyncio.get_running_loop().time()
        tail = bytearray()

        async def take(chunk: OutputChunk) -> None:
            tail.extend(chunk.content)
            del tail[:-LOG_TAIL_BYTES]
            await printed(chunk)

        try:
            outcome = await self._from_inputs_to_outputs(place, command, take, keeper)
        except P2prcError as error:
            outcome = Outcome(None, code=error.code, reason=error.message[:2000])
        finally:
            place.running = None
            place.is_busy = False
        reason = outcome.reason
        if outcome.code == LeaseEnded.code and place.end_reason:
            # Who ended it is worth more to the requester than that it ended.
            reason = place.end_reason
        duration_s = asyncio.get_running_loop().time() - started
        return Outcome(
            status=outcome.status,
            code=outcome.code,
            reason=reason,
            outputs=outcome.outputs,
            output_bytes=outcome.output_bytes,
            log_tail=bytes(tail),
            usage=outcome.usage,
            duration_s=duration_s,
        )

    async def cancel(self, place: Place) -> None:
        """Stop the command that runs in the place."""
        place.is_cancelled = True
        if place.running is not None:
            await place.running.cancel()

    async def _from_inputs_to_outputs(
        self, place: Place, command: Command, printed: Print, keeper: str
    ) -> Outcome:
        sandbox = place.sandbox
        if command.inputs is not None:
            await self._lay_inputs(place, command.inputs)
        place.running = await sandbox.execute(
            command.argv, variables=command.variables, timeout_s=command.timeout_s
        )
        if place.is_cancelled:
            await place.running.cancel()
        try:
            async for chunk in place.running.output():
                await printed(chunk)
            ended = await place.running.wait()
            outcome = _outcome_of(ended, command)
            if outcome.is_success and command.outputs:
                outcome = await self._gather(place, command, outcome, keeper)
        finally:
            await sandbox.reset()
        return outcome

    async def _lay_inputs(self, place: Place, name: BlobId) -> None:
        tree = await self._obtain(place.peer, name, place.token)
        if name not in place.placed:
            await asyncio.to_thread(
                place_inputs,
                tree,
                self._blobs,
                place.sandbox.spec.folder / "inputs" / name,
                may_link=place.sandbox.spec.tier != NO_ISOLATION,
            )
            place.placed.add(name)
        inside = f"{place.sandbox.inputs_path}/{name}"
        await asyncio.to_thread(link_farm, tree, inside, place.sandbox.spec.folder / "work")

    async def _gather(
        self, place: Place, command: Command, outcome: Outcome, keeper: str
    ) -> Outcome:
        try:
            collected = await asyncio.to_thread(
                collect_outputs,
                place.sandbox.spec.folder / "work",
                command.outputs,
                self._blobs,
                owner=keeper,
                limits=OutputLimits(place.workload.limits.disk_bytes),
            )
        except P2prcError as error:
            # The command itself ended well: its status stays true.
            return Outcome(
                outcome.status, code=error.code, reason=error.message[:2000], usage=outcome.usage
            )
        return Outcome(
            status=outcome.status,
            outputs=collected.tree.digest,
            output_bytes=collected.tree.size_bytes,
            usage=outcome.usage,
        )


def _outcome_of(ended: Exit, command: Command) -> Outcome:
    code, reason = ended.code, ended.reason
    if not code and ended.status != 0:
        code = "work-failed"
        reason = f"`{command.argv[0][:200]}` ended with status {ended.status}"
    return Outcome(ended.status, code=code, reason=reason[:2000], usage=ended.usage)
