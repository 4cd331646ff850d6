"""Places to run things on this node: a lease's sandbox, its inputs, its commands, its outputs.

A command's way: fetch its inputs, lay them into the working folder, run it, gather what it made,
empty the working folder. Whatever fails on that way is the command's outcome, in the error's own
code, so the requester reads the same sentence as the owner.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from p2prc.egress.bridge import BridgeWay
from p2prc.egress.proxy import EgressProxy
from p2prc.errors import LeaseEnded, MachineCannot, P2prcError, PeerBusy
from p2prc.files.collect import OutputLimits, collect_outputs
from p2prc.files.place import link_farm, place_inputs
from p2prc.model.environment import EnvironmentLock
from p2prc.model.identity import BlobId, LeaseId, NodeId
from p2prc.model.resources import Limits, Usage
from p2prc.model.tree import Tree
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.node.egress import Moved, WayOut, WaysOut
from p2prc.node.kept_leases import KeptLease
from p2prc.node.log_file import LogFile, remove_all_but
from p2prc.node.main_process import Main
from p2prc.node.surroundings import (
    Entered,
    Played,
    StatusListener,
    clear,
    enter,
    leave,
    put_files,
    with_surroundings,
)
from p2prc.node.volumes import VolumeStore
from p2prc.protocol.lending import NO_ISOLATION
from p2prc.runtime.environments import EnvironmentStore
from p2prc.runtime.port import Execution, Exit, OutputChunk, Runtime, Sandbox, SandboxSpec
from p2prc.storage.blobs import BlobStore
from p2prc.storage.removal import empty_folder, remove_tree

LOG_TAIL_BYTES = 16 * 1024
REASON_LIMIT = 2000
BACKSTOP_S = 15.0
DYING_S = 10.0
"""How long a killed command, and whoever reads its output, may take to let go."""

log = logging.getLogger(__name__)
Value = TypeVar("Value")

Obtain = Callable[[NodeId, BlobId, str], Awaitable[Tree]]
"""Bring a tree of a peer, manifest and blobs, into our store, pinned for an owner."""
Print = Callable[[OutputChunk], Awaitable[None]]
"""Take what a command prints; waiting slows the command down."""
Progress = Callable[[str], None]


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True)
class Used:
    """What the commands of a lease used up to now."""

    commands: int = 0
    cpu_s: float = 0.0
    memory_byte_s: float = 0.0

    def add(self, outcome: Outcome) -> None:
        """Count one command, however it ended."""
        self.commands += 1
        self.cpu_s += outcome.usage.cpu_s
        self.memory_byte_s += outcome.usage.memory_peak_bytes * outcome.duration_s


@dataclass(slots=True)
class Place:
    """A lease's sandbox and what runs in it now.

    `patience` bounds the command that is on its way: without end until somebody ends it.
    """

    peer: NodeId
    lease: LeaseId
    workload: Workload
    sandbox: Sandbox
    running: Execution | None = None
    argv: tuple[str, ...] = ()
    patience: asyncio.Timeout | None = None
    is_cancelled: bool = False
    is_ended: bool = False
    is_suspended: bool = False
    end_reason: str = ""
    environment: EnvironmentLock | None = None
    way_out: WayOut | None = None
    variables: dict[str, str] = field(default_factory=dict)
    ports: tuple[int, ...] = ()
    log_file: LogFile | None = None
    main: Main | None = None
    entered: Entered | None = None
    tell: Progress = lambda _: None
    placed: set[BlobId] = field(default_factory=set)
    used: Used = field(default_factory=Used)
    idle: asyncio.Event = field(default_factory=_set_event)
    threads: set[asyncio.Future[Any]] = field(default_factory=set)

    @property
    def is_busy(self) -> bool:
        """Whether a command is on its way, from its inputs to its outputs."""
        return not self.idle.is_set()

    async def usage(self) -> Usage:
        """Return what the place uses now, with what went through its proxy."""
        return _with_traffic(self, await self.sandbox.usage())

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
        ways_out: WaysOut,
        volumes: VolumeStore,
    ) -> None:
        self._runtime = runtime
        self._environments = environments
        self._blobs = blobs
        self._folder = folder
        self._logs = folder.with_name(f"{folder.name}-logs")
        self._obtain = obtain
        self._ways_out = ways_out
        self._volumes = volumes

    async def create(
        self,
        peer: NodeId,
        lease: LeaseId,
        workload: Workload,
        *,
        tier: str,
        is_isolated: bool,
        progress: Progress,
        has_sessions: bool = False,
        variables: Mapping[str, str] | None = None,
    ) -> Place:
        """Make the environment and the sandbox. Raises MachineCannot."""
        spec, way_out = await self._prepare(
            peer,
            lease,
            workload,
            tier=tier,
            is_isolated=is_isolated,
            progress=progress,
            has_sessions=has_sessions,
        )
        try:
            with _machine_errors():
                sandbox = await self._runtime.create(spec)
        except BaseException:
            await self._give_up(peer, lease, workload, way_out)
            raise
        joined: BridgeWay | None = None
        try:
            joined = await self._ways_out.join(lease, workload, sandbox)
        except BaseException:
            await sandbox.end()
            await self._give_up(peer, lease, workload, way_out)
            raise
        return Place(
            peer,
            lease,
            workload,
            sandbox,
            environment=workload.environment,
            way_out=way_out or joined,
            variables=dict(variables or {}),
            log_file=self._log_file(spec.folder),
            tell=progress,
        )

    async def take_up(
        self, kept: Sequence[KeptLease], moved: Mapping[LeaseId, Moved]
    ) -> list[Place]:
        """Take up the places of the life before that are kept and live; nothing else stays.

        `moved` is what went through the ways out of each: nobody's allowance begins anew.
        """
        await self._ways_out.sweep()
        ready: list[tuple[KeptLease, SandboxSpec, EgressProxy | None]] = []
        for one in kept:
            try:
                spec, way_out = await self._prepare(
                    one.peer,
                    one.lease,
                    one.request.workload,
                    tier=one.tier,
                    is_isolated=one.request.is_isolated,
                    progress=_nothing,
                    has_sessions=one.request.has_sessions,
                    moved=moved.get(one.lease, (0, 0)),
                )
            except P2prcError as error:
                log.warning("a lease cannot be taken up", extra={"reason": error.message})
            else:
                ready.append((one, spec, way_out))
        living = await self._runtime.adopt([spec for _, spec, _ in ready])
        found = {sandbox.spec.folder: sandbox for sandbox in living}
        places, names = list[Place](), set[str]()
        for one, spec, way_out in ready:
            workload, sandbox = one.request.workload, found.get(spec.folder)
            if sandbox is None:
                await self._give_up(one.peer, one.lease, workload, way_out)
                continue
            names |= {spec.folder.name, *([] if way_out is None else [way_out.path.name])}
            place = Place(one.peer, one.lease, workload, sandbox)
            place.environment, place.way_out = workload.environment, way_out
            past = moved.get(one.lease, (0, 0))
            try:
                place.way_out = way_out or await self._ways_out.join(
                    one.lease, workload, sandbox, past
                )
            except P2prcError as error:
                # It goes on without: what runs there may need no network any more.
                log.warning("a lease lost its network", extra={"reason": error.message})
            place.variables = dict(one.request.variables)
            place.log_file = self._log_file(spec.folder)
            places.append(place)
        await asyncio.to_thread(_remove_all_but, self._folder, names)
        logs = {self._logs / place.sandbox.spec.folder.name for place in places}
        await asyncio.to_thread(remove_all_but, self._logs, logs)
        return places

    def _log_file(self, folder: Path) -> LogFile:
        # Beside all leases, not in this one: its tenant is not to write it.
        return LogFile(self._logs / folder.name)

    async def _prepare(
        self,
        peer: NodeId,
        lease: LeaseId,
        workload: Workload,
        *,
        tier: str,
        is_isolated: bool,
        progress: Progress,
        has_sessions: bool,
        moved: Moved = (0, 0),
    ) -> tuple[SandboxSpec, EgressProxy | None]:
        """Get what a sandbox needs. Raises MachineCannot, and then holds nothing."""
        environment: Path | None = None
        if workload.environment is not None:
            environment = await self._environments.ensure(
                workload.environment, progress=progress, user=f"{peer}/{lease}"
            )
        folder = self._folder / f"{peer[:16]}-{lease}"
        way_out: EgressProxy | None = None
        try:
            way_out = await self._ways_out.open(folder, workload, moved)
            volumes = await self._volumes.hold(
                peer, lease, workload.volumes, disk_bytes=workload.limits.disk_bytes
            )
        except BaseException:
            await self._give_up(peer, lease, workload, way_out)
            raise
        spec = SandboxSpec(
            lease=lease,
            folder=folder,
            limits=_with_backstop(workload.limits),
            tier=tier,
            environment=environment,
            is_isolated=is_isolated,
            has_sessions=has_sessions,
            image=workload.image,
            egress=None if way_out is None else way_out.path,
            volumes=volumes,
        )
        return spec, way_out

    async def _give_up(
        self, peer: NodeId, lease: LeaseId, workload: Workload, way_out: EgressProxy | None
    ) -> None:
        self._volumes.release(peer, lease)
        if way_out is not None:
            await way_out.close()
        if workload.environment is not None:
            self._environments.release(workload.environment, user=f"{peer}/{lease}")

    async def end(self, place: Place) -> None:
        """Kill what runs and forget the place."""
        place.is_ended = True
        if place.main is not None:
            place.main.stop()
        # Whoever reads the last output is given a moment; fetching inputs is in vain.
        _cut_short(place, after_s=0.0 if place.running is None else DYING_S / 2)
        await place.sandbox.end()
        if place.way_out is not None:
            await place.way_out.close()
        try:
            async with asyncio.timeout(DYING_S):
                await place.idle.wait()
        except TimeoutError:
            log.warning("a command does not let go of its lease", extra={"lease": place.lease})
        # Inputs that were being laid when the lease ended may have come after its folder went.
        await asyncio.to_thread(_remove_leftovers, place.sandbox.spec.folder)
        self._volumes.release(place.peer, place.lease)
        self._blobs.unpin(place.token)
        if place.environment is not None:
            self._environments.release(place.environment, user=f"{place.peer}/{place.lease}")

    async def run(self, place: Place, command: Command, printed: Print, *, keeper: str) -> Outcome:
        """Run one command from inputs to outputs; whatever fails is its outcome.

        The outputs are in the store, pinned for `keeper`. Raises PeerBusy. Cancelling this kills
        the command.
        """
        if place.sandbox.spec.has_sessions and not command.surroundings:
            raise PeerBusy("the lease is a container to work in; it takes no commands with files")
        if place.is_busy:
            raise PeerBusy("the lease runs another command at present")
        if place.is_suspended:
            raise PeerBusy(
                "the owner needs the machine at present: the lease is suspended",
                hint="it goes on by itself when the owner is done: try again later",
            )
        place.idle.clear()
        place.is_cancelled = False
        started = asyncio.get_running_loop().time()
        before = _with_traffic(place, Usage())
        tail = bytearray()

        async def take(chunk: OutputChunk) -> None:
            tail.extend(chunk.content)
            del tail[:-LOG_TAIL_BYTES]
            await printed(chunk)

        try:
            with _machine_errors():
                outcome = await self._whole_way(place, command, take, keeper)
        except P2prcError as error:
            outcome = failure(error)
        finally:
            place.running = None
            place.argv = ()
            place.idle.set()
            if place.is_ended:
                self._blobs.unpin(place.token)
        reason = outcome.reason
        if outcome.code and place.way_out is not None and place.way_out.allowance.is_used_up:
            reason = f"{reason}; {place.way_out.allowance.reason}"[:REASON_LIMIT]
        if outcome.code == LeaseEnded.code and place.end_reason:
            # Who ended it is worth more to the requester than that it ended.
            reason = place.end_reason
        ended = Outcome(
            status=outcome.status,
            code=outcome.code,
            reason=reason,
            outputs=outcome.outputs,
            output_bytes=outcome.output_bytes,
            log_tail=bytes(tail),
            usage=_with_traffic(place, outcome.usage, before=before),
            duration_s=asyncio.get_running_loop().time() - started,
        )
        place.used.add(ended)
        return ended

    async def cancel(self, place: Place) -> None:
        """Stop the command that runs in the place, or is about to."""
        place.is_cancelled = True
        if place.running is not None:
            await place.running.cancel()
        else:
            _cut_short(place, after_s=0.0)

    async def _whole_way(
        self, place: Place, command: Command, printed: Print, keeper: str
    ) -> Outcome:
        try:
            async with asyncio.timeout(None) as place.patience:
                outcome = await self._from_inputs_to_outputs(place, command, printed, keeper)
        except BaseException as error:
            place.patience = None
            # What goes wrong here must not hide what went wrong before, least of all an order to
            # stop.
            with suppress(P2prcError):
                await _make_ready(place)
            if isinstance(error, TimeoutError):
                raise LeaseEnded("it was ended before it was done") from error
            raise
        place.patience = None
        await _make_ready(place)
        return outcome

    async def _from_inputs_to_outputs(
        self, place: Place, command: Command, printed: Print, keeper: str
    ) -> Outcome:
        if place.is_ended:
            raise LeaseEnded
        if command.inputs is not None:
            await self._lay_inputs(place, command.inputs)
        if command.surroundings and place.entered is None:
            play = partial(_play, place, printed)
            entered = await enter(place.sandbox, command.surroundings, play)
            if entered.failure is not None:
                # The next attempt finds nothing of it and begins anew.
                await leave(place.sandbox, entered, play)
                return entered.failure
            place.entered = entered
        await put_files(place.sandbox, command.folders, command.files)
        command = with_surroundings(command, place.entered, place.sandbox)
        if command.tells_status:
            played = await _play(place, printed, command.argv, command.variables, command.timeout_s)
            outcome = played.outcome
        else:
            ended = await _execute(
                place, command.argv, command.variables, command.timeout_s, printed
            )
            outcome = _outcome_of(ended, command.argv)
        if outcome.is_success and command.outputs:
            outcome = await self._gather(place, command, outcome, keeper)
        return outcome

    async def leave(self, place: Place) -> None:
        """Leave what was entered, as its requester wished; the place is ended right after."""
        if place.entered is not None and not place.is_busy and not place.is_suspended:
            await leave(place.sandbox, place.entered, partial(_play, place, _unread))
            place.running = None

    async def _lay_inputs(self, place: Place, name: BlobId) -> None:
        if place.entered is not None and name in place.placed:
            # They stay where they were when the surroundings were entered.
            return
        tree = await self._obtain(place.peer, name, place.token)
        if name not in place.placed:
            await _in_thread(
                place,
                partial(
                    place_inputs,
                    tree,
                    self._blobs,
                    place.sandbox.spec.folder / "inputs" / name,
                    may_link=place.sandbox.spec.tier != NO_ISOLATION,
                ),
            )
            place.placed.add(name)
        inside = f"{place.sandbox.inputs_path}/{name}"
        await _in_thread(
            place, partial(link_farm, tree, inside, place.sandbox.spec.folder / "work")
        )

    async def _gather(
        self, place: Place, command: Command, outcome: Outcome, keeper: str
    ) -> Outcome:
        try:
            collected = await _in_thread(
                place,
                partial(
                    collect_outputs,
                    place.sandbox.spec.folder / "work",
                    command.outputs,
                    self._blobs,
                    owner=keeper,
                    limits=OutputLimits(place.workload.limits.disk_bytes),
                    may_lack=command.may_lack_outputs,
                ),
            )
        except P2prcError as error:
            # The command itself ended well: its status stays true.
            failed = failure(error)
            return Outcome(
                outcome.status, code=failed.code, reason=failed.reason, usage=outcome.usage
            )
        return Outcome(
            status=outcome.status,
            outputs=collected.tree.digest,
            output_bytes=collected.tree.size_bytes,
            usage=outcome.usage,
        )


def failure(error: P2prcError) -> Outcome:
    """Return an error as the end of a command, in text that any peer can decode."""
    reason = error.message.encode("utf-8", "backslashreplace").decode()
    return Outcome(None, code=error.code, reason=reason[:REASON_LIMIT])


def _with_traffic(place: Place, usage: Usage, *, before: Usage | None = None) -> Usage:
    """Add what went through the lease's proxy, since `before`."""
    if place.way_out is None:
        return usage
    moved, past = place.way_out.allowance, before or Usage()
    return msgspec.structs.replace(
        usage,
        net_rx_bytes=moved.received_bytes - past.net_rx_bytes,
        net_tx_bytes=moved.sent_bytes - past.net_tx_bytes,
    )


