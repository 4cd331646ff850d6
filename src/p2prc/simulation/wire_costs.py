"""What the real transport sends for a connection, in bytes: measured, not guessed.

`python -m benchmarks.wire_costs` printed these figures (FIGURES_DATE; iroh 1.2.0, two endpoints on
loopback, a raw socket that counts whole IP packets). They are charged per connection and packet, so
that the bytes of a simulated node are those that its line would carry.
"""

from __future__ import annotations

from math import ceil

CALLER_HANDSHAKE_BYTES = 13_600
CALLEE_HANDSHAKE_BYTES = 11_300
"""A new connection until it is quiet: keys, membership chains, and the search for the largest
packet that fits, which is most of it."""

UNANSWERED_CALL_BYTES = 3_800
"""Three first packets of a handshake that nobody answers."""

KEEP_ALIVE_BYTES_PER_S = 170.0
"""Either end of an idle connection."""

PACKET_PAYLOAD_BYTES = 1_150
PACKET_OVERHEAD_BYTES = 62
"""IP, UDP and QUIC around the payload of one packet."""
ACKNOWLEDGEMENT_BYTES = 67
"""What comes back for it."""

RELAY_FRAME_BYTES = 34 + 6 + 52
"""Around each packet on a relay's WebSocket: the frame's key, WebSocket's header, TCP and IP."""

LETTER_OVERHEAD_BYTES = 12
"""The frame's length and the letter around a message."""

CLOSING_BYTES = 138
"""A connection's end, both sides taken together."""


def packets_of(message_bytes: int) -> int:
    """Return in how many packets a message travels."""
    return max(1, ceil((message_bytes + LETTER_OVERHEAD_BYTES) / PACKET_PAYLOAD_BYTES))


def sent_bytes(message_bytes: int, packets: int) -> int:
    """Return what the sender's line carries for one message, without repetitions."""
    return message_bytes + LETTER_OVERHEAD_BYTES + packets * PACKET_OVERHEAD_BYTES
