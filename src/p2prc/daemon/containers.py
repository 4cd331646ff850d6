"""What the control API asks about containers on other nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Literal

import msgspec

from p2prc.api import container_schema as schema
from p2prc.api.schema import RunEnded, RunEvent, RunOutput, RunStarted
from p2prc.api.streaming import error_body
from p2prc.daemon.names import find_container
from p2prc.daemon.orders import environment_of, workload_of
from p2prc.daemon.rows import instant, instant_or_none
from p2prc.errors import InvalidInput, LeaseUnknown, P2prcError, PeerLost
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.likeness import guess
from p2prc.model.workload import MainProcess, Workload
from p2prc.node.containers import Held
from p2prc.node.inside import RemoteCommand
from p2prc.node.node import Node
from p2prc.runtime.port import Link, Terminal

NOTES_LIMIT = 64
AT_ONCE = 32
"""So many are made at the same time; the others wait."""
NEWS_S = 3600.0
"""Who looks sees for so long that a container is gone, and why."""
_GONE = ("ended", "removing")
Find = Callable[[str], Awaitable[NodeId]]


@dataclass(frozen=True, slots=True)
class _Asked:
    """What was asked for; a `target` of None is any node."""

    request: schema.CreateRequest
    target: NodeId | None
    workload: Workload


class ContainerDesk:
    """Answers for this node's containers."""

    def __init__(self, node: Node, find_node: Find) -> None:
        self._node = node
        self._find_node = find_node

    async def create(
        self, request: schema.CreateRequest
    ) -> AsyncGenerator[schema.CreateEvent, None]:
        """Make what is asked for, all at once; closing this gives back what was not told yet.

        What fails alone is an error; of several each says so for itself, and the others stay.
        """
        # None is one that failed alone, or by a bug of ours.
        events: asyncio.Queue[schema.CreateEvent | None] = asyncio.Queue()
        makings: list[asyncio.Task[Held]] = []
        untold: set[LeaseId] = set()

        def noted(text: str) -> None:
            if events.qsize() < NOTES_LIMIT:
                events.put_nowait(schema.CreateNote(text))

        def done(making: asyncio.Task[Held], name: str) -> None:
            if making.cancelled():
                return
            error = making.exception()
            if error is None:
                untold.add(making.result().lease)
                row = self._row(making.result())
                is_one = request.count == 1
                events.put_nowait(schema.CreateEnded(row) if is_one else schema.CreateMade(row))
            elif isinstance(error, P2prcError) and request.count > 1:
                events.put_nowait(schema.CreateFailed(name, error_body(error).error))
            else:
                events.put_nowait(None)

        asked = await self._asked(request, noted)
        at_once = asyncio.Semaphore(AT_ONCE)
        try:
            for name in _names(request):
                making = asyncio.create_task(
                    self._create(asked, name, at_once, noted), name="create"
                )
                making.add_done_callback(partial(done, name=name))
                makings.append(making)
            left, made = len(makings), 0
            while left:
                if (event := await events.get()) is None:
                    await asyncio.gather(*(each for each in makings if each.done()))
                    continue
                if isinstance(event, schema.CreateEnded | schema.CreateMade):
                    made += 1
                    untold.discard(LeaseId(event.container.id))
                left -= not isinstance(event, schema.CreateNote)
                yield event
            if request.count > 1:
                yield schema.CreateAllEnded(made)
        finally:
            for making in makings:
                making.cancel()
            await asyncio.gather(*makings, return_exceptions=True)
            for lease in untold:
                self._node.containers.remove(lease)

    async def _asked(self, request: schema.CreateRequest, noted: Callable[[str], None]) -> _Asked:
        """Find out once what all of them have in common."""
        target = None if request.target == "any" else await self._find_node(request.target)
        if request.restart != "no" and not request.argv:
            raise InvalidInput("only a main process starts again: put a command after `--`")
        if request.requirements:
            noted(f"choosing versions of {', '.join(request.requirements)}")
        environment = await environment_of(request.requirements)
        return _Asked(request, target, workload_of(request, environment))

    async def _create(
        self, asked: _Asked, name: str, at_once: asyncio.Semaphore, noted: Callable[[str], None]
    ) -> Held:
        request = asked.request
        main = MainProcess(tuple(request.argv), request.restart) if request.argv else None
        async with at_once:
            held = await self._node.containers.create(
                asked.target,
                msgspec.structs.replace(asked.workload, name=name),
                variables=dict(request.variables),
                main=main,
                ports=request.ports,
                noted=noted,
            )
        if request.group:
            there = self._node.containers.groups.get(request.group, [])
            self._node.containers.set_group(request.group, [*there, held.lease])
        return held

    async def rows(self, *, is_all: bool) -> list[schema.ContainerRow]:
        held = await self._node.containers.check()
        news_since = time.time() - NEWS_S
        return [
            self._row(each)
            for each in held
            if is_all or each.state != "ended" or each.ended_at > news_since
        ]

    async def remove(self, leases: list[str]) -> list[schema.ContainerRow]:
        found = [lease for typed in leases for lease in self._find_all(typed)]
        return [self._row(self._node.containers.remove(lease)) for lease in dict.fromkeys(found)]

    async def execute(
        self, lease: str, lines: AsyncIterator[schema.ExecLine]
    ) -> AsyncGenerator[RunEvent, None]:
        """Run a command; closing this kills it."""
        held = self._find(lease)
        first = await anext(lines, None)
        if not isinstance(first, schema.ExecStart):
            raise InvalidInput("the first line of an exec is its command")
        terminal = _terminal(first.terminal)
        command = await self._node.inside.execute(
            held.node,
            held.lease,
            first.argv,
            variables=first.variables,
            takes_input=first.takes_input,
            terminal=terminal,
        )
        feeding = asyncio.create_task(_feed(command, lines), name="input of an exec")
        try:
            yield RunStarted(node=held.node, lease=held.lease)
            with self._lost_is_not_gone(held):
                async for chunk in command.output():
                    yield RunOutput(channel=_channel(chunk.channel), content=chunk.content)
            outcome = command.outcome
            yield RunEnded(
                exit=outcome.status,
                node=held.node,
                lease=held.lease,
                code=outcome.code,
                message=outcome.reason,
            )
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await command.close()

    async def log(self, lease: str, *, follows: bool) -> AsyncGenerator[RunEvent, None]:
        """What the main process printed."""
        held = self._find(lease)
        if not held.argv:
            raise InvalidInput(
                "this container has no main process, and so no log",
                hint="give it one: `p2prc create NODE -- CMD`",
            )
        log = self._node.inside.log(held.node, held.lease, follows=follows)
        with self._lost_is_not_gone(held):
            async for chunk in log:
                yield RunOutput(channel=_channel(chunk.channel), content=chunk.content)
        yield RunEnded(exit=held.main_status, node=held.node, lease=held.lease)

    async def dial(
        self, lease: str, port: int, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]:
        """Bytes from a port inside; the body goes to it."""
        held = self._find(lease)
        link = await self._node.inside.dial(held.node, held.lease, port)
        async with aclosing(_spliced(link, body)) as answer:
            async for content in answer:
                yield content

    async def ssh(self, lease: str, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """The SSH of a container's node."""
        held = self._find(lease)
        link = await self._node.inside.open_ssh(held.node, held.lease)
        async with aclosing(_spliced(link, body)) as answer:
            async for content in answer:
                yield content

    async def open_ssh(self, typed: str) -> tuple[NodeId, Link]:
        """Return a container's node, and its SSH. Raises P2prcError."""
        held = self._find(typed)
        return held.node, await self._node.inside.open_ssh(held.node, held.lease)

    async def ssh_facts(self, lease: str) -> schema.SshFacts:
        """Whose keys an SSH connection has."""
        return schema.SshFacts(host=self._find(lease).node, own=self._node.id)

    async def get_files(self, lease: str, path: str) -> AsyncGenerator[bytes, None]:
        """A tar archive."""
        held = self._find(lease)
        async for content in self._node.inside.get_files(held.node, held.lease, path):
            yield content

    async def put_files(self, lease: str, folder: str, body: AsyncIterator[bytes]) -> None:
        held = self._find(lease)
        await self._node.inside.put_files(held.node, held.lease, folder, _until_end(body))

    async def groups(self) -> list[schema.GroupRow]:
        groups = self._node.containers.groups
        names = {held.lease: held.workload.name for held in self._node.containers.all()}
        return [
            schema.GroupRow(
                name, list(groups[name]), [names.get(lease, "") for lease in groups[name]]
            )
            for name in sorted(groups)
        ]

    async def change_group(self, request: schema.GroupRequest) -> list[schema.GroupRow]:
        containers, name = self._node.containers, request.name
        there = containers.groups.get(name)
        if request.action != "create" and there is None:
            raise LeaseUnknown(
                f"no group is called `{name[:80]}`",
                hint=guess(name, containers.groups, "see `p2prc group list`"),
            )
        leases = [self._find_any(typed) for typed in request.leases]
        match request.action:
            case "create" | "add":
                containers.set_group(name, [*(there or []), *leases])
            case "remove":
                containers.set_group(name, [each for each in there or [] if each not in leases])
            case "rm":
                containers.set_group(name, None)
        return await self.groups()

    @contextmanager
    def _lost_is_not_gone(self, held: Held) -> Iterator[None]:
        """Say of a connection that broke what it means for the container: nothing."""
        try:
            yield
        except PeerLost as error:
            node = self._node.name_of(held.node) or held.node[:10]
            raise PeerLost(
                f"the connection to {node} was lost; its containers go on without it",
                hint="take it up again: `p2prc ps`",
            ) from error

    def _find_all(self, typed: str) -> list[LeaseId]:
        """Return the container that is meant, or all of a group of that name."""
        try:
            return [self._find_any(typed)]
        except LeaseUnknown:
            if (group := self._node.containers.groups.get(typed)) is None:
                raise
            return list(group)

    def _find_any(self, typed: str) -> LeaseId:
        all_held = self._node.containers.all()
        names = {held.lease: held.workload.name for held in all_held}
        return find_container(typed, names, {h.lease for h in all_held if h.state in _GONE})

    def find(self, typed: str) -> Held:
        """Return the container that is meant. Raises LeaseUnknown, NameAmbiguous."""
        return self._find(typed)

    def _find(self, typed: str) -> Held:
        """Return a container that may be worked in. Raises LeaseUnknown with why it is gone."""
        try:
            lease = self._find_any(typed)
        except LeaseUnknown:
            if typed not in self._node.containers.groups:
                raise
            raise LeaseUnknown(
                f"`{typed[:80]}` {schema.IS_A_GROUP}", hint=f"see `p2prc group show {typed[:80]}`"
            ) from None
        [held] = [each for each in self._node.containers.all() if each.lease == lease]
        if held.state in _GONE:
            reason = held.reason or "it was removed"
            raise LeaseUnknown(f"this container is gone: {reason}", hint="see `p2prc ps`")
        return held

    def _row(self, held: Held) -> schema.ContainerRow:
        limits = held.workload.limits
        return schema.ContainerRow(
            id=held.lease,
            node=held.node,
            image=held.workload.image or held.workload.runtime,
            state=held.state,
            created_at=instant(held.created_at),
            expires_at=instant_or_none(held.expires_at),
            limits=schema.LimitsRow(
                cpus=limits.cpu_millis / 1000,
                memory_bytes=limits.memory_bytes,
                disk_bytes=limits.disk_bytes,
                processes=limits.processes,
                gpus=limits.gpus,
            ),
            ports=[schema.PortRow(name, port) for name, port in held.ports.items()],
            ssh=f"p2prc ssh {held.lease[:10]}",
            groups=self._node.containers.groups_of(held.lease),
            reason=held.reason,
            ended_by=held.ended_by or None,
            name=held.workload.name,
            node_name=self._node.name_of(held.node),
            command=" ".join(held.argv),
            main=held.main,
            main_exit=held.main_status,
        )


def _names(request: schema.CreateRequest) -> list[str]:
    """Return the names of all that are made: several of one name are numbered."""
    if request.count == 1:
        return [request.name]
    numbers = range(1, request.count + 1)
    return [f"{request.name}-{number}" if request.name else "" for number in numbers]


async def _feed(command: RemoteCommand, lines: AsyncIterator[schema.ExecLine]) -> None:
    try:
        async for line in lines:
            match line:
                case schema.ExecInput():
                    await command.write(line.content)
                case schema.ExecEndInput():
                    await command.end_input()
                case schema.ExecResize():
                    await command.resize(Terminal(line.terminal.rows, line.terminal.columns))
                case schema.ExecStart():
                    raise InvalidInput("one exec runs one command")
    except P2prcError:
        # The command is over, or what was sent is wrong: either way it ends.
        await command.close()


async def _spliced(link: Link, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    async def send() -> None:
        async for content in body:
            await (link.write(content) if content else link.end_writing())

    sending = asyncio.create_task(send(), name="bytes to a container")
    try:
        while content := await link.read():
            yield content
    except OSError:
        return
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)
        await link.close()


async def _until_end(body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async for content in body:
        if not content:
            return
        yield content


def _terminal(asked: schema.TerminalRequest | None) -> Terminal | None:
    return None if asked is None else Terminal(asked.rows, asked.columns)


def _channel(number: int) -> Literal[1, 2]:
    return 1 if number == 1 else 2