def _cut_short(place: Place, *, after_s: float) -> None:
    if place.patience is not None and not place.patience.expired():
        place.patience.reschedule(asyncio.get_running_loop().time() + after_s)


async def _in_thread(place: Place, work: Callable[[], Value]) -> Value:
    """Do it in a thread; one that nobody waits for any more is still known to the place."""
    running = asyncio.get_running_loop().run_in_executor(None, work)
    place.threads.add(running)
    running.add_done_callback(partial(_let_go, place))
    return await asyncio.shield(running)


def _let_go(place: Place, done: asyncio.Future[Any]) -> None:
    place.threads.discard(done)
    if not done.cancelled():
        # Looked at, so that an error that came too late is not reported as lost.
        done.exception()


async def _make_ready(place: Place) -> None:
    """Leave the place to the next command, whatever became of this one."""
    try:
        async with asyncio.timeout(DYING_S):
            if place.running is not None:
                await place.running.cancel()
                await place.running.wait()
            while place.threads:
                await asyncio.wait(set(place.threads))
    except TimeoutError as error:
        raise MachineCannot("the command does not end although it was killed") from error
    if place.sandbox.spec.has_sessions:
        await clear(place.sandbox, place.entered)
    else:
        await place.sandbox.reset()


async def _execute(
    place: Place,
    argv: Sequence[str],
    variables: Mapping[str, str],
    timeout_s: float | None,
    printed: Print,
) -> Exit:
    place.argv = tuple(argv)
    place.running = await place.sandbox.execute(argv, variables=variables, timeout_s=timeout_s)
    if place.is_cancelled:
        await place.running.cancel()
    async for chunk in place.running.output():
        await printed(chunk)
    return await place.running.wait()


