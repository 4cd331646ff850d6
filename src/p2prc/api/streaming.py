"""Answers that go on: one JSON object a line, for as long as a command runs or a job goes.

A caller that goes away closes the events at once: that is how `run` is cancelled. Lines without
content keep a quiet stream alive, so that both ends may give up on a peer that is stuck.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import msgspec
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2prc.api.schema import ErrorBody, ErrorFields
from p2prc.errors import P2prcError

KEEP_ALIVE_S = 15.0
MEDIA_TYPE = "application/x-ndjson"
SSE_TYPE = "text/event-stream"
"""The same events for who asks so: `data: {...}` and an empty line."""
HTTP_STATUS = {3: 400, 4: 404, 5: 403, 6: 502, 7: 409, 8: 503, 9: 503}
"""The HTTP status of an error, by the exit status of its branch; any other is 500."""


def error_body(error: P2prcError) -> ErrorBody:
    """Return an error as its answer's body."""
    return ErrorBody(
        error=ErrorFields(
            code=error.code, message=error.message, hint=error.hint, retryable=error.retryable
        )
    )


class ErrorLine(msgspec.Struct, frozen=True, tag="error", tag_field="type"):
    """The last line of a stream that failed after its beginning."""

    error: ErrorFields


def encode_error(error: P2prcError, line: type[ErrorLine] | None = None) -> bytes:
    """Return an error as a body of its own, or as the last line of a stream."""
    body = error_body(error)
    return msgspec.json.encode(body if line is None else line(body.error))


class EventStream(Response):
    """Events, a line each. An error before the first one is an answer with its own status."""

    media_type = MEDIA_TYPE

    def __init__(
        self, events: AsyncIterator[msgspec.Struct], *, keep_alive_s: float = KEEP_ALIVE_S
    ) -> None:
        super().__init__()
        self._events = events
        self._keep_alive_s = keep_alive_s
        self._has_begun = False
        self._is_for_browsers = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wanted = dict(scope["headers"]).get(b"accept", b"")
        self._is_for_browsers = SSE_TYPE.encode() in wanted.lower()
        async with asyncio.TaskGroup() as both:
            pump = both.create_task(self._pump(send), name="event stream")
            caller = both.create_task(self._watch(receive, send), name="caller of a stream")
            await asyncio.wait({pump, caller}, return_when=asyncio.FIRST_COMPLETED)
            pump.cancel()
            caller.cancel()

    async def _watch(self, receive: Receive, send: Send) -> None:
        """Return when the caller has gone away."""
        while True:
            try:
                async with asyncio.timeout(self._keep_alive_s):
                    message = await receive()
            except TimeoutError:
                await self._send_line(send, b"")
                continue
            if message["type"] == "http.disconnect":
                return

    async def _pump(self, send: Send) -> None:
        try:
            async with aclosing(_as_generator(self._events)) as events:
                async for event in events:
                    await self._send_line(send, msgspec.json.encode(event))
        except P2prcError as error:
            if not self._has_begun:
                await self._send_error(send, error)
                return
            line = msgspec.json.encode(ErrorLine(error_body(error).error))
            await self._send_line(send, line)
        await self._begin(send)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self, send: Send) -> None:
        if self._has_begun:
            return
        self._has_begun = True
        kind = SSE_TYPE if self._is_for_browsers else MEDIA_TYPE
        headers = [(b"content-type", kind.encode()), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _send_line(self, send: Send, line: bytes) -> None:
        await self._begin(send)
        if self._is_for_browsers:
            # A line that begins with a colon is a comment there: it keeps the stream alive.
            line = b"data: " + line + b"\n" if line else b":\n"
        await send({"type": "http.response.body", "body": line + b"\n", "more_body": True})

    async def _send_error(self, send: Send, error: P2prcError) -> None:
        self._has_begun = True
        body = msgspec.json.encode(error_body(error))
        headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
        ]
        status = HTTP_STATUS.get(error.exit_status, 500)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _as_generator(
    events: AsyncIterator[msgspec.Struct],
) -> AsyncGenerator[msgspec.Struct, None]:
    """Close the events with the stream, whatever kind of iterator they are."""
    try:
        async for event in events:
            yield event
    finally:
        if isinstance(events, AsyncGenerator):
            await events.aclose()
