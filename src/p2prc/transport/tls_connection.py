"""A connection over TCP and TLS: its streams have a lane (a TCP connection) each, used again.

The dialler opens lanes, and streams on them; one that both sides finished leaves its lane to the
next stream. The side that was dialled keeps the connection for a while after the last lane went:
the dialler may come back.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

from p2prc.errors import PeerError, PeerLost
from p2prc.model.identity import NodeId
from p2prc.transport.port import Channel, Path
from p2prc.transport.tls_lane import Lane, LaneStream

IDLE_S = 20.0
"""A lane that nobody uses is closed before a router forgets it, which would tell nobody."""
EMPTY_S = 30.0
"""How long a served connection waits for lanes before it ends."""

OpenLane = Callable[[], Awaitable[Lane]]


class TlsConnection:
    """What both sides have in common: lanes, and an end."""

    def __init__(self, peer: NodeId, remote: str) -> None:
        self.peer = peer
        self.channel = Channel.BULK
        self.closed: Callable[[], None] = lambda: None
        """Called once, when the connection ended."""
        self._remote = remote
        self._lanes: set[Lane] = set()
        self._lost: str | None = None
        self._ended = asyncio.get_running_loop().create_future()

    @property
    def is_closed(self) -> bool:
        return self._lost is not None

    @property
    def lanes(self) -> int:
        """How many TCP connections it has."""
        return len(self._lanes)

    async def path(self) -> Path:
        return Path("direct", self._remote)

    def allow_streams(self, count: int) -> None:
        """There is no bound here: each stream has a connection of its own."""

    async def remote_address(self) -> str:
        return self._remote

    async def open_stream(self) -> LaneStream:
        self._check()
        raise PeerLost("only the dialler opens streams here")

    async def accept_stream(self) -> LaneStream:
        await asyncio.shield(self._ended)
        raise PeerLost(str(self._lost))

    async def close(self, reason: str = "") -> None:
        self.end(f"this side closed: {reason}" if reason else "this side closed")

    def end(self, reason: str) -> None:
        """Close it without waiting; twice is safe."""
        if self._lost is not None:
            return
        self._lost = reason
        self._ended.set_result(None)
        for lane in list(self._lanes):
            lane.close(reason)
        self.closed()

    def _keep(self, lane: Lane) -> None:
        lane.lost = lambda: self._lane_lost(lane)
        self._lanes.add(lane)
        if lane.is_lost:
            self._lane_lost(lane)

    def _lane_lost(self, lane: Lane) -> None:
        self._lanes.discard(lane)
        if lane.said_goodbye:
            self.end("the peer closed the bulk connection")

    def _check(self) -> None:
        if self._lost is not None:
            raise PeerLost(self._lost)


class DialledConnection(TlsConnection):
    """The side that opens streams; it begins with the lane that proved the way."""

    def __init__(self, peer: NodeId, remote: str, *, first: Lane, open_lane: OpenLane) -> None:
        super().__init__(peer, remote)
        self._open_lane = open_lane
        self._idle: dict[Lane, asyncio.TimerHandle] = {}
        self._take_in(first)
        self._rest(first)

    async def open_stream(self) -> LaneStream:
        """Use a lane that is free, or open one. Raises PeerLost."""
        self._check()
        if self._idle:
            lane, timer = self._idle.popitem()
            timer.cancel()
            return LaneStream(lane)
        try:
            lane = await self._open_lane()
        except PeerError as error:
            raise PeerLost(f"no further bulk lane: {error.message}") from error
        if self._lost is not None:
            lane.close(self._lost)
        self._check()
        self._take_in(lane)
        return LaneStream(lane)

    def _take_in(self, lane: Lane) -> None:
        self._keep(lane)
        lane.over = lambda: self._rest(lane)
        lane.be_idle()

    def _rest(self, lane: Lane) -> None:
        loop = asyncio.get_running_loop()
        self._idle[lane] = loop.call_later(IDLE_S, lane.abort, "nobody used it")

    def _lane_lost(self, lane: Lane) -> None:
        if (timer := self._idle.pop(lane, None)) is not None:
            timer.cancel()
        super()._lane_lost(lane)


class ServedConnection(TlsConnection):
    """The side that was dialled: it takes streams from every lane of one dialler."""

    def __init__(self, peer: NodeId, remote: str) -> None:
        super().__init__(peer, remote)
        self._begun: deque[Lane] = deque()
        self._news = asyncio.Event()
        self._empty: asyncio.TimerHandle | None = None

    def add(self, lane: Lane) -> None:
        """Take streams from this lane too."""
        if self._empty is not None:
            self._empty.cancel()
            self._empty = None
        lane.begun = lambda: self._stream_begun(lane)
        self._keep(lane)
        lane.be_idle()

    async def accept_stream(self) -> LaneStream:
        while True:
            self._check()
            while self._begun:
                lane = self._begun.popleft()
                if not lane.is_lost:
                    return LaneStream(lane)
            self._news.clear()
            await self._news.wait()

    def _stream_begun(self, lane: Lane) -> None:
        self._begun.append(lane)
        self._news.set()

    def _lane_lost(self, lane: Lane) -> None:
        super()._lane_lost(lane)
        if not self._lanes and self._lost is None:
            loop = asyncio.get_running_loop()
            self._empty = loop.call_later(EMPTY_S, self.end, "the peer is gone")

    def end(self, reason: str) -> None:
        if self._empty is not None:
            self._empty.cancel()
        super().end(reason)
        self._news.set()
