"""Work inside a lease with sessions, from the requester's side: each on a stream of its own.

A lease of this node itself is reached the same way, over a stream that never leaves the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing

import msgspec

from p2prc.errors import P2prcError, PeerLost, PeerMisbehaved, PeerRefused, from_fields
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import Outcome
from p2prc.node.carriage import Carriage, new_token
from p2prc.node.framed import FramedStream
from p2prc.node.links import Links
from p2prc.node.serving_containers import pieces
from p2prc.node.session import framed_session
from p2prc.node.splicing import StreamBytes
from p2prc.node.tasks import Tasks
from p2prc.protocol.forwarding import Protocol
from p2prc.protocol.messages import (
    CARRIAGES_SINCE_VERSION,
    CarryOn,
    CommandEnded,
    DialPort,
    DialService,
    Done,
    EndInput,
    Exec,
    FollowLog,
    GetFiles,
    Input,
    OpenSsh,
    Output,
    PutFiles,
    Refused,
    Resize,
    Session,
    TakeConnection,
    TerminalSize,
)
from p2prc.runtime.port import Link, OutputChunk, Terminal
from p2prc.transport.memory_pipe import MemoryStream, Pipe
from p2prc.transport.port import Stream
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame

ANSWER_TIMEOUT_S = 30.0
Serve = Callable[[NodeId, Stream], Awaitable[None]]
Answered = Callable[[P2prcError | None], None]
"""Hears whether a peer serves us: why not, or None."""


class RemoteCommand:
    """A command in a lease: read `output` to its end, then `outcome` tells how it ended."""

    def __init__(self, framed: FramedStream[Session]) -> None:
        self._framed = framed
        self._outcome: Outcome | None = None

    async def output(self) -> AsyncIterator[OutputChunk]:
        """Yield what it prints. Raises PeerError, and what the provider refuses with."""
        while True:
            message = await _next(self._framed)
            match message:
                case Output():
                    yield OutputChunk(message.channel, message.content)
                case CommandEnded():
                    self._outcome = message.outcome
                    return
                case _:
                    raise PeerMisbehaved("the peer sent something else where output was due")

    @property
    def outcome(self) -> Outcome:
        """How it ended; there is one once `output` was read to its end."""
        if self._outcome is None:
            raise PeerLost("the command has not ended")
        return self._outcome

    async def write(self, content: bytes) -> None:
        """Give bytes to its input; returns when there is room for more. Raises PeerLost."""
        for piece in pieces(content):
            await self._framed.send(Input(piece))

    async def end_input(self) -> None:
        """Say that nothing more comes."""
        await self._framed.send(EndInput())

    async def resize(self, terminal: Terminal) -> None:
        """Change the size of its terminal."""
        await self._framed.send(Resize(TerminalSize(terminal.rows, terminal.columns)))

    async def close(self) -> None:
        """Let go of it: what still runs is killed. Twice is safe."""
        await self._framed.stream.abort()


class Inside:
    """Opens streams into leases."""

    def __init__(self, own: NodeId, links: Links, serve: Serve, tasks: Tasks) -> None:
        self._own = own
        self._links = links
        self._serve = serve
        self._tasks = tasks

    async def execute(
        self,
        node: NodeId,
        lease: LeaseId,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        takes_input: bool = False,
        terminal: Terminal | None = None,
    ) -> RemoteCommand:
        """Start a command beside whatever runs there. Raises PeerError."""
        size = None if terminal is None else TerminalSize(terminal.rows, terminal.columns)
        request = Exec(lease, tuple(argv), dict(variables), takes_input, size)
        return RemoteCommand(await self._open(node, request))

    async def log(
        self, node: NodeId, lease: LeaseId, *, follows: bool
    ) -> AsyncIterator[OutputChunk]:
        """Yield what the main process printed, as far as it is kept."""
        async with aclosing(self._outputs(node, FollowLog(lease, follows))) as outputs:
            async for chunk in outputs:
                yield chunk

    async def get_files(self, node: NodeId, lease: LeaseId, path: str) -> AsyncIterator[bytes]:
        """Yield a file or folder as a tar archive. Raises PathInvalid, FileUnknown."""
        async with aclosing(self._outputs(node, GetFiles(lease, path))) as outputs:
            async for chunk in outputs:
                yield chunk.content

    async def put_files(
        self, node: NodeId, lease: LeaseId, folder: str, archive: AsyncIterator[bytes]
    ) -> None:
        """Unpack a tar archive below a folder there. Raises PathInvalid, DiskFull."""
        framed = await self._open(node, PutFiles(lease, folder))
        sending = asyncio.create_task(_send(framed, archive), name="files to a lease")
        answering = asyncio.create_task(_next(framed), name="answer to files")
        try:
            await asyncio.wait({sending, answering}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                await sending
            # A refusal says more than the broken stream that it leaves behind.
            if not isinstance(await answering, Done):
                raise PeerMisbehaved("the peer answered files with something else")
        finally:
            for task in (sending, answering):
                task.cancel()
            await asyncio.gather(sending, answering, return_exceptions=True)
            await framed.stream.abort()

    async def open_service(self, node: NodeId, service: str, protocol: Protocol) -> Link:
        """Return a link to a port of a node itself, or of its neighbourhood, by port or name.

        Raises PolicyRefuses, PortClosed, PeerError.
        """
        return await self._open_raw(node, DialService(service, protocol))

    async def begin_service(
        self, node: NodeId, service: str, protocol: Protocol, answered: Answered
    ) -> Link:
        """Like `open_service`, without waiting: what is written meanwhile goes along.

        A refusal goes to `answered` and breaks the link. Raises PolicyRefuses, PortClosed,
        PeerError where there is something to wait for after all.
        """
        token = await self._carriage_token(node)
        if not token:
            link = await self.open_service(node, service, protocol)
            answered(None)
            return link
        framed = await self._open(node, DialService(service, protocol, carriage=token))

        async def opening() -> bytes:
            try:
                await _expect_done(framed)
            except P2prcError as error:
                answered(error)
                raise
            answered(None)
            return framed.take_raw()

        return Carriage(
            framed.stream, b"", open_fast=lambda: self._open_fast(node, token), opening=opening
        )

    async def dial(self, node: NodeId, lease: LeaseId, port: int) -> Link:
        """Reach a port inside. Raises PortClosed, PeerError."""
        return await self._open_raw(node, DialPort(lease, port))

    async def hand_over(self, owner: NodeId, mapping: str, client: str) -> Link:
        """Return a link to what the owner of a public port of ours serves there.

        Raises PortClosed, PeerError.
        """
        return await self._open_raw(owner, TakeConnection(mapping, client))

    async def open_ssh(self, node: NodeId, lease: LeaseId) -> Link:
        """Open the SSH connection of a lease, which ends in its node."""
        return await self._open_raw(node, OpenSsh(lease))

    async def _outputs(
        self, node: NodeId, request: FollowLog | GetFiles
    ) -> AsyncGenerator[OutputChunk, None]:
        framed = await self._open(node, request)
        try:
            while not isinstance(message := await _next(framed), Done):
                if not isinstance(message, Output):
                    raise PeerMisbehaved("the peer sent something else where bytes were due")
                yield OutputChunk(message.channel, message.content)
        finally:
            await framed.stream.abort()

    async def _open_raw(
        self, node: NodeId, request: DialPort | DialService | TakeConnection | OpenSsh
    ) -> Link:
        token = await self._carriage_token(node)
        framed = await self._open(node, msgspec.structs.replace(request, carriage=token))
        try:
            await _expect_done(framed)
        except BaseException:
            await framed.stream.abort()
            raise
        if not token:
            return StreamBytes(framed)
        return Carriage(
            framed.stream, framed.take_raw(), open_fast=lambda: self._open_fast(node, token)
        )

    async def _carriage_token(self, node: NodeId) -> bytes:
        if node == self._own:
            return b""
        link = await self._links.reach(node)
        return new_token() if link.version >= CARRIAGES_SINCE_VERSION else b""

    async def _open_fast(self, node: NodeId, token: bytes) -> Stream | None:
        """Open a lane for a conversation; None where TCP does not lead there at present."""
        connection = await self._links.lanes.connection(node)
        if connection is None:
            return None
        stream = await connection.open_stream()
        await stream.write(frame(encode(CarryOn(token))))
        return stream

    async def _open(self, node: NodeId, request: Session) -> FramedStream[Session]:
        stream = self._open_here() if node == self._own else await self._open_there(node)
        framed = framed_session(stream)
        await framed.send(request)
        return framed

    async def _open_there(self, node: NodeId) -> Stream:
        link = await self._links.reach(node)
        return await link.connection.open_stream()

    def _open_here(self) -> Stream:
        there, here = Pipe(), Pipe()
        ours = MemoryStream(here, there, self._own, announce=None)
        theirs = MemoryStream(there, here, self._own, announce=None)
        self._tasks.start(self._serve_here(theirs), "a session with ourselves")
        return ours

    async def _serve_here(self, stream: Stream) -> None:
        try:
            await self._serve(self._own, stream)
        except BaseException:
            await stream.abort()
            raise


async def _next(framed: FramedStream[Session], *, timeout_s: float | None = None) -> Session:
    message = await framed.receive(timeout_s=timeout_s)
    if message is None:
        raise PeerLost("the stream ended without a result")
    if isinstance(message, Refused):
        raise from_fields(message.code, message.message, hint=message.hint, otherwise=PeerRefused)
    return message


async def _expect_done(framed: FramedStream[Session]) -> None:
    if not isinstance(await _next(framed, timeout_s=ANSWER_TIMEOUT_S), Done):
        raise PeerMisbehaved("the peer answered with something else")


async def _send(framed: FramedStream[Session], archive: AsyncIterator[bytes]) -> None:
    async for content in archive:
        for piece in pieces(content):
            await framed.send(Input(piece))
    await framed.send(EndInput())
