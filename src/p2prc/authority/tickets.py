"""Tickets as text: one word that a double-click selects, signed by its issuer.

The text is `p2prc`, one character of version, and base32 in lower case (upper case is read too,
so that a QR code can use its denser alphabet): what the ticket says, its issuer's signature, and
the opener, a secret to which the signed part commits. A cut or changed ticket fails one of these,
so there is no checksum beside them.

A relay that a newcomer needs before it can speak to a member in private is shown the first two
alone (`shown_half`): they say that there is such a ticket, and whoever listens on the way cannot
join with them.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator

import msgspec
from blake3 import blake3

from p2prc.authority.chains import Member, Rights
from p2prc.authority.ticket_bytes import pack_ticket, unpack_ticket
from p2prc.errors import (
    NotMember,
    RightMissing,
    SettingInvalid,
    TicketExpired,
    TicketForeign,
    TicketInvalid,
    TicketVersionUnsupported,
    WireError,
)
from p2prc.model.identity import NodeId
from p2prc.model.ticket import (
    COMMITMENT_BYTES,
    OPENER_BYTES,
    TICKET_LIMIT_CHARACTERS,
    Bootstrap,
    Ticket,
)
from p2prc.wire.signed import SIGNATURE_BYTES, Envelope, public_key_of, sign, verify

SHOWN_PREFIX = "shown"
"""How the half begins that relays are shown: like no ticket and no chain."""

_PREFIX = "p2prc"
_VERSION = "2"
_PURPOSE = "p2prc ticket 2"
_OPENER_CONTEXT = "p2prc ticket opener 2"


def commitment_to(opener: bytes) -> bytes:
    """Return what a ticket says of its opener."""
    return blake3(opener, derive_key_context=_OPENER_CONTEXT).digest(COMMITMENT_BYTES)


def write_ticket(ticket: Ticket, *, secret: bytes, opener: bytes) -> str:
    """Return the ticket as one word of at most 512 characters, signed by its issuer.

    Where not everything fits, further admins go first, then addresses: `read_ticket` tells what
    stayed. Raises SettingInvalid when not even the shortest form fits, a field is malformed, or
    the ticket commits to another opener.
    """
    if len(opener) != OPENER_BYTES or commitment_to(opener) != ticket.commitment:
        raise SettingInvalid("the ticket commits to another opener")
    if public_key_of(secret).hex() != ticket.issuer:
        raise SettingInvalid("a ticket can only be signed by its issuer")
    try:
        ticket = msgspec.convert(msgspec.to_builtins(ticket), Ticket)
    except msgspec.ValidationError as error:
        raise SettingInvalid(f"the ticket cannot be written: {error}") from error
    for candidate in _shorter_and_shorter(ticket):
        payload = pack_ticket(candidate)
        body = payload + sign(secret, _PURPOSE, payload).signature + opener
        text = _PREFIX + _VERSION + _to_base32(body)
        if len(text) <= TICKET_LIMIT_CHARACTERS:
            return text
    raise SettingInvalid("the addresses are too long for a ticket")


def read_ticket(text: str) -> Ticket:
    """Return what the ticket says, when its issuer signed exactly that.

    Raises TicketInvalid or TicketVersionUnsupported. Says nothing about the issuer's rights:
    that is `check_ticket`'s, and only a member can know.
    """
    if len(text) > 4 * TICKET_LIMIT_CHARACTERS:
        raise TicketInvalid("the ticket is too long")
    word = _word(text)
    if not word.isascii() or not word.isalnum() or not word.startswith(_PREFIX):
        raise TicketInvalid(f"this is not a ticket: one starts with `{_PREFIX}`")
    version, body_text = word[len(_PREFIX) : len(_PREFIX) + 1], word[len(_PREFIX) + 1 :]
    if not version:
        raise TicketInvalid("the ticket is cut short")
    if version != _VERSION:
        raise TicketVersionUnsupported(f"a ticket of version {version}, this is {_VERSION}")
    if len(word) > TICKET_LIMIT_CHARACTERS:
        raise TicketInvalid("the ticket is too long")
    body = _from_base32(body_text)
    signed, opener = body[:-OPENER_BYTES], body[-OPENER_BYTES:]
    ticket = _read_signed(signed)
    if commitment_to(opener) != ticket.commitment:
        raise TicketInvalid("the ticket is cut short or was changed")
    return ticket


def shown_half(text: str) -> str:
    """Return what of a ticket relays may see: with it nobody can join. Raises like read_ticket."""
    read_ticket(text)
    body = _from_base32(_word(text)[len(_PREFIX + _VERSION) :])
    return SHOWN_PREFIX + _VERSION + _to_base32(body[:-OPENER_BYTES])


def read_shown_half(text: str) -> Ticket:
    """Return what a ticket says of which we are shown the half.

    Raises TicketInvalid or TicketVersionUnsupported. Who shows it need not be able to join by it.
    """
    head = SHOWN_PREFIX + _VERSION
    if len(text) > TICKET_LIMIT_CHARACTERS or not text.startswith(SHOWN_PREFIX):
        raise TicketInvalid("this is not the half of a ticket that relays are shown")
    if not text.startswith(head):
        raise TicketVersionUnsupported(f"half a ticket of another version, this is {_VERSION}")
    return _read_signed(_from_base32(text[len(head) :]))


def _read_signed(signed: bytes) -> Ticket:
    payload, signature = signed[:-SIGNATURE_BYTES], signed[-SIGNATURE_BYTES:]
    ticket = unpack_ticket(payload)
    try:
        verify(Envelope(bytes.fromhex(ticket.issuer), payload, signature), _PURPOSE)
    except WireError as error:
        raise TicketInvalid("the ticket is cut short or was changed") from error
    return ticket


def _word(text: str) -> str:
    # Terminals and mail programs break long lines.
    return "".join(text.split()).lower()


def check_fresh(ticket: Ticket, *, now: float) -> None:
    """Raise TicketExpired unless the ticket is still good; `now` is in unix seconds."""
    if now >= ticket.expires_at:
        raise TicketExpired


def check_ticket(ticket: Ticket, *, network: NodeId, issuer: Member | None, now: float) -> Rights:
    """Return what its bearer is to be given, as the member that was reached sees it.

    `issuer` is what that member knows of the ticket's issuer, from the issuer's own chain.
    """
    if ticket.network != network:
        raise TicketForeign
    check_fresh(ticket, now=now)
    if issuer is None or issuer.node != ticket.issuer:
        raise NotMember("the ticket's issuer is not known here as a member")
    # `invite` is the only right there is: who has it has all that a ticket can give.
    if not issuer.rights.may_invite:
        raise RightMissing("the ticket's issuer may not invite")
    return Rights(may_invite=ticket.may_invite)


def _shorter_and_shorter(ticket: Ticket) -> Iterator[Ticket]:
    """Yield the ticket, then the same with ever less of what a newcomer can do without."""
    yield ticket
    one_address_each = tuple(
        Bootstrap(node=admin.node, addresses=admin.addresses[:1]) for admin in ticket.admins
    )
    for count in range(len(ticket.admins), -1, -1):
        yield msgspec.structs.replace(ticket, admins=one_address_each[:count])
    for addresses in range(len(ticket.addresses), 0, -1):
        for relays in range(len(ticket.relays), -1, -1):
            yield msgspec.structs.replace(
                ticket,
                admins=(),
                addresses=ticket.addresses[:addresses],
                relays=ticket.relays[:relays],
            )


def _to_base32(body: bytes) -> str:
    return base64.b32encode(body).decode().rstrip("=").lower()


def _from_base32(text: str) -> bytes:
    """Return the bytes; there is one text for them, so a changed last letter is seen too."""
    try:
        body = base64.b32decode(text.upper() + "=" * (-len(text) % 8))
    except ValueError as error:
        raise TicketInvalid("the ticket is cut short or was changed") from error
    if _to_base32(body) != text:
        raise TicketInvalid("the ticket is cut short or was changed")
    return body
