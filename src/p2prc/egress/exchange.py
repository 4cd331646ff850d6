"""One plain HTTP request sent on and its answer brought back, each written anew."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import h11

from p2prc.egress.dialing import Connection
from p2prc.egress.flow import CHUNK_BYTES, Flow, finish, write
from p2prc.egress.heads import read_answer
from p2prc.protocol.egress import EgressRefused

_SWITCHING = 101


class Exchange:
    """Between `near`, the tenant, whose request `inside` has read the head of, and `far`."""

    def __init__(
        self, inside: h11.Connection, near: Connection, far: Connection, flow: Flow, head_bytes: int
    ) -> None:
        self._inside = inside
        self._near = near
        self._outside = h11.Connection(h11.CLIENT, max_incomplete_event_size=head_bytes)
        self._far = far
        self._flow = flow
        self.is_answered = False

    async def carry(self, request: h11.Request) -> None:
        """Do it. Raises EgressRefused for an answer that cannot be passed on, OSError, EOFError."""
        async with self._flow.watched():
            await self._send(request)
            if self._inside.they_are_waiting_for_100_continue:
                go_on = h11.InformationalResponse(status_code=100, headers=[])
                await write(self._near[1], self._inside.send(go_on) or b"")
            uploading = asyncio.create_task(self._upload(), name="a tenant's request")
            try:
                await self._answer()
            except h11.RemoteProtocolError as error:
                raise EgressRefused("the server's answer is broken", status=502) from error
            finally:
                uploading.cancel()
                await asyncio.wait([uploading])
            await finish(self._near[1])

    async def _upload(self) -> None:
        try:
            while True:
                event = await next_event(self._inside, self._near[0].read)
                if isinstance(event, h11.EndOfMessage):
                    await self._send(h11.EndOfMessage())
                    return
                await self._send(event)
        except (EgressRefused, EOFError, OSError, h11.ProtocolError):
            # A request that is cut off gets no answer.
            self._far[1].transport.abort()

    async def _answer(self) -> None:
        while True:
            event = await next_event(self._outside, self._receive)
            match event:
                case h11.InformationalResponse():
                    if event.status_code == _SWITCHING:
                        raise EgressRefused("the server changes the protocol", status=502)
                case h11.Response():
                    answer = read_answer(event)
                    self.is_answered = True
                    await write(self._near[1], self._inside.send(answer) or b"")
                case h11.Data():
                    await write(self._near[1], self._inside.send(event) or b"")
                case _:
                    # Trailers end here.
                    await write(self._near[1], self._inside.send(h11.EndOfMessage()) or b"")
                    return

    async def _send(self, event: h11.Event) -> None:
        await self._flow.carry(self._outside.send(event) or b"", self._far[1], is_sent=True)

    async def _receive(self, count: int) -> bytes:
        content = await self._far[0].read(count)
        await self._flow.admit(len(content), is_sent=False)
        return content


async def next_event(
    connection: h11.Connection, read: Callable[[int], Awaitable[bytes]]
) -> h11.Event:
    """Return a side's next event. Raises RemoteProtocolError; EOFError where it ended before."""
    while True:
        event = connection.next_event()
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise EOFError
        if isinstance(event, h11.Event):
            return event
        connection.receive_data(await read(CHUNK_BYTES))
