"""How fast our relay is beside iroh's own program: `python -m benchmarks.relay` prints both.

Two clients exchange datagrams through each relay in turn, over plain sockets that copy frames made
beforehand, so that what is measured is the relay. The clients keep a window of frames under way
that either relay can queue, and count what arrives.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from benchmarks.relays import TOLD, RunningRelay, open_ours, open_rival, rival_program
from benchmarks.report import Figure
from p2prc.protocol import relay_frames as frames

ROUNDS = 5
WINDOW_FRAMES = 200
WINDOW_S = 1.5
TRIPS = 1000
DATAGRAM_BYTES = 1200
BATCH = 10
_PATIENCE_S = 20.0
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Client:
    """An admitted client of a relay; it writes what it is given and counts what it reads."""

    def __init__(
        self, relay: RunningRelay, secret: bytes | None = None, *, claimed: bytes | None = None
    ) -> None:
        seed = secret or os.urandom(32)
        self._secret = Ed25519PrivateKey.from_private_bytes(seed)
        self.key = claimed or self._secret.public_key().public_bytes_raw()
        self.socket = socket.create_connection(("127.0.0.1", relay.port), _PATIENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._buffer = bytearray()
        try:
            self._enter()
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Hang up."""
        self.socket.close()

    def _enter(self) -> None:
        self.socket.sendall(
            b"GET /relay HTTP/1.1\r\nHost: relay\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
            b"Sec-WebSocket-Protocol: iroh-relay-v2\r\n\r\n"
        )
        while b"\r\n\r\n" not in self._buffer:
            self._read()
        del self._buffer[: self._buffer.index(b"\r\n\r\n") + 4]
        challenge = self.message()[1:]
        text = blake3(challenge, derive_key_context=frames.CHALLENGE_CONTEXT).digest()
        self.socket.sendall(masked(b"\x01" + self.key + b"\x40" + self._secret.sign(text)))
        if self.message() != frames.confirm():
            raise ConnectionError("the relay does not admit us")

    def message(self) -> bytes:
        """Return the next whole message."""
        while (found := self._whole()) is None:
            self._read()
        return found

    def _whole(self) -> bytes | None:
        if len(self._buffer) < 2:
            return None
        size, start = self._buffer[1], 2
        if size == 126:
            size, start = int.from_bytes(self._buffer[2:4], "big"), 4
        if len(self._buffer) < start + size:
            return None
        found = bytes(self._buffer[start : start + size])
        del self._buffer[: start + size]
        return found

    def _read(self) -> None:
        piece = self.socket.recv(1 << 16)
        if not piece:
            raise ConnectionError("the relay hung up")
        self._buffer += piece


def masked(payload: bytes) -> bytes:
    """Return a client's WebSocket message. Its mask is zero, and costs the relay as any other."""
    size = len(payload)
    if size < 126:
        return struct.pack("!BB", 0x82, 0x80 | size) + bytes(4) + payload
    if size > 0xFFFF:
        return struct.pack("!BBQ", 0x82, 0xFF, size) + bytes(4) + payload
    return struct.pack("!BBH", 0x82, 0xFE, size) + bytes(4) + payload


def datagrams(to: bytes, count: int) -> bytes:
    """Return one datagram, or a batch in one frame."""
    if count == 1:
        return b"\x04" + to + b"\x00" + os.urandom(DATAGRAM_BYTES)
    size = struct.pack("!H", DATAGRAM_BYTES)
    return b"\x05" + to + b"\x00" + size + os.urandom(count * DATAGRAM_BYTES)


