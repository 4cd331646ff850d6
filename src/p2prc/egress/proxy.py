"""One lease's proxy, served on a Unix socket of the host.

Theory of operation. One connection carries one request: CONNECT, after which bytes go both ways,
or a plain one, sent on as a new request. The name is resolved once, its addresses are judged,
and one of those that passed is connected to. Whoever reads slowly slows the other side down:
at most two buffers a direction are held. A clock that any byte winds up ends what is idle.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import h11

from p2prc.egress.dialing import BUFFER_BYTES, Connection, Internet
from p2prc.egress.exchange import Exchange, next_event
from p2prc.egress.flow import CHUNK_BYTES, Flow, finish, write
from p2prc.egress.heads import Asked, read_request, refusal
from p2prc.protocol.egress import (
    Allowance,
    EgressRefused,
    EgressTerms,
    Target,
    allowed_of,
    check_port,
)

log = logging.getLogger(__name__)

_ADDRESSES_TRIED = 3
_LAST_WORD_S = 2.0
_TUNNEL = b"HTTP/1.1 200 Connection established\r\n\r\n"

Forward = Callable[[bytes], Awaitable[None]]


class EgressProxy:
    """Takes requests at a Unix socket until it is closed; counts and bounds what they move."""

    def __init__(self, path: Path, terms: EgressTerms, internet: Internet) -> None:
        self.path = path
        self.allowance = Allowance(terms)
        self.refused = 0
        self._terms = terms
        self._internet = internet
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Listen; a socket that an earlier life left is replaced. Raises OSError."""
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX)
        folder = os.open(self.path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            # A socket's name has room for 107 bytes, which a home folder can exceed.
            listener.bind(f"/proc/self/fd/{folder}/{self.path.name}")
            self.path.chmod(0o600)
        except BaseException:
            listener.close()
            raise
        finally:
            os.close(folder)
        self._server = await asyncio.start_unix_server(
            self._accept, sock=listener, limit=BUFFER_BYTES
        )

    async def close(self) -> None:
        """End every connection and remove the socket. Twice is safe."""
        if self._server is not None:
            self._server.close()
        for task in tuple(self._serving):
            task.cancel()
        if self._serving:
            await asyncio.wait(set(self._serving))
        self.path.unlink(missing_ok=True)

    # -- one connection -----------------------------------------------------------------------

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of ours: asyncio reports one of its own that is cancelled as an error.
        task = asyncio.get_running_loop().create_task(
            self._bounded(reader, writer), name="a tenant's connection"
        )
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _bounded(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(self._terms.total_s):
                await self._serve(reader, writer)
        except (EgressRefused, h11.RemoteProtocolError, h11.LocalProtocolError) as error:
            # Those of ours that came before an answer were told: this one came too late for one.
            log.debug("a tenant's request is cut off", extra={"reason": str(error)})
        except (OSError, TimeoutError, EOFError) as error:
            log.debug("a tenant's connection ended", extra={"reason": str(error)})
        finally:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inside = h11.Connection(h11.SERVER, max_incomplete_event_size=self._terms.head_bytes)
        try:
            self._check_room()
            asked = await self._read_head(inside, reader)
            check_port(asked.target, self._terms)
            outside = await self._connect(asked.target)
        except EgressRefused as error:
            self.refused += 1
            await _say(reader, writer, refusal(error))
            return
        except h11.RemoteProtocolError as error:
            self.refused += 1
            reason = "that is no request a proxy understands"
            told = EgressRefused(reason, status=error.error_status_hint)
            await _say(reader, writer, refusal(told))
            return
        try:
            if asked.is_tunnel:
                rest = inside.trailing_data[0]
                await self._tunnel((reader, writer), outside, rest)
            else:
                await self._forward(asked, inside, (reader, writer), outside)
        finally:
            outside[1].transport.abort()

    def _check_room(self) -> None:
        if len(self._serving) > self._terms.connections:
            raise EgressRefused("too many connections at once", status=503)
        if self.allowance.is_used_up:
            raise EgressRefused(self.allowance.reason)

    async def _read_head(self, inside: h11.Connection, reader: asyncio.StreamReader) -> Asked:
        try:
            async with asyncio.timeout(self._terms.head_s):
                event = await next_event(inside, reader.read)
        except TimeoutError:
            raise EgressRefused("the request took too long", status=408) from None
        assert isinstance(event, h11.Request), "a request is what h11 begins with"
        asked = read_request(event)
        if asked.is_tunnel and event.http_version == b"1.0" and inside.trailing_data[0]:
            raise EgressRefused("nothing may follow before the answer", status=400)
        if asked.is_tunnel:
            # So that h11 holds what follows, instead of reading it.
            inside.next_event()
        return asked

    async def _connect(self, target: Target) -> Connection:
        own = self._internet.own_networks()
        if isinstance(target.host, str):
            try:
                async with asyncio.timeout(self._terms.resolve_s):
                    found = await self._internet.resolve(target.host)
            except (OSError, UnicodeError, TimeoutError):
                reason = f"`{target.host}` has no address that can be found"
                raise EgressRefused(reason, status=502) from None
            addresses = allowed_of(found, own)
        else:
            addresses = allowed_of([target.host], own)
        for address in addresses[:_ADDRESSES_TRIED]:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._terms.connect_s):
                    return await self._internet.connect(address, target.port)
        raise EgressRefused(f"`{target}` does not answer", status=502)

    # -- bytes --------------------------------------------------------------------------------

    async def _tunnel(self, inside: Connection, outside: Connection, first: bytes) -> None:
        flow = Flow(self.allowance, self._terms)

        async def out(content: bytes) -> None:
            await flow.carry(content, outside[1], is_sent=True)

        async def back(content: bytes) -> None:
            await flow.carry(content, inside[1], is_sent=False)

        async with flow.watched():
            await write(inside[1], _TUNNEL)
            if first:
                await out(first)
            pours = [
                asyncio.create_task(_pour(inside[0], out, outside[1]), name="out of a tunnel"),
                asyncio.create_task(_pour(outside[0], back, inside[1]), name="into a tunnel"),
            ]
            try:
                await asyncio.gather(*pours)
            finally:
                for pour in pours:
                    pour.cancel()
                await asyncio.wait(pours)

    async def _forward(
        self, asked: Asked, inside: h11.Connection, near: Connection, far: Connection
    ) -> None:
        assert asked.forwarded is not None
        flow = Flow(self.allowance, self._terms)
        exchange = Exchange(inside, near, far, flow, self._terms.head_bytes)
        try:
            await exchange.carry(asked.forwarded)
        except (EgressRefused, EOFError, OSError) as error:
            if exchange.is_answered:
                raise
            self.refused += 1
            if isinstance(error, EgressRefused):
                told = error
            elif isinstance(error, TimeoutError):
                told = EgressRefused("the server is silent", status=504)
            else:
                told = EgressRefused("the server ended without an answer", status=502)
            await _say(*near, refusal(told))


async def _pour(source: asyncio.StreamReader, give: Forward, sink: asyncio.StreamWriter) -> None:
    while content := await source.read(CHUNK_BYTES):
        await give(content)
    with contextlib.suppress(OSError):
        sink.write_eof()


async def _say(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, content: bytes) -> None:
    """Answer, and read on for a moment: what is thrown away unread would take the answer along."""
    writer.write(content)
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_LAST_WORD_S):
            await finish(writer)
            for _ in range(64):
                if not await reader.read(CHUNK_BYTES):
                    break
