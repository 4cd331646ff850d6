"""What the holder of a lease with sessions may do inside it, each on a stream of its own.

The provider's half: commands, files, ports and SSH, for the lease's own holder alone. Another's
lease and none at all look the same.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from typing import Any

from p2prc.errors import LeaseEnded, P2prcError, PeerBusy, PeerLost, PeerMisbehaved, RuntimeMissing
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import Outcome
from p2prc.node.carriage import Carriages
from p2prc.node.framed import FramedStream
from p2prc.node.places import Place
from p2prc.node.splicing import splice
from p2prc.protocol.messages import (
    PIECE_LIMIT_BYTES,
    CommandEnded,
    DialPort,
    Done,
    EndInput,
    Exec,
    FollowLog,
    GetFiles,
    Input,
    OpenSsh,
    Output,
    PutFiles,
    Resize,
    Session,
    TerminalSize,
)
from p2prc.runtime.port import Execution, Link, Terminal

PIECE_TIMEOUT_S = 60.0
"""Whoever sends files and falls silent for so long is gone."""
LOOK_S = 5.0
"""How often it is looked whether the requester of a silent command that reads nothing is there."""
ServeSsh = Callable[[NodeId, Place, Link], Awaitable[None]]


class ServingContainers:
    """Serves streams into the places of one provider."""

    def __init__(
        self,
        place_of: Callable[[NodeId, LeaseId], Place],
        carriages: Carriages,
        serve_ssh: ServeSsh | None = None,
    ) -> None:
        self._place_of = place_of
        self._carriages = carriages
        self._serve_ssh = serve_ssh

    async def serve(self, peer: NodeId, framed: FramedStream[Session], request: Session) -> None:
        """Do what a stream was opened for. Raises P2prcError, PeerMisbehaved for another kind."""
        if isinstance(request, Exec | PutFiles | GetFiles | DialPort | OpenSsh):
            _refuse_suspended(self._place_of(peer, request.lease))
        match request:
            case Exec():
                await _execute(self._place_of(peer, request.lease), framed, request)
            case FollowLog():
                await _while_connected(
                    framed, _tell_log(self._place_of(peer, request.lease), framed, request)
                )
            case PutFiles():
                place = self._place_of(peer, request.lease)
                await place.sandbox.put_files(_archive(framed), request.folder)
                await framed.send(Done())
            case GetFiles():
                place = self._place_of(peer, request.lease)
                await _while_connected(framed, _send_files(place, framed, request.path))
            case DialPort():
                await self._dial(peer, framed, request)
            case OpenSsh():
                place = self._place_of(peer, request.lease)
                if self._serve_ssh is None:
                    raise RuntimeMissing("this node serves no SSH")
                await framed.send(Done())
                async with self._carriages.served(peer, framed, request.carriage) as link:
                    await self._serve_ssh(peer, place, link)
            case _:
                raise PeerMisbehaved("a session must begin with a request")

    async def _dial(self, peer: NodeId, framed: FramedStream[Session], request: DialPort) -> None:
        inside = await self._place_of(peer, request.lease).sandbox.dial(request.port)
        try:
            await framed.send(Done())
            async with self._carriages.served(peer, framed, request.carriage) as link:
                await splice(link, inside)
        finally:
            await inside.close()


async def _execute(place: Place, framed: FramedStream[Session], request: Exec) -> None:
    execution = await place.sandbox.execute(
        request.argv,
        variables={**place.variables, **request.variables},
        takes_input=request.takes_input,
        terminal=terminal_of(request.terminal),
    )
    place.argv = place.argv or request.argv
    started = asyncio.get_running_loop().time()
    turns = asyncio.Lock()
    listening = asyncio.create_task(_listen(execution, framed), name="input of a command")
    telling = asyncio.create_task(_print(execution, framed, turns), name="output of a command")
    looking = asyncio.create_task(_look(framed, turns), name="requester of a command")
    tasks = (listening, telling, looking)
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if not telling.done():
            # The requester hung up, or broke a rule: nobody is left to read the output.
            return
        await telling
        ended = await execution.wait()
        code, reason = ended.code, ended.reason
        if code == LeaseEnded.code and place.end_reason:
            reason = place.end_reason
        elif not code and ended.status != 0:
            code = "work-failed"
            reason = f"`{request.argv[0][:200]}` ended with status {ended.status}"
        outcome = Outcome(
            ended.status,
            code=code,
            reason=reason[:2000],
            usage=ended.usage,
            duration_s=asyncio.get_running_loop().time() - started,
        )
        place.used.add(outcome)
        async with turns:
            # Not in the middle of a message: the stream ends in order.
            looking.cancel()
            await framed.send(CommandEnded(outcome))
    finally:
        if place.argv is request.argv:
            # Its owner is shown what runs, not what ran.
            place.argv = ()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.shield(execution.cancel())


def _refuse_suspended(place: Place) -> None:
    if place.is_suspended:
        raise PeerBusy(
            "the owner needs the machine at present: the lease is suspended",
            hint="it goes on by itself when the owner is done: try again later",
        )


async def _listen(execution: Execution, framed: FramedStream[Session]) -> bool:
    """Hand on what the requester sends; return once it has gone away."""
    try:
        while (message := await framed.receive()) is not None:
            match message:
                case Input():
                    await execution.write(message.content)
                case EndInput():
                    await execution.end_input()
                case Resize():
                    terminal = message.terminal
                    await execution.resize(Terminal(terminal.rows, terminal.columns))
                case _:
                    return True
    except P2prcError:
        return True
    return True


async def _print(execution: Execution, framed: FramedStream[Session], turns: asyncio.Lock) -> None:
    async for chunk in execution.output():
        for piece in pieces(chunk.content):
            async with turns:
                await framed.send(Output(chunk.channel, piece))


async def _look(framed: FramedStream[Session], turns: asyncio.Lock) -> None:
    """Return once the requester is gone.

    Its hanging up is behind its input: while the command does not take that, only writing tells.
    """
    try:
        while True:
            await asyncio.sleep(LOOK_S)
            async with turns:
                await framed.send(Output(1, b""))
    except P2prcError:
        return


async def _tell_log(place: Place, framed: FramedStream[Session], request: FollowLog) -> None:
    if place.main is not None:
        async for chunk in place.main.log.read(follows=request.follows):
            for piece in pieces(chunk.content):
                await framed.send(Output(chunk.channel, piece))
    await framed.send(Done())


async def _send_files(place: Place, framed: FramedStream[Session], path: str) -> None:
    async for content in place.sandbox.get_files(path):
        for piece in pieces(content):
            await framed.send(Output(1, piece))
    await framed.send(Done())


async def _archive(framed: FramedStream[Session]) -> AsyncIterator[bytes]:
    while True:
        message = await framed.receive(timeout_s=PIECE_TIMEOUT_S)
        match message:
            case Input():
                yield message.content
            case EndInput():
                return
            case None:
                raise PeerLost("the files stopped in their middle")
            case _:
                raise PeerMisbehaved("the peer sent something else where files were due")


async def _while_connected(framed: FramedStream[Session], work: Coroutine[Any, Any, None]) -> None:
    """Do it until it is done or the requester, which has nothing more to say, goes away."""
    telling = asyncio.create_task(work, name="telling")
    hangup = asyncio.create_task(_hangup(framed), name="hangup")
    try:
        await asyncio.wait({telling, hangup}, return_when=asyncio.FIRST_COMPLETED)
        if telling.done():
            await telling
    finally:
        for task in (telling, hangup):
            task.cancel()
        await asyncio.gather(telling, hangup, return_exceptions=True)


async def _hangup(framed: FramedStream[Session]) -> None:
    try:
        await framed.receive()
    except P2prcError:
        return


def terminal_of(size: TerminalSize | None) -> Terminal | None:
    """Return the size as the runtime takes it."""
    return None if size is None else Terminal(size.rows, size.columns)


def pieces(content: bytes) -> list[bytes]:
    """Cut into what one message carries."""
    starts = range(0, len(content), PIECE_LIMIT_BYTES)
    return [content[start : start + PIECE_LIMIT_BYTES] for start in starts]
