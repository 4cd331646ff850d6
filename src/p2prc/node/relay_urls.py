"""How relays are named: in a node's record, and in a ticket."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

from p2prc.model.record import NodeRecord
from p2prc.model.ticket import Ticket
from p2prc.protocol.reachability_events import host_of
from p2prc.transport.port import RelayAccess

MEMBER_SCHEME = "p2prc://"
"""In a ticket, a relay that a member serves: to it alone half the ticket is shown."""


def in_ticket(url: str, *, is_member: bool) -> str:
    """Return how a ticket names a relay."""
    if not is_member:
        return url
    return MEMBER_SCHEME + url.removeprefix("http://").rstrip("/")


def own_in_ticket(address: str) -> str:
    """Return how our ticket names the relay that we serve at an address."""
    return MEMBER_SCHEME + address


def from_ticket(ticket: Ticket, bearer: str) -> tuple[RelayAccess, ...]:
    """Return the ticket's relays; the bearer is for those that members serve."""
    found = []
    for relay in ticket.relays:
        if relay.startswith(MEMBER_SCHEME):
            url = f"http://{relay.removeprefix(MEMBER_SCHEME)}/"
            found.append(RelayAccess(url, bearer))
        else:
            found.append(RelayAccess(relay))
    return tuple(found)


def served_by(record: NodeRecord) -> list[str]:
    """Return where the relay is that a public node serves: at its own addresses, or nowhere."""
    found = []
    for url in record.relays:
        try:
            parts = urlsplit(url)
            host = parts.hostname or ""
        except ValueError:
            continue
        if not leads_away(url):
            continue
        if parts.scheme == "http" and host in {_bare_host(each) for each in record.addresses}:
            found.append(url)
    return found


def leads_away(url: str) -> bool:
    """Whether another's relay may be at this URL: at each reader's own machine it is none.

    There it would be nearest to everybody, and through it nobody is reached.
    """
    try:
        host = (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return False
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # `127.1` is a number too, as resolvers read it.
        is_number = host.rpartition(".")[2][:1].isdigit()
        return bool(host) and not is_number and host.rpartition(".")[2] != "localhost"
    if isinstance(number, ipaddress.IPv6Address) and number.ipv4_mapped is not None:
        number = number.ipv4_mapped
    return not (
        number.is_loopback or number.is_unspecified or number.is_link_local or number.is_multicast
    )


def _bare_host(address: str) -> str:
    return host_of(address) or address.rpartition(":")[0].lower()


def served_url(address: str) -> str:
    """Return the URL of the relay that a node serves at its public address."""
    return f"http://{address}/"
