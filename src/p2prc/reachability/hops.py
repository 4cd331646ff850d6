"""Who stands behind our router: the second hop on the way out, learned as `traceroute` does.

One packet whose life ends at the second router (RFC 1122, 3.2.2.4). Linux hands its complaint to
an ordinary socket (IP_RECVERR), so this needs no privileges; elsewhere nothing is learned.
"""

from __future__ import annotations

import asyncio
import socket
import sys

NOBODY = ("192.0.2.1", 33434)
"""An address that is nobody's (RFC 5737): the packet dies long before."""
WAIT_S = 1.0
_POLL_S = 0.05
_IP_RECVERR = 11
_ERROR_BYTES = 16
"""struct sock_extended_err; after it stands the address of who complained."""


async def second_hop(own: str) -> str:
    """Return the address of the router behind ours, "" when it keeps silent."""
    if sys.platform != "linux":
        return ""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setblocking(False)
        try:
            probe.bind((own, 0))
            probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, 2)
            probe.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            probe.sendto(b"p2prc", NOBODY)
        except OSError:
            return ""
        until = asyncio.get_running_loop().time() + WAIT_S
        while asyncio.get_running_loop().time() < until:
            # The error queue wakes no selector of asyncio.
            await asyncio.sleep(_POLL_S)
            if host := _complainer(probe):
                return host
    return ""


def _complainer(probe: socket.socket) -> str:
    try:
        _, told, _, _ = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)
    except OSError:
        return ""
    for level, kind, content in told:
        if level == socket.IPPROTO_IP and kind == _IP_RECVERR and len(content) >= _ERROR_BYTES + 8:
            return socket.inet_ntoa(content[_ERROR_BYTES + 4 : _ERROR_BYTES + 8])
    return ""
