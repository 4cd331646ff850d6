"""A public UDP port: a flow for each source, bounded in number, memory and what it is answered."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from p2prc.node.datagrams import DatagramReader, framed
from p2prc.protocol.gateways import FlowBudget
from p2prc.runtime.port import Link

FLOWS_LIMIT = 256
UDP_IDLE_S = 120.0
_QUEUED_BYTES = 4 << 20
"""Of all flows of a port together; what comes on top of that is lost, as anywhere."""
_PER_FLOW_BYTES = 256 << 10
Address = tuple[str, int]
Carry = Callable[[Link, str], asyncio.Task[None]]


class PublicDatagrams(asyncio.DatagramProtocol):
    """Gives each source a link, which `carry` takes to the port's owner."""

    def __init__(self, carry: Carry) -> None:
        self._carry = carry
        self._flows: dict[Address, Flow] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self._is_full = False
        self.queued_bytes = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are of asyncio's class.
        self._transport = cast(asyncio.DatagramTransport, transport)

    def pause_writing(self) -> None:
        """The socket takes nothing more for now: what is sent is lost."""
        self._is_full = True

    def resume_writing(self) -> None:
        """It takes some again."""
        self._is_full = False

    def datagram_received(self, data: bytes, addr: Address) -> None:
        flow = self._flows.get(addr)
        if flow is None:
            if len(self._flows) >= FLOWS_LIMIT and not self._make_room():
                return
            flow = self._flows[addr] = Flow(self, addr)
            flow.task = self._carry(flow, f"{addr[0]}:{addr[1]}")
            flow.task.add_done_callback(lambda _: self._forget(addr, flow))
        flow.came(data)

    def send(self, datagram: bytes, addr: Address) -> None:
        """Send unless the socket is full."""
        if self._transport is not None and not self._is_full:
            self._transport.sendto(datagram, addr)

    def _make_room(self) -> bool:
        """End the oldest flow that may be forged; False when there is none."""
        # In the order in which they came.
        for addr, flow in self._flows.items():
            if not flow.is_proven:
                if flow.task is not None:
                    flow.task.cancel()
                self._forget(addr, flow)
                return True
        return False

    def _forget(self, addr: Address, flow: Flow) -> None:
        flow.drop()
        if self._flows.get(addr) is flow:
            del self._flows[addr]


class Flow:
    """The datagrams of one source, as the framed bytes of a stream."""

    def __init__(self, port: PublicDatagrams, source: Address) -> None:
        self.task: asyncio.Task[None] | None = None
        self._port = port
        self._source = source
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._has_some = asyncio.Event()
        self._reader = DatagramReader()
        self._budget = FlowBudget(time.monotonic())

    @property
    def is_proven(self) -> bool:
        """Whether the source is held for real."""
        return self._budget.is_proven

    def came(self, datagram: bytes) -> None:
        """Take a datagram of the source."""
        size = len(datagram)
        self._budget.came(size, time.monotonic())
        is_too_much = self._queued_bytes + size > _PER_FLOW_BYTES
        if is_too_much or self._port.queued_bytes + size > _QUEUED_BYTES:
            return
        self._queue.append(datagram)
        self._count(size)
        self._has_some.set()

    def drop(self) -> None:
        """Let go of what waits."""
        self._queue.clear()
        self._count(-self._queued_bytes)

    async def read(self) -> bytes:
        while not self._queue:
            self._has_some.clear()
            await self._has_some.wait()
        datagram = self._queue.popleft()
        self._count(-len(datagram))
        return framed(datagram)

    async def write(self, content: bytes) -> None:
        for datagram in self._reader.feed(content):
            if self._budget.may_answer(len(datagram)):
                self._port.send(datagram, self._source)

    async def end_writing(self) -> None:
        """Nothing ends: datagrams have no end."""

    async def close(self) -> None:
        """The socket stays: it is every source's."""

    def _count(self, amount: int) -> None:
        self._queued_bytes += amount
        self._port.queued_bytes += amount