def rate(relay: RunningRelay, count: int) -> float:
    """Return the megabytes a second that arrive, in frames of so many datagrams."""
    source, sink = Client(relay), Client(relay)
    payload = datagrams(sink.key, count)
    sent_size, got_size = len(masked(payload)), len(payload) + 4
    blob = memoryview(masked(payload) * WINDOW_FRAMES)
    buffer = bytearray(1 << 20)
    source.socket.setblocking(False)
    sink.socket.setblocking(False)
    sent = got = 0
    began = time.monotonic()
    now = began
    while now < began + WINDOW_S:
        room = (WINDOW_FRAMES - sent // sent_size + got // got_size) * sent_size
        wanted = [source.socket] if room > sent_size else []
        ready, writable, _ = select.select([sink.socket], wanted, [], _PATIENCE_S)
        if writable:
            offset = sent % len(blob)
            sent += source.socket.send(blob[offset : offset + min(room, len(blob) - offset)])
        if ready:
            got += sink.socket.recv_into(buffer)
        now = time.monotonic()
        if not ready and not writable:
            raise TimeoutError("the relay lost frames")
    source.close()
    sink.close()
    return got / got_size * count * DATAGRAM_BYTES / (now - began) / 1e6


def round_trip_ms(relay: RunningRelay) -> float:
    """Return the median time of a datagram to the other client and back."""
    ours, theirs = Client(relay), Client(relay)
    there = masked(datagrams(theirs.key, 1))
    back = masked(datagrams(ours.key, 1))
    times = []
    for _ in range(TRIPS):
        began = time.perf_counter()
        ours.socket.sendall(there)
        theirs.message()
        theirs.socket.sendall(back)
        ours.message()
        times.append(time.perf_counter() - began)
    ours.close()
    theirs.close()
    return 1000 * statistics.median(times)


@dataclass(frozen=True, slots=True)
class Measure:
    """One number to take of each relay."""

    name: str
    unit: str
    take: Callable[[RunningRelay], float]


MEASURES = (
    Measure("batches of ten datagrams", "MB/s", lambda relay: rate(relay, BATCH)),
    Measure("single datagrams", "MB/s", lambda relay: rate(relay, 1)),
    Measure("round trip of a datagram", "ms", round_trip_ms),
)


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """Return medians and every single value; the relays take turns, round after round."""
    values: dict[str, dict[str, list[float]]] = {}
    with _contenders() as relays:
        for _ in range(rounds):
            for each in MEASURES:
                for name, relay in relays.items():
                    found = values.setdefault(each.name, {}).setdefault(name, [])
                    found.append(each.take(relay))
        resident = {name: _resident_mb(relay.pid) for name, relay in relays.items()}
        cpu = {name: _cpu_s(relay.pid) for name, relay in relays.items()}
    medians = {
        each: {name: statistics.median(found) for name, found in by_relay.items()}
        for each, by_relay in values.items()
    }
    return {"median": medians, "values": values, "resident_mb": resident, "cpu_s": cpu}


@contextmanager
def _contenders() -> Iterator[dict[str, RunningRelay]]:
    program = rival_program()
    with ExitStack() as stack:
        relays = {"ours": stack.enter_context(open_ours())}
        if program is not None:
            relays["iroh-relay"] = stack.enter_context(open_rival(program))
        yield relays


def figures(found: dict[str, Any]) -> list[Figure]:
    """Return ours beside iroh's, where that is there."""
    shown = []
    for each in MEASURES:
        by_relay = found["median"][each.name]
        if "iroh-relay" in by_relay:
            ratio = by_relay["ours"] / by_relay["iroh-relay"]
            shown.append(Figure(f"relay, {each.name}: ours / iroh-relay", ratio, "x"))
    return shown


def _resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) / 1000 for line in lines if line.startswith("VmRSS:"))


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S


def main() -> int:
    """Print what was measured."""
    if rival_program() is None:
        print(TOLD)
    found = measure()
    units = {each.name: each.unit for each in MEASURES}
    for name, by_relay in found["median"].items():
        shown = ", ".join(f"{relay} {value:.3g}" for relay, value in by_relay.items())
        print(f"{name}: {shown} {units[name]}")
    for figure in figures(found):
        print(figure)
    print("resident MB", found["resident_mb"], "CPU s", found["cpu_s"])
    return 0


if __name__ == "__main__":
    sys.exit(main())
