"""Tickets: bearer invitations, looked at only when somebody joins.

What a ticket says; how it is written, signed and checked is `authority`'s. Its expiry limits
joining, never membership.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2prc.model.identity import NodeId, NodeIdField

TICKET_LIMIT_CHARACTERS = 512
RELAYS_IN_TICKET = 2
OPENER_BYTES = 16
COMMITMENT_BYTES = 16

Reach = Literal["internet", "relay", "lan"]
Address = Annotated[str, Meta(min_length=1, max_length=200, pattern=r"^[!-~]+$(?!\n)")]
"""`host:port`, or a relay's URL: printable, without spaces."""


class Bootstrap(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A member that a newcomer can knock at, and where."""

    node: NodeIdField
    addresses: Annotated[tuple[Address, ...], Meta(max_length=2)] = ()


class Ticket(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An invitation into `network`, made by `issuer`, who is reached at `addresses`.

    `admins` are further members that may admit, for when the issuer is away. `expires_at` is in
    unix seconds. `reach` says from where the addresses can be used. `commitment` is to the opener
    (`authority.commitment_to`), which stands beside all this in a ticket's text and nowhere else:
    who knows the rest alone cannot join.
    """

    network: NodeIdField
    issuer: NodeIdField
    expires_at: Annotated[int, Meta(ge=0, lt=1 << 40)]
    commitment: Annotated[bytes, Meta(min_length=COMMITMENT_BYTES, max_length=COMMITMENT_BYTES)]
    addresses: Annotated[tuple[Address, ...], Meta(max_length=4)] = ()
    relays: Annotated[tuple[Address, ...], Meta(max_length=RELAYS_IN_TICKET)] = ()
    admins: Annotated[tuple[Bootstrap, ...], Meta(max_length=2)] = ()
    may_invite: bool = False
    reach: Reach = "internet"

    @property
    def bootstraps(self) -> tuple[tuple[NodeId, tuple[str, ...]], ...]:
        """Everybody to knock at, the issuer first."""
        others = tuple((admin.node, admin.addresses) for admin in self.admins)
        return ((self.issuer, self.addresses), *others)
