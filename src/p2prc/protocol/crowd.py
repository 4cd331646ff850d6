"""Strangers that are counted together, because they may well be one."""

from __future__ import annotations

import ipaddress
from functools import lru_cache

_KNOWN = 1024
_SUBSCRIBER_BITS = 64
"""Every subscriber is given at least so large a network of IPv6 (RFC 6177, RFC 7421)."""


@lru_cache(_KNOWN)
def crowd_of(host: str) -> str:
    """Return the host, for IPv6 its network of 64 bits, "unknown" for none."""
    try:
        number = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host or "unknown"
    if isinstance(number, ipaddress.IPv4Address):
        return str(number)
    if number.ipv4_mapped is not None:
        return str(number.ipv4_mapped)
    return str(ipaddress.ip_network((number, _SUBSCRIBER_BITS), strict=False))
