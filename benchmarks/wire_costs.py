"""`python -m benchmarks.wire_costs`: the bytes that the simulation charges, measured (as root).

Two real endpoints talk over loopback while a raw packet socket counts every IP packet between
their ports. What it prints goes into `p2prc.simulation.wire_costs`, by hand and with the date.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import struct
import sys
from contextlib import suppress
from dataclasses import dataclass

from p2prc.model.identity import NodeId
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import Channel, Connection, Endpoint, Stream

IDLE_S = 30.0
MESSAGES = 200
ROUNDS = 5
SIZES_BYTES = (20, 100, 400, 1000, 4000, 16000)
_ETH_P_ALL = 0x0003
_UDP = 17


@dataclass(slots=True)
class Tally:
    """Packets and bytes, IP headers included."""

    packets: int = 0
    size_bytes: int = 0
    largest_bytes: int = 0


class Sniffer:
    """Counts IPv4 packets of UDP between two ports, once each, by the port that sent them."""

    def __init__(self, ports: tuple[int, int]) -> None:
        self._ports = set(ports)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_ALL))
        self._socket.bind(("lo", 0))
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 24)
        self.sent = {port: Tally() for port in ports}

    def take(self) -> dict[int, Tally]:
        """Return what was sent since the last time."""
        self.drain()
        found, self.sent = self.sent, {port: Tally() for port in self._ports}
        return found

    def drain(self) -> None:
        """Count what has come: the kernel keeps little, and everybody's packets come here."""
        with suppress(BlockingIOError):
            while True:
                packet, origin = self._socket.recvfrom(70_000)
                if origin[2] == socket.PACKET_OUTGOING:
                    self._count(packet)

    def _count(self, packet: bytes) -> None:
        if len(packet) < 28 or packet[0] >> 4 != 4 or packet[9] != _UDP:
            return
        offset = (packet[0] & 15) * 4
        source, target = struct.unpack_from("!HH", packet, offset)
        if {source, target} == self._ports:
            tally = self.sent[source]
            tally.packets += 1
            tally.size_bytes += len(packet)
            tally.largest_bytes = max(tally.largest_bytes, len(packet))

    def close(self) -> None:
        self._socket.close()


def _port(addresses: tuple[str, ...]) -> int:
    return int(addresses[0].rpartition(":")[2])


async def _accepted(endpoint: Endpoint) -> Connection:
    found = await endpoint.accept()
    if found is None:
        raise RuntimeError("the endpoint was closed")
    return found


async def _echo(stream: Stream) -> None:
    while await stream.read():
        pass


def _told(title: str, found: dict[int, Tally], per: float = 1.0) -> None:
    packets = sum(tally.packets for tally in found.values()) / per
    total = sum(tally.size_bytes for tally in found.values()) / per
    by_side = " + ".join(f"{tally.size_bytes / per:.0f}" for tally in found.values())
    largest = max(tally.largest_bytes for tally in found.values())
    print(f"{title:<46} {total:9.1f} B ({by_side}), {packets:6.2f} packets, largest {largest}")


async def measure() -> None:
    """Connect, be idle, send messages of several sizes, close; print the bytes of each."""
    for turn in range(ROUNDS):
        caller = await open_iroh_endpoint(secrets.token_bytes(32), bind_addr="127.0.0.1:0")
        callee = await open_iroh_endpoint(secrets.token_bytes(32), bind_addr="127.0.0.1:0")
        addresses = await callee.addresses()
        sniffer = Sniffer((_port(await caller.addresses()), _port(addresses)))
        ours, theirs = await asyncio.gather(
            caller.connect(NodeId(callee.node), addresses, Channel.CONTROL, timeout_s=5),
            _accepted(callee),
        )
        _told("until connected", sniffer.take())
        await asyncio.sleep(2.0)
        _told("the two seconds after", sniffer.take())
        if turn == ROUNDS - 1:
            await _idle_and_messages(ours, theirs, sniffer)
        await ours.close()
        await asyncio.sleep(1.0)
        _told("closing", sniffer.take())
        sniffer.close()
        await asyncio.gather(caller.close(), callee.close())


async def _idle_and_messages(ours: Connection, theirs: Connection, sniffer: Sniffer) -> None:
    for _ in range(int(IDLE_S / 0.1)):
        await asyncio.sleep(0.1)
        sniffer.drain()
    _told("idle, each second", sniffer.take(), IDLE_S)
    stream = await ours.open_stream()
    await stream.write(b"begin")
    echoing = asyncio.create_task(_echo(await theirs.accept_stream()))
    await asyncio.sleep(1.0)
    for size_bytes in SIZES_BYTES:
        sniffer.take()
        for _ in range(MESSAGES):
            await stream.write(bytes(size_bytes))
            # Slower than the round trip, and than an acknowledgement that waits for company.
            await asyncio.sleep(0.05)
            sniffer.drain()
        _told(f"a message of {size_bytes} B, one way", sniffer.take(), MESSAGES)
    echoing.cancel()


if __name__ == "__main__":
    asyncio.run(measure())
    sys.exit(0)
