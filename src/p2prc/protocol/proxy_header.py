"""The PROXY protocol, version 2: tells a service who is behind a connection that we made for them.

As HAProxy's `doc/proxy-protocol.txt` has it: a signature, what follows, and two addresses.
"""

from __future__ import annotations

import ipaddress
import struct

from p2prc.protocol.reachability_events import split

_SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
_LOCAL, _PROXY = 0x20, 0x21
_UNKNOWN, _TCP4, _TCP6 = 0x00, 0x11, 0x21


def proxy_header(client: str, port: int) -> bytes:
    """Return what precedes a connection of TCP that `client` made to our public `port`.

    `client` is `ADDRESS:PORT` in a gateway's words. What is no such thing is told as nobody: the
    service then takes the connection as ours. The address that was dialled is not known here, and
    told as all zeros.
    """
    if (found := split(client)) is None:
        return _SIGNATURE + struct.pack("!BBH", _LOCAL, _UNKNOWN, 0)
    source = ipaddress.ip_address(found[0])
    family = _TCP4 if source.version == 4 else _TCP6
    addresses = source.packed + bytes(len(source.packed)) + struct.pack("!HH", found[1], port)
    return _SIGNATURE + struct.pack("!BBH", _PROXY, family, len(addresses)) + addresses
