"""Datagrams over a stream: two bytes of length before each, and a UDP socket as a link of such."""

from __future__ import annotations

import asyncio
from contextlib import suppress

LENGTH_BYTES = 2
_QUEUED = 256
"""Datagrams that wait; what comes on top of them is lost, as anywhere."""


def framed(datagram: bytes) -> bytes:
    """Return a datagram with its length before it."""
    return len(datagram).to_bytes(LENGTH_BYTES, "big") + datagram


class DatagramReader:
    """Takes datagrams out of the bytes of a stream."""

    def __init__(self) -> None:
        self._held = bytearray()

    def feed(self, content: bytes) -> list[bytes]:
        """Return the datagrams that are whole now."""
        self._held += content
        found = []
        while len(self._held) >= LENGTH_BYTES:
            end = LENGTH_BYTES + int.from_bytes(self._held[:LENGTH_BYTES], "big")
            if len(self._held) < end:
                break
            found.append(bytes(self._held[LENGTH_BYTES:end]))
            del self._held[:end]
        return found


class UdpLink:
    """A connected UDP socket, as the framed bytes that go over a stream."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED)
        self._reader = DatagramReader()
        self._transport: asyncio.DatagramTransport | None = None

    @classmethod
    async def open(cls, host: str, port: int) -> UdpLink:
        """Return a link to a service that answers on UDP. Raises OSError."""
        link = cls()
        loop = asyncio.get_running_loop()
        link._transport, _ = await loop.create_datagram_endpoint(
            lambda: _Receiver(link._queue), remote_addr=(host, port)
        )
        return link

    async def read(self) -> bytes:
        return framed(await self._queue.get())

    async def write(self, content: bytes) -> None:
        for datagram in self._reader.feed(content):
            if self._transport is not None:
                self._transport.sendto(datagram)

    async def end_writing(self) -> None:
        """Nothing ends: datagrams have no end."""

    async def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class _Receiver(asyncio.DatagramProtocol):
    def __init__(self, queue: asyncio.Queue[bytes]) -> None:
        self._queue = queue

    def datagram_received(self, data: bytes, addr: object) -> None:
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(data)


class QueueLink:
    """The datagrams of one client of a local UDP port, as the framed bytes of a stream."""

    def __init__(self, transport: asyncio.DatagramTransport, client: tuple[str, int]) -> None:
        self._transport = transport
        self._client = client
        self._queue: asyncio.Queue[bytes] = asyncio.Queue(_QUEUED)
        self._reader = DatagramReader()

    def came(self, datagram: bytes) -> None:
        """Take a datagram of the client."""
        with suppress(asyncio.QueueFull):
            self._queue.put_nowait(datagram)

    async def read(self) -> bytes:
        return framed(await self._queue.get())

    async def write(self, content: bytes) -> None:
        for datagram in self._reader.feed(content):
            self._transport.sendto(datagram, self._client)

    async def end_writing(self) -> None:
        """Nothing ends: datagrams have no end."""

    async def close(self) -> None:
        """The socket stays: it is every client's."""
