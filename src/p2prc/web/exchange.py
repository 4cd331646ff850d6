"""Requests of one client's connection, each judged by itself and taken to who has its host."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, suppress

import h11

from p2prc.errors import P2prcError, PeerBusy
from p2prc.web.heads import (
    BadAnswer,
    BadRequest,
    Judged,
    Origin,
    answer_of,
    informational_of,
    judge,
    plain_answer,
)
from p2prc.web.links import Ahead, Bytes

FIRST_S = 15.0
HEAD_S = 15.0
"""A head is there after so long, or its sender is one who means to hold us up."""
KEEP_ALIVE_S = 30.0
HEAD_LIMIT_BYTES = 64 << 10
_AT_ONCE_BYTES = 64 << 10
_LINGER_S = 2.0
_PARTING_S = 1.0
_LINGER_BYTES = 1 << 20
_SWITCHING = 101
_SAFE = frozenset({b"GET", b"HEAD", b"OPTIONS"})
Open = Callable[[str], AbstractAsyncContextManager[Bytes]]
Answered = Callable[[Judged], bytes | None]
Join = Callable[[Bytes, Bytes], Awaitable[None]]


class NoSuchHost(Exception):
    """Nobody has that host."""


class _ClientGone(Exception):
    """Nobody is there to be answered."""


class _ServiceBroke(Exception):
    """The service ended before its answer did, or answers what nobody can read."""


class _Service:
    """A connection to who has a host, kept for that host's next request."""

    def __init__(self, host: str, link: Bytes, stack: AsyncExitStack) -> None:
        self.host = host
        self.link = Ahead(link)
        self.http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self.is_used = False
        self._stack = stack

    async def send(self, event: h11.Event) -> None:
        """Send what h11 makes of it. Raises OSError."""
        await self.link.write(self.http.send(event) or b"")

    def ready_event(self) -> h11.Event | None:
        """Return the next of its events; None where more must come first. Raises _ServiceBroke."""
        try:
            event = self.http.next_event()
        except h11.RemoteProtocolError as error:
            raise _ServiceBroke from error
        if event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
            raise _ServiceBroke
        return event if isinstance(event, h11.Event) else None

    async def receive(self) -> None:
        """Wait for more. Raises _ServiceBroke."""
        try:
            self.http.receive_data(await self.link.read())
        except OSError as error:
            raise _ServiceBroke from error

    def rest(self) -> bool:
        """Make ready for another request; False where there can be none."""
        if self.http.our_state is not h11.DONE or self.http.their_state is not h11.DONE:
            return False
        self.http.start_next_cycle()
        self.is_used = True
        self.link.look_ahead()
        return True

    async def close(self) -> None:
        """Hang up; one that rests is told so in peace, for its service's log."""
        try:
            if self.http.our_state is h11.IDLE and not self.link.is_over:
                with suppress(OSError, TimeoutError):
                    async with asyncio.timeout(_PARTING_S):
                        await self.link.end_writing()
                        await self.link.read()
        finally:
            await self.link.close()
            await self._stack.aclose()


