"""Asking a router for a port: the packets of PCP (RFC 6887) and NAT-PMP (RFC 6886).

Both speak UDP to port 5351 of the gateway. What comes back is bounded by its fixed size and must
repeat what was asked: version, operation, port and, for PCP, the nonce.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from typing import Literal

from p2prc.errors import WireError

ROUTER_PORT = 5351
NONCE_BYTES = 12
ANSWER_LIMIT_BYTES = 1100
"""The longest packet that RFC 6887 knows."""

Protocol = Literal["udp", "tcp"]

_PCP_VERSION, _PCP_MAP, _IS_RESPONSE = 2, 1, 0x80
_PCP_HEADER, _PCP_ANSWER, _PCP_BODY = "!BBHI16s", "!BBBBII12s", "!12sB3sHH16s"
_PCP_BYTES = struct.calcsize(_PCP_HEADER) + struct.calcsize(_PCP_BODY)
_PMP_MAP, _PMP_ADDRESS = "!BBHHHI", "!BBHI4s"
_PMP_MAPPED = "!BBHIHHI"
_NUMBERS: dict[Protocol, int] = {"udp": 17, "tcp": 6}
_PMP_OPERATIONS: dict[Protocol, int] = {"udp": 1, "tcp": 2}
_PMP_UNSUPPORTED_VERSION = 1

_PCP_RESULTS = {
    1: "it speaks another version", 2: "it refuses", 3: "the request was malformed",
    4: "it knows no mapping", 6: "it refuses for now", 7: "the network failed",
    8: "it has no room", 9: "the protocol is unknown to it", 10: "another has that port",
    11: "the address is another one", 12: "the peer is refused", 13: "too many mappings",
}  # fmt: skip
_PMP_RESULTS = {
    1: "it speaks another version", 2: "it refuses", 3: "the network failed",
    4: "it has no room", 5: "the operation is unknown to it",
}  # fmt: skip


class Unwilling(WireError):
    """The router answered, and will not."""

    code = "router-unwilling"


@dataclass(frozen=True, slots=True)
class Opened:
    """A port that the router opened. `host` is "" where the packet does not tell it."""

    host: str
    port: int
    lifetime_s: float


# -- PCP ----------------------------------------------------------------------------------------


def pcp_request(
    protocol: Protocol, port: int, outer_port: int, *, client: str, nonce: bytes, lifetime_s: int
) -> bytes:
    """Return a MAP request for our port; lifetime 0 closes it again."""
    header = struct.pack(_PCP_HEADER, _PCP_VERSION, _PCP_MAP, 0, lifetime_s, _as_16_bytes(client))
    suggested = _as_16_bytes("0.0.0.0")  # noqa: S104 - any address
    return header + struct.pack(
        _PCP_BODY, nonce, _NUMBERS[protocol], bytes(3), port, outer_port, suggested
    )


def read_pcp(answer: bytes, protocol: Protocol, port: int, *, nonce: bytes) -> Opened:
    """Return what was opened. Raises Unwilling with the reason, WireError for another answer."""
    if len(answer) >= 4 and answer[0] == 0:
        raise Unwilling("it speaks NAT-PMP only")
    if not _PCP_BYTES <= len(answer) <= ANSWER_LIMIT_BYTES:
        raise WireError("not an answer of PCP")
    head = struct.calcsize(_PCP_ANSWER)
    version, operation, _, result, lifetime_s, _, _ = struct.unpack(_PCP_ANSWER, answer[:head])
    if version != _PCP_VERSION or operation != _PCP_MAP | _IS_RESPONSE:
        raise WireError("not an answer to a MAP request")
    theirs, number, _, inner, outer, host = struct.unpack(_PCP_BODY, answer[head:_PCP_BYTES])
    if theirs != nonce or number != _NUMBERS[protocol] or inner != port:
        raise WireError("an answer to somebody else's request")
    if result:
        raise Unwilling(_PCP_RESULTS.get(result, f"error {result}"))
    return Opened(_host_of_16_bytes(host), outer, float(lifetime_s))


# -- NAT-PMP ------------------------------------------------------------------------------------


def pmp_address_request() -> bytes:
    """Return the question for the router's outer address."""
    return bytes(2)


def pmp_request(protocol: Protocol, port: int, outer_port: int, *, lifetime_s: int) -> bytes:
    """Return a request for our port; lifetime 0 closes it again."""
    operation = _PMP_OPERATIONS[protocol]
    return struct.pack(_PMP_MAP, 0, operation, 0, port, outer_port, lifetime_s)


def read_pmp_address(answer: bytes) -> str:
    """Return the router's outer address. Raises Unwilling, WireError."""
    _check_pmp(answer, 0, struct.calcsize(_PMP_ADDRESS))
    *_, packed = struct.unpack(_PMP_ADDRESS, answer[: struct.calcsize(_PMP_ADDRESS)])
    return str(ipaddress.IPv4Address(packed))


def read_pmp(answer: bytes, protocol: Protocol, port: int) -> Opened:
    """Return what was opened, without the address. Raises Unwilling, WireError."""
    size = struct.calcsize(_PMP_MAPPED)
    _check_pmp(answer, _PMP_OPERATIONS[protocol], size)
    *_, inner, outer, lifetime_s = struct.unpack(_PMP_MAPPED, answer[:size])
    if inner != port:
        raise WireError("an answer to somebody else's request")
    return Opened("", outer, float(lifetime_s))


def _check_pmp(answer: bytes, operation: int, size: int) -> None:
    if not 4 <= len(answer) <= ANSWER_LIMIT_BYTES:
        raise WireError("not an answer of NAT-PMP")
    version, said, result = struct.unpack("!BBH", answer[:4])
    if version != 0 or said != operation | _IS_RESPONSE:
        raise WireError("not an answer to what was asked")
    if result:
        raise Unwilling(_PMP_RESULTS.get(result, f"error {result}"))
    if len(answer) < size:
        raise WireError("an answer that is cut short")


# -- addresses ----------------------------------------------------------------------------------


def _as_16_bytes(host: str) -> bytes:
    number = ipaddress.ip_address(host)
    return number.packed if number.version == 6 else bytes(10) + b"\xff\xff" + number.packed


def _host_of_16_bytes(packed: bytes) -> str:
    number = ipaddress.IPv6Address(packed)
    return str(number.ipv4_mapped or number)