async def _play(
    place: Place,
    printed: Print,
    argv: Sequence[str],
    variables: Mapping[str, str],
    timeout_s: float | None,
) -> Played:
    """Run a command whose output holds lines for us."""
    heard = StatusListener(place.tell, asyncio.get_running_loop().time)

    async def take(chunk: OutputChunk) -> None:
        heard.take(chunk)
        await printed(chunk)

    ended = await _execute(place, argv, variables, timeout_s, take)
    heard.finish()
    outcome = _outcome_of(ended, argv)
    if outcome.code == "work-failed" and heard.failure:
        outcome = msgspec.structs.replace(outcome, reason=heard.failure)
    return Played(outcome, heard)


async def _unread(_: OutputChunk) -> None:
    """Nobody reads what is said at the end."""


def _with_backstop(limits: Limits) -> Limits:
    """Let the sandbox end by itself only where the lease, whose time begins later, does not."""
    if limits.lifetime_s is None:
        return limits
    return msgspec.structs.replace(limits, lifetime_s=limits.lifetime_s + BACKSTOP_S)


def _nothing(_: str) -> None:
    """Tell nobody how it goes: nobody waits."""


def _remove_all_but(folder: Path, names: Collection[str]) -> None:
    if not folder.exists():
        return
    try:
        problems = empty_folder(folder, kept=names)
    except OSError as error:
        problems = [str(error)]
    for problem in problems:
        log.warning("a leftover of an old lease stays", extra={"reason": problem})


def _remove_leftovers(folder: Path) -> None:
    try:
        if folder.exists():
            remove_tree(folder)
    except OSError as error:
        log.warning("a lease's folder is left over", extra={"reason": str(error)})


@contextmanager
def _machine_errors() -> Iterator[None]:
    """Say the system's refusals in our words: too many open files are no bug."""
    try:
        yield
    except TimeoutError:
        raise
    except OSError as error:
        raise MachineCannot(f"the machine refuses: {error.strerror or error}") from error


def _outcome_of(ended: Exit, argv: Sequence[str]) -> Outcome:
    code, reason = ended.code, ended.reason
    if not code and ended.status != 0:
        code = "work-failed"
        reason = f"`{argv[0][:200]}` ended with status {ended.status}"
    return Outcome(ended.status, code=code, reason=reason[:2000], usage=ended.usage)