class HttpClient:
    """One client's connection. `open_service` finds who has a host; NoSuchHost where nobody has.

    `answer_here` may answer a request itself. `join` carries bytes both ways, for WebSockets.
    """

    def __init__(
        self,
        client: Bytes,
        origin: Origin,
        *,
        open_service: Open,
        join: Join,
        answer_here: Answered = lambda _: None,
    ) -> None:
        self._near = Ahead(client)
        self._origin = origin
        self._open = open_service
        self._join = join
        self._answer_here = answer_here
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._service: _Service | None = None
        self._has_begun = False

    async def serve(self) -> None:
        """Serve until it ends; the client's link is for the caller to close."""
        try:
            wait_s = FIRST_S
            while (request := await self._next_request(wait_s)) is not None:
                if not await self._one(request):
                    return
                wait_s = KEEP_ALIVE_S
            with suppress(OSError):
                await self._near.end_writing()
        except BadRequest as error:
            if not self._has_begun:
                await self._say(plain_answer(error.status))
        except (_ClientGone, TimeoutError):
            pass
        finally:
            await self._let_go()

    async def _next_request(self, wait_s: float) -> h11.Request | None:
        """Return the next request's head; None where there is none."""
        loop = asyncio.get_running_loop()
        has_begun = bool(self._http.trailing_data[0])
        async with asyncio.timeout(HEAD_S if has_begun else wait_s) as clock:
            while True:
                event = self._next_of_client()
                if isinstance(event, h11.Request):
                    return event
                if isinstance(event, h11.ConnectionClosed):
                    return None
                content = await self._read()
                if content and not has_begun:
                    has_begun = True
                    clock.reschedule(loop.time() + HEAD_S)
                self._http.receive_data(content)

    def _next_of_client(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        try:
            return self._http.next_event()
        except h11.RemoteProtocolError as error:
            status = error.error_status_hint if error.error_status_hint == 431 else 400
            raise BadRequest(status) from error

    async def _read(self) -> bytes:
        try:
            return await self._near.read()
        except OSError as error:
            raise _ClientGone from error

    async def _write(self, content: bytes) -> None:
        try:
            await self._near.write(content)
        except OSError as error:
            raise _ClientGone from error

    async def _one(self, request: h11.Request) -> bool:
        """Carry out one request; False where no other can follow."""
        judged = judge(request, self._origin)
        if (said := self._answer_here(judged)) is not None:
            await self._say(said)
            return False
        is_head = request.method == b"HEAD"
        try:
            await self._exchange(judged)
        except NoSuchHost:
            await self._say(plain_answer(404, is_head=is_head))
            return False
        except PeerBusy:
            await self._say(plain_answer(503, is_head=is_head))
            return False
        except (P2prcError, _ServiceBroke, BadAnswer, h11.LocalProtocolError):
            if not self._has_begun:
                await self._say(plain_answer(502, is_head=is_head))
            return False
        return await self._goes_on()

    async def _goes_on(self) -> bool:
        service = self._service
        if service is not None and not service.rest():
            await self._let_go()
        if self._http.our_state is h11.DONE and self._http.their_state is h11.DONE:
            self._http.start_next_cycle()
            self._has_begun = False
            return True
        if self._http.our_state in (h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
            await self._linger()
        return False

    async def _exchange(self, judged: Judged) -> None:
        service = await self._service_of(judged.host)
        has_body = self._http.their_state is h11.SEND_BODY and self._expects_body(judged)
        try:
            await self._carried(service, judged)
        except _ServiceBroke:
            # It may have ended while nobody asked it anything.
            if not service.is_used or self._has_begun or has_body:
                raise
            if judged.request.method not in _SAFE:
                raise
            await self._let_go()
            await self._carried(await self._service_of(judged.host), judged)

    def _expects_body(self, judged: Judged) -> bool:
        return any(
            name in (b"content-length", b"transfer-encoding") for name, _ in judged.request.headers
        )

    async def _service_of(self, host: str) -> _Service:
        service = self._service
        if service is not None and (service.host != host or service.link.is_over):
            await self._let_go()
        if self._service is None:
            stack = AsyncExitStack()
            link = await stack.enter_async_context(self._open(host))
            self._service = _Service(host, link, stack)
        return self._service

    async def _let_go(self) -> None:
        service, self._service = self._service, None
        if service is not None:
            await service.close()

    async def _carried(self, service: _Service, judged: Judged) -> None:
        try:
            await service.send(judged.request)
        except OSError as error:
            raise _ServiceBroke from error
        uploading = asyncio.create_task(self._upload(service), name="a request's body")
        answering = asyncio.create_task(self._answer(service), name="an answer")
        try:
            await asyncio.wait([uploading, answering], return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                # Raises what keeps the request from being whole; its answer is nobody's then.
                await uploading
            is_switched = await answering
        finally:
            for task in (uploading, answering):
                task.cancel()
            await asyncio.gather(uploading, answering, return_exceptions=True)
        if is_switched:
            await self._join(
                Ahead(self._near, self._http.trailing_data[0]),
                Ahead(service.link, service.http.trailing_data[0]),
            )

    async def _upload(self, service: _Service) -> None:
        """Send the body on, then see whether the client is still there."""
        while True:
            if self._http.their_state is not h11.SEND_BODY:
                # Read whole before: this is another try.
                with suppress(OSError):
                    await service.send(h11.EndOfMessage())
                break
            event = self._next_of_client()
            if event is h11.NEED_DATA:
                content = await self._read()
                if not content and self._http.their_state is h11.SEND_BODY:
                    raise _ClientGone
                self._http.receive_data(content)
                continue
            if not isinstance(event, (h11.Data, h11.EndOfMessage)):
                break
            is_end = isinstance(event, h11.EndOfMessage)
            try:
                # Trailers would be headers that nobody judged.
                await service.send(h11.EndOfMessage() if is_end else event)
            except OSError:
                # It may have answered all the same.
                break
            if is_end:
                break
        try:
            await self._near.seen()
        except OSError as error:
            raise _ClientGone from error

    async def _answer(self, service: _Service) -> bool:
        """Bring the answer; say whether both speak another protocol from now on."""
        # What came at once goes on at once: a head alone would be a packet of its own.
        waiting = b""
        while True:
            event = service.ready_event()
            if waiting and (event is None or len(waiting) > _AT_ONCE_BYTES):
                await self._write(waiting)
                waiting = b""
            if event is None:
                await service.receive()
                continue
            match event:
                case h11.InformationalResponse():
                    if event.status_code == _SWITCHING:
                        self._has_begun = True
                        await self._write(waiting + self._said(informational_of(event)))
                        return True
                    if self._http.their_http_version != b"1.0":
                        waiting += self._said(informational_of(event))
                case h11.Response():
                    answer = answer_of(event)
                    self._has_begun = True
                    waiting += self._said(answer)
                case h11.EndOfMessage():
                    kept = [pair for pair in event.headers if pair[0] != b"connection"]
                    end = h11.EndOfMessage(headers=self._trailers(kept))
                    await self._write(waiting + self._said(end))
                    return False
                case _:
                    waiting += self._said(event)

    def _said(self, event: h11.Event) -> bytes:
        return self._http.send(event) or b""

    def _trailers(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        return [] if self._http.their_http_version == b"1.0" else headers

    async def _say(self, answer: bytes) -> None:
        """Answer with these bytes, and nothing after them."""
        with suppress(OSError):
            await self._near.write(answer)
            await self._linger()

    async def _linger(self) -> None:
        """Let the client read what was said: bytes of its that nobody reads would wipe it out."""
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._near.end_writing()
                read_bytes = 0
                while read_bytes < _LINGER_BYTES and (content := await self._near.read()):
                    read_bytes += len(content)
