"""A connection of iroh: streams to one peer on one channel."""

from __future__ import annotations

import iroh

from p2prc.model.identity import NodeId
from p2prc.transport.iroh_calls import StreamCalls
from p2prc.transport.iroh_errors import errors_of
from p2prc.transport.iroh_relays import shown_url
from p2prc.transport.iroh_stream import IrohStream
from p2prc.transport.port import Channel, Path

STREAMS_LIMIT = 1024
"""How many streams a peer may have open at once, after it was asked for a second one."""
_CLOSED = 0
_REASON_LIMIT_BYTES = 200


class IrohConnection:
    """An encrypted connection whose peer proved its key."""

    def __init__(self, connection: iroh.Connection, calls: StreamCalls) -> None:
        self._connection = connection
        self._calls = calls
        self._accepted = 0
        self._streams_limit = STREAMS_LIMIT
        self.peer = NodeId(str(connection.remote_id()))
        self.channel = Channel(connection.alpn())

    @property
    def is_closed(self) -> bool:
        return self._connection.close_reason() is not None

    async def open_stream(self) -> IrohStream:
        with errors_of(self.peer):
            pair = await self._connection.open_bi()
        return IrohStream(pair, self.peer, self._calls)

    async def accept_stream(self) -> IrohStream:
        # The first stream is where a stranger introduces itself. Only a peer that is asked for
        # more gets more than iroh's 100, each of which may hold 1.25 MB that nobody has read.
        if self._accepted == 1:
            self._connection.set_max_concurrent_bi_streams(self._streams_limit)
        with errors_of(self.peer):
            pair = await self._connection.accept_bi()
        self._accepted += 1
        return IrohStream(pair, self.peer, self._calls)

    def allow_streams(self, count: int) -> None:
        self._streams_limit = count
        if self._accepted > 1:
            self._connection.set_max_concurrent_bi_streams(count)

    async def path(self) -> Path:
        selected = self._selected()
        if selected is None:
            return Path("direct", "")
        latency_s = selected.rtt_ms / 1000
        if selected.is_relay:
            return Path("relayed", shown_url(selected.remote_addr), latency_s)
        return Path("direct", selected.remote_addr, latency_s)

    async def remote_address(self) -> str:
        selected = self._selected()
        return selected.remote_addr if selected is not None and selected.is_ip else ""

    def _selected(self) -> iroh.iroh_ffi.PathSnapshot | None:
        paths = self._connection.paths()
        selected = next((path for path in paths if path.is_selected), None)
        # The first moments of a connection know no selected path, but the one that it came by.
        return paths[0] if selected is None and len(paths) == 1 else selected

    async def close(self, reason: str = "") -> None:
        text = reason.encode()[:_REASON_LIMIT_BYTES]
        with errors_of(self.peer):
            self._connection.close(_CLOSED, text)
