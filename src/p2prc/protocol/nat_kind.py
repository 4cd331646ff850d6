"""What kind of NAT is between us and the others, from what peers see of us.

When peers at different addresses see different ports of one address of ours, the NAT is symmetric,
and what they see is of no use to anybody else (RFC 4787: address-dependent mapping); when two see
the same, it is a cone. Where one peer alone sees us, it looks from a second port of its own as
well: most NATs that map by address map by port, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2prc.protocol.diagnosis import NatKind
from p2prc.protocol.reachability_events import host_of, is_outside, split


@dataclass(frozen=True, slots=True)
class Sighting:
    """What one peer sees of us: texts of addresses, "" where there is nothing.

    `address` is where it sees us, `remote` where it is itself, and `beside` where it sees us from
    a second port.
    """

    address: str
    remote: str
    beside: str = ""


def kind_of(sightings: Sequence[Sighting], local: Sequence[str]) -> NatKind:
    """Return the kind; of the two families of addresses that of IPv4, where it is known."""
    kinds = [_kind_of_family(sightings, local, is_six=is_six) for is_six in (False, True)]
    return next((kind for kind in kinds if kind != "unknown"), "unknown")


def kind_at(host: str, sightings: Sequence[Sighting]) -> NatKind:
    """Compare what peers at different addresses see of us at one host."""
    seen: dict[int, set[str]] = {}
    for each in sightings:
        found = split(each.address)
        if found is not None and found[0] == host and each.remote:
            seen.setdefault(found[1], set()).add(host_of(each.remote))
    if len(set().union(*seen.values())) < 2:
        return _kind_by_one(host, sightings)
    return "cone" if any(len(each) > 1 for each in seen.values()) else "symmetric"


def _kind_of_family(
    sightings: Sequence[Sighting], local: Sequence[str], *, is_six: bool
) -> NatKind:
    own = {host_of(each) for each in local}
    seen = (host_of(each.address) for each in sightings)
    hosts = sorted({host for host in seen if host and (":" in host) == is_six})
    if any(host in own and is_outside(host) for host in hosts):
        return "none"
    kinds = [kind_at(host, sightings) for host in hosts if host not in own]
    if "symmetric" in kinds:
        return "symmetric"
    return "cone" if "cone" in kinds else "unknown"


def _kind_by_one(host: str, sightings: Sequence[Sighting]) -> NatKind:
    """Compare what one peer sees of us at one host from its two ports."""
    for each in sightings:
        if host_of(each.address) == host and each.remote and each.beside:
            return "cone" if each.beside == each.address else "symmetric"
    return "unknown"
