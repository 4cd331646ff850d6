"""From where our addresses can be used, as far as the addresses alone tell."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_address

from p2prc.model.ticket import Reach


def reach_of(addresses: Sequence[str], *, is_lan: bool) -> Reach:
    """Return `internet` when some address is public and the ticket is not meant for the LAN."""
    if is_lan:
        return "lan"
    return "internet" if any(map(_is_public, addresses)) else "lan"


def _is_public(address: str) -> bool:
    host = address.rpartition(":")[0].strip("[]")
    try:
        return ip_address(host).is_global
    except ValueError:
        # A name was given by hand with `--public`: its owner means it to be reached.
        return bool(host)
