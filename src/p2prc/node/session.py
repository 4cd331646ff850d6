"""A command with its output streamed: one stream, one command, both ends of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from p2prc.errors import P2prcError, PeerLost, PeerMisbehaved, PeerRefused, from_fields
from p2prc.model.identity import NodeId
from p2prc.model.workload import Outcome
from p2prc.node.framed import FramedStream
from p2prc.protocol.messages import (
    CONTROL_FRAME_LIMIT_BYTES,
    CommandEnded,
    Output,
    Refused,
    RunCommand,
    Session,
    session_codec,
)
from p2prc.runtime.port import OutputChunk
from p2prc.transport.port import Connection, Stream

OPENING_TIMEOUT_S = 10.0

Print = Callable[[OutputChunk], Awaitable[None]]
Run = Callable[[NodeId, RunCommand, Print], Awaitable[Outcome]]


ServeInside = Callable[[NodeId, FramedStream[Session], Session], Awaitable[None]]


async def serve_session(
    peer: NodeId, stream: Stream, run: Run, serve_inside: ServeInside | None = None
) -> None:
    """Run what the peer asks for; when it goes away the command is killed.

    What is for a lease with sessions goes to `serve_inside`.
    """
    framed = framed_session(stream)
    request = await framed.receive(timeout_s=OPENING_TIMEOUT_S)
    if isinstance(request, RunCommand):
        await _run(peer, framed, request, run)
    elif request is None or serve_inside is None:
        raise PeerMisbehaved("a session must begin with a request")
    else:
        try:
            await serve_inside(peer, framed, request)
        except (PeerLost, PeerMisbehaved):
            raise
        except P2prcError as error:
            await framed.send(Refused(error.code, error.message[:2000], error.hint))
    await stream.finish()


async def _run(peer: NodeId, framed: FramedStream[Session], request: RunCommand, run: Run) -> None:
    async def printed(chunk: OutputChunk) -> None:
        await framed.send(Output(chunk.channel, chunk.content))

    work = asyncio.ensure_future(run(peer, request, printed))
    hangup = asyncio.ensure_future(_wait_for_hangup(framed))
    try:
        await asyncio.wait({work, hangup}, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            return
        await framed.send(CommandEnded(await work))
    except P2prcError as error:
        await framed.send(Refused(error.code, error.message[:2000], error.hint))
    finally:
        for task in (work, hangup):
            task.cancel()
        await asyncio.gather(work, hangup, return_exceptions=True)


async def run_remotely(connection: Connection, request: RunCommand, printed: Print) -> Outcome:
    """Ask for a command and hand on what it prints. Raises PeerError and the peer's refusal.

    Cancelling this ends the stream, and with it the command.
    """
    stream = await connection.open_stream()
    framed = framed_session(stream)
    is_over = False
    try:
        await framed.send(request)
        while (message := await framed.receive()) is not None:
            match message:
                case Output():
                    await printed(OutputChunk(message.channel, message.content))
                case CommandEnded():
                    is_over = True
                    await stream.finish()
                    return message.outcome
                case Refused():
                    is_over = True
                    raise from_fields(
                        message.code, message.message, hint=message.hint, otherwise=PeerRefused
                    )
                case _:
                    raise PeerMisbehaved("the peer sent a request where output was due")
        raise PeerLost("the command's stream ended without a result")
    finally:
        if not is_over:
            await stream.abort()


async def _wait_for_hangup(framed: FramedStream[Session]) -> None:
    # The requester says nothing after its command: its end of stream, or its loss, ends the run.
    try:
        await framed.receive()
    except P2prcError:
        return


def framed_session(stream: Stream) -> FramedStream[Session]:
    """Return a stream that carries the messages of a session."""
    return FramedStream(stream, session_codec, limit_bytes=CONTROL_FRAME_LIMIT_BYTES)
