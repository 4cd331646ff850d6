"""The inside of a ticket, packed by hand: 512 characters are 316 bytes, and keys take most.

Two bytes of flags and counts, the network (left out when the issuer is its founder), the issuer,
expiry and commitment, then addresses. An address is one byte of form and 6 bytes (IPv4), 18 (IPv6)
or text; a relay's `https://` is left out.
"""

from __future__ import annotations

import ipaddress
from typing import get_args

import msgspec

from p2prc.errors import TicketInvalid
from p2prc.model.identity import NodeId
from p2prc.model.ticket import COMMITMENT_BYTES, Bootstrap, Reach, Ticket

_REACHES: tuple[Reach, ...] = get_args(Reach)
_KEY_BYTES = 32
_EXPIRY_BYTES = 5
_FORM_IPV4, _FORM_IPV6, _FORM_TEXT = 0, 1, 2
_FOUNDER_BIT = 0x80
_SECURE = "https://"
# Built now: the first ticket that is read need not wait for it.
_tickets = msgspec.msgpack.Decoder(Ticket)


def pack_ticket(ticket: Ticket) -> bytes:
    """Return the bytes that the issuer signs."""
    is_founder = ticket.issuer == ticket.network
    flags = (
        ticket.may_invite
        | _REACHES.index(ticket.reach) << 1
        | is_founder << 3
        | len(ticket.addresses) << 4
        | len(ticket.relays) << 7
        | len(ticket.admins) << 9
    )
    parts = [flags.to_bytes(2, "big")]
    if not is_founder:
        parts.append(bytes.fromhex(ticket.network))
    parts += [
        bytes.fromhex(ticket.issuer),
        ticket.expires_at.to_bytes(_EXPIRY_BYTES, "big"),
        ticket.commitment,
        *map(_pack_address, ticket.addresses),
        *(_pack_text(relay.removeprefix(_SECURE)) for relay in ticket.relays),
        *(_pack_admin(admin, ticket.network) for admin in ticket.admins),
    ]
    return b"".join(parts)


def unpack_ticket(payload: bytes) -> Ticket:
    """Return the ticket; raise TicketInvalid for anything that `pack_ticket` would not write."""
    reader = _Reader(payload)
    flags = reader.number(2)
    is_founder = bool(flags >> 3 & 1)
    network = None if is_founder else reader.node()
    issuer = reader.node()
    fields = {
        "network": network or issuer,
        "issuer": issuer,
        "expires_at": reader.number(_EXPIRY_BYTES),
        "commitment": reader.take(COMMITMENT_BYTES),
        "addresses": tuple(reader.address() for _ in range(flags >> 4 & 7)),
        "relays": tuple(reader.relay() for _ in range(flags >> 7 & 3)),
        "admins": tuple(reader.admin(network or issuer) for _ in range(flags >> 9 & 3)),
        "may_invite": bool(flags & 1),
        "reach": _REACHES[min(flags >> 1 & 3, len(_REACHES) - 1)],
    }
    try:
        ticket = msgspec.convert(fields, Ticket)
    except msgspec.ValidationError as error:
        raise TicketInvalid("the ticket is cut short or was changed") from error
    if pack_ticket(ticket) != payload:
        raise TicketInvalid("the ticket is cut short or was changed")
    return ticket


def _pack_admin(admin: Bootstrap, network: NodeId) -> bytes:
    # The founder is often an admin, and its key is there already: it is the network's name.
    is_founder = admin.node == network
    head = bytes([len(admin.addresses) | (_FOUNDER_BIT if is_founder else 0)])
    key = b"" if is_founder else bytes.fromhex(admin.node)
    return head + key + b"".join(map(_pack_address, admin.addresses))


def _pack_address(address: str) -> bytes:
    """Return the short form of a numeric address that reads the same when unpacked."""
    host, _, port = address.rpartition(":")
    try:
        number = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
        packed = number.packed + int(port).to_bytes(2, "big")
    except (ValueError, OverflowError):
        return _pack_text(address)
    form = _FORM_IPV4 if number.version == 4 else _FORM_IPV6
    if _numeric_address(packed) != address:
        return _pack_text(address)
    return bytes([form]) + packed


def _numeric_address(packed: bytes) -> str:
    number = ipaddress.ip_address(packed[:-2])
    host = f"[{number}]" if number.version == 6 else str(number)
    return f"{host}:{int.from_bytes(packed[-2:], 'big')}"


def _pack_text(text: str) -> bytes:
    return bytes([_FORM_TEXT + len(text)]) + text.encode("ascii")


class _Reader:
    """Takes fields off the front; a ticket that ends too early is cut short."""

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self._at = 0

    def take(self, size_bytes: int) -> bytes:
        piece = self._payload[self._at : self._at + size_bytes]
        self._at += size_bytes
        if len(piece) != size_bytes:
            raise TicketInvalid("the ticket is cut short")
        return piece

    def number(self, size_bytes: int) -> int:
        return int.from_bytes(self.take(size_bytes), "big")

    def node(self) -> NodeId:
        return NodeId(self.take(_KEY_BYTES).hex())

    def address(self) -> str:
        form = self.number(1)
        if form == _FORM_IPV4:
            return _numeric_address(self.take(6))
        if form == _FORM_IPV6:
            return _numeric_address(self.take(18))
        return self._text(form - _FORM_TEXT)

    def relay(self) -> str:
        text = self._text(self.number(1) - _FORM_TEXT)
        return text if "://" in text else _SECURE + text

    def admin(self, network: NodeId) -> Bootstrap:
        head = self.number(1)
        node = network if head & _FOUNDER_BIT else self.node()
        count = head & ~_FOUNDER_BIT
        return Bootstrap(node=node, addresses=tuple(self.address() for _ in range(count)))

    def _text(self, size_bytes: int) -> str:
        try:
            return self.take(max(0, size_bytes)).decode("ascii")
        except UnicodeDecodeError as error:
            raise TicketInvalid("the ticket is cut short or was changed") from error
