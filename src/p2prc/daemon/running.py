"""One command for somebody who waits, as the events that the control API streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Literal, cast

from p2prc.api import schema
from p2prc.daemon.orders import command_of, environment_of, folder_of, workload_of
from p2prc.errors import P2prcError
from p2prc.files.place import write_outputs
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import Outcome
from p2prc.node.node import Node
from p2prc.node.runs import Finished
from p2prc.protocol.egress import NO_NETWORK_TEXT, NONE, tried_the_network
from p2prc.runtime.port import OutputChunk

EVENTS_LIMIT = 64
"""How many events wait for a slow reader before the command itself is slowed down."""

SILENCE_S = 1.2
"""A person who still waits then is told for what."""


class Running:
    """One `run`: its events, in order."""

    def __init__(self, node: Node, request: schema.RunRequest, target: NodeId | None) -> None:
        self._node = node
        self._request = request
        self._target = target
        self._events: asyncio.Queue[schema.RunEvent | None] = asyncio.Queue(EVENTS_LIMIT)
        self._silence: asyncio.TimerHandle | None = None

    async def events(self) -> AsyncGenerator[schema.RunEvent, None]:
        """Yield until the end; closing this cancels the command."""
        work = asyncio.create_task(self._carry_out(), name="run")
        work.add_done_callback(self._note_end)
        try:
            while (event := await self._events.get()) is not None:
                yield event
                if isinstance(event, schema.RunEnded):
                    return
            await work
        finally:
            work.cancel()
            await asyncio.gather(work, return_exceptions=True)

    def _note_end(self, work: asyncio.Task[None]) -> None:
        # After `RunEnded` nobody listens. A bug leaves no such event: the reader is told to look.
        if not work.cancelled() and work.exception() is None:
            return
        if self._events.full():
            self._events.get_nowait()
        self._events.put_nowait(None)

    async def _carry_out(self) -> None:
        owner = f"run/{id(self)}"
        try:
            ended = await self._run(owner)
        except P2prcError as error:
            ended = schema.RunEnded(
                exit=None, code=error.code, message=error.message, hint=error.hint
            )
        finally:
            self._node.blobs.unpin(owner)
        await self._events.put(ended)

    async def _run(self, owner: str) -> schema.RunEnded:
        request = self._request
        # Looked at now: not after an hour of work.
        folder_of(request)
        if request.requirements:
            await self._note(f"choosing versions of {', '.join(request.requirements)}")
        environment = await environment_of(request.requirements)
        command = await command_of(request, self._node.blobs, owner=owner)
        whom = "a node with room" if self._target is None else self._node.name_of(self._target)
        self._silence = asyncio.get_running_loop().call_later(
            SILENCE_S, self._note_soon, f"waiting for {whom}..."
        )
        try:
            finished = await self._node.runs.run(
                self._target,
                workload_of(request, environment),
                command,
                owner=owner,
                printed=self._printed,
                noted=self._note_soon,
                started=self._started,
            )
        finally:
            self._silence.cancel()
        return await self._ended(finished)

    async def _ended(self, finished: Finished) -> schema.RunEnded:
        outcome, outputs = finished.outcome, list[str]()
        if finished.outputs is not None:
            to = folder_of(self._request)
            try:
                await asyncio.to_thread(write_outputs, finished.outputs, self._node.blobs, to)
            except P2prcError as error:
                # The command did run: its status is known.
                return schema.RunEnded(
                    exit=outcome.status,
                    node=finished.node,
                    lease=finished.lease,
                    code=error.code,
                    message=error.message,
                    hint=error.hint,
                )
            outputs = [str(to / entry.path) for entry in finished.outputs.files]
        # A command's own status says everything; `work-failed` would say it twice.
        is_own_end = outcome.status is not None and outcome.code in ("", "work-failed")
        return schema.RunEnded(
            exit=outcome.status,
            node=finished.node,
            lease=finished.lease,
            outputs=outputs,
            code="" if is_own_end else outcome.code,
            message="" if is_own_end else outcome.reason,
            hint=self._network_hint(outcome),
        )

    def _network_hint(self, outcome: Outcome) -> str:
        """Tell whoever met a place without a network unaware."""
        is_cut_off = self._request.network == NONE and outcome.code == "work-failed"
        return NO_NETWORK_TEXT if is_cut_off and tried_the_network(outcome.log_tail) else ""

    async def _printed(self, chunk: OutputChunk) -> None:
        channel = cast("Literal[1, 2]", chunk.channel)
        await self._events.put(schema.RunOutput(channel=channel, content=chunk.content))

    async def _note(self, text: str) -> None:
        await self._events.put(schema.RunNote(message=text))

    def _note_soon(self, text: str) -> None:
        if not self._events.full():
            self._events.put_nowait(schema.RunNote(message=text))

    async def _started(self, node: NodeId, lease: LeaseId) -> None:
        if self._silence is not None:
            self._silence.cancel()
        await self._events.put(
            schema.RunStarted(node=node, lease=lease, node_name=self._node.name_of(node))
        )
