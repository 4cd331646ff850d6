"""What the real transport sends for a connection, in bytes: measured, not guessed.

`python -m benchmarks.wire_costs` printed these figures on 2026-11-22: iroh 1.2.0, two endpoints on
loopback, a raw socket that counts whole IP packets once. The pulse was counted the same way between
two idle daemons over 60 s, and what membership sent meanwhile taken off. They are charged per
connection and packet, so that the bytes of a simulated node are those that its line would carry.
"""

from __future__ import annotations

from math import ceil

CALLER_HANDSHAKE_BYTES = 13_600
CALLEE_HANDSHAKE_BYTES = 11_200
"""A new connection until it is quiet, 12,870 and 10,510 bytes: keys, first packets that must be
long, and the search for the largest packet that fits. Then each side shows a chain: some 700."""

UNANSWERED_CALL_BYTES = 3_800
"""Three first packets of a handshake that nobody answers within four seconds; not measured."""

KEEP_ALIVE_BYTES_PER_S = 205.0
"""Either end of an idle link: its pulse every 1.5 s, the answers, and acknowledgements. (Without
our pulse, the transport's own keep-alive takes 82.)"""

PACKET_PAYLOAD_BYTES = 1_400
PACKET_OVERHEAD_BYTES = 64
"""IP, UDP and QUIC around the payload of one packet."""
ACKNOWLEDGEMENT_BYTES = 67
"""What comes back for every other packet, and for the last one."""

RELAY_FRAME_BYTES = 92
"""Around each packet on a relay's WebSocket: key and flags (35), WebSocket (8), TCP and IP (40),
sizes of both (9); after the protocol's description, not measured."""

LETTER_OVERHEAD_BYTES = 12
"""The frame's length and the letter around a message."""

CLOSING_BYTES = 136
"""A connection's end, both sides taken together."""

RECORD_BYTES = 1_358
"""The signed record of an admitted node that lends, as the daemon keeps it."""


def packets_of(message_bytes: int) -> int:
    """Return in how many packets a message travels."""
    return max(1, ceil((message_bytes + LETTER_OVERHEAD_BYTES) / PACKET_PAYLOAD_BYTES))


def sent_bytes(message_bytes: int, packets: int) -> int:
    """Return what the sender's line carries for one message, without repetitions."""
    return message_bytes + LETTER_OVERHEAD_BYTES + packets * PACKET_OVERHEAD_BYTES


def acknowledgement_bytes(packets: int) -> int:
    """Return what the receiver's line carries back for them."""
    return (packets + 1) // 2 * ACKNOWLEDGEMENT_BYTES
