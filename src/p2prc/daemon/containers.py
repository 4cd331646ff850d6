"""What the control API asks about containers on other nodes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Literal

from p2prc.api import container_schema as schema
from p2prc.api.schema import RunEnded, RunEvent, RunOutput, RunStarted
from p2prc.daemon.names import find_container
from p2prc.daemon.orders import environment_of, workload_of
from p2prc.daemon.rows import instant, instant_or_none
from p2prc.errors import InvalidInput, LeaseUnknown, P2prcError
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import MainProcess
from p2prc.node.containers import Held
from p2prc.node.inside import RemoteCommand
from p2prc.node.node import Node
from p2prc.node.splicing import StreamBytes
from p2prc.runtime.port import Terminal

NOTES_LIMIT = 64
FIRST_PORT = 8000
NEWS_S = 3600.0
"""Who looks sees for so long that a container is gone, and why."""
_GONE = ("ended", "removing")
Find = Callable[[str], Awaitable[NodeId]]


class ContainerDesk:
    """Answers for this node's containers."""

    def __init__(self, node: Node, find_node: Find) -> None:
        self._node = node
        self._find_node = find_node

    async def create(
        self, request: schema.CreateRequest
    ) -> AsyncGenerator[schema.CreateEvent, None]:
        """Make one; closing this before its last event gives it back."""
        notes: asyncio.Queue[str] = asyncio.Queue(NOTES_LIMIT)

        def noted(text: str) -> None:
            if not notes.full():
                notes.put_nowait(text)

        making = asyncio.create_task(self._create(request, noted), name="create")
        noting = asyncio.create_task(notes.get(), name="notes of create")
        try:
            while not making.done():
                await asyncio.wait({making, noting}, return_when=asyncio.FIRST_COMPLETED)
                if noting.done():
                    yield schema.CreateNote(noting.result())
                    noting = asyncio.create_task(notes.get(), name="notes of create")
            yield schema.CreateEnded(self._row(await making))
        finally:
            for task in (making, noting):
                task.cancel()
            await asyncio.gather(making, noting, return_exceptions=True)

    async def _create(self, request: schema.CreateRequest, noted: Callable[[str], None]) -> Held:
        target = None if request.target == "any" else await self._find_node(request.target)
        if request.restart != "no" and not request.argv:
            raise InvalidInput("only a main process starts again: put a command after `--`")
        if request.requirements:
            noted(f"choosing versions of {', '.join(request.requirements)}")
        environment = await environment_of(request.requirements)
        main = MainProcess(tuple(request.argv), request.restart) if request.argv else None
        ports = {f"port{n + 1}": FIRST_PORT + n for n in range(request.ports)}
        variables = {f"P2PRC_{name.upper()}": str(port) for name, port in ports.items()}
        held = await self._node.containers.create(
            target,
            workload_of(request, environment),
            variables={**variables, **request.variables},
            main=main,
            ports=ports,
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
        found = [self._find_any(typed) for typed in leases]
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
        return [schema.GroupRow(name, list(groups[name])) for name in sorted(groups)]

    async def change_group(self, request: schema.GroupRequest) -> list[schema.GroupRow]:
        containers, name = self._node.containers, request.name
        there = containers.groups.get(name)
        if request.action != "create" and there is None:
            raise LeaseUnknown(f"no group is called `{name[:80]}`", hint="see `p2prc group list`")
        leases = [self._find_any(typed) for typed in request.leases]
        match request.action:
            case "create" | "add":
                containers.set_group(name, [*(there or []), *leases])
            case "remove":
                containers.set_group(name, [each for each in there or [] if each not in leases])
            case "rm":
                containers.set_group(name, None)
        return await self.groups()

    def _find_any(self, typed: str) -> LeaseId:
        all_held = self._node.containers.all()
        names = {held.lease: held.workload.name for held in all_held}
        return find_container(typed, names, {h.lease for h in all_held if h.state in _GONE})

    def _find(self, typed: str) -> Held:
        """Return a container that may be worked in. Raises LeaseUnknown with why it is gone."""
        lease = self._find_any(typed)
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


async def _spliced(link: StreamBytes, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
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
