"""One request whose body goes on while its answer does: commands, files and ports of containers.

The caller sends its body in chunks (HTTP/1.1) and reads the answer at the same time; ending the
body says that nothing more comes, hanging up ends everything. Waiting goes all the way through:
a side that does not read slows down the other, and nothing is held as a whole.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from p2prc.api.streaming import HTTP_STATUS, ErrorLine, encode_error
from p2prc.errors import P2prcError

OCTETS = "application/octet-stream"
HAS_HUNG_UP = "has_hung_up"
"""In the state of a request: says whether its caller is gone, also while its body is not read."""
_KEEP_ALIVE_S = 15.0
_LOOK_S = 1.0
Answering = Callable[[AsyncIterator[bytes]], AsyncGenerator[bytes, None]]
"""Make the answer's bytes from the body's; an empty piece in the body is its end."""


class Duplex(Response):
    """Bytes both ways. `keep_alive` is sent when nothing else is, where the kind allows it."""

    def __init__(self, answering: Answering, *, media_type: str, keep_alive: bytes = b"") -> None:
        super().__init__()
        self.media_type = media_type
        self._answering = answering
        self._keep_alive = keep_alive
        self._has_begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.Event()
        pump = asyncio.create_task(self._pump(receive, send, gone), name="duplex answer")
        hangup = asyncio.create_task(_hangup(scope, gone), name="duplex caller")
        try:
            while not (pump.done() or hangup.done()):
                await asyncio.wait(
                    {pump, hangup},
                    timeout=_KEEP_ALIVE_S,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                if self._keep_alive and not (pump.done() or hangup.done()):
                    await self._send(send, self._keep_alive)
            if pump.done():
                await pump
        finally:
            for task in (pump, hangup):
                task.cancel()
            await asyncio.gather(pump, hangup, return_exceptions=True)

    async def _pump(self, receive: Receive, send: Send, gone: asyncio.Event) -> None:
        try:
            async with aclosing(self._answering(_body(receive, gone))) as answer:
                async for content in answer:
                    await self._send(send, content)
        except P2prcError as error:
            if self._has_begun and self.media_type == OCTETS:
                # Nothing can be said in the middle of raw bytes: cutting it short is the sign.
                return
            await self._send_error(send, error)
            return
        await self._send(send, b"")
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, content: bytes) -> None:
        if not self._has_begun:
            self._has_begun = True
            headers = [
                (b"content-type", str(self.media_type).encode()),
                (b"cache-control", b"no-store"),
            ]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content, "more_body": True})

    async def _send_error(self, send: Send, error: P2prcError) -> None:
        if self._has_begun:
            line = encode_error(error, ErrorLine)
            await send({"type": "http.response.body", "body": line + b"\n", "more_body": False})
            return
        body = encode_error(error)
        headers = [(b"content-type", b"application/json")]
        status = HTTP_STATUS.get(error.exit_status, 500)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})


async def _hangup(scope: Scope, gone: asyncio.Event) -> None:
    """Return once the caller has gone; behind a body that nobody takes, only looking tells."""
    has_hung_up: Callable[[], bool] | None = scope.get("state", {}).get(HAS_HUNG_UP)
    while has_hung_up is None or not has_hung_up():
        try:
            async with asyncio.timeout(None if has_hung_up is None else _LOOK_S):
                await gone.wait()
                return
        except TimeoutError:
            continue


async def _body(receive: Receive, gone: asyncio.Event) -> AsyncIterator[bytes]:
    """Yield the body, an empty piece at its end; then wait for the caller's hanging up."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            gone.set()
            return
        if content := message.get("body", b""):
            yield content
        if not message.get("more_body", False):
            yield b""
