"""Which router stands before us, as the kernel knows it."""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass
from pathlib import Path

ROUTES = Path("/proc/net/route")
_UP_AND_GATEWAY = 0x1 | 0x2


@dataclass(frozen=True, slots=True)
class Gateway:
    """The default router of IPv4, and the address that we have towards it."""

    host: str
    own: str
    interface: str


def default_gateway(routes: Path = ROUTES) -> Gateway | None:
    """Return the router with the best default route; None where there is none to be found.

    Linux only: elsewhere there is no such file, and the answer is None.
    """
    found: list[tuple[int, str, str]] = []
    try:
        lines = routes.read_text(encoding="ascii", errors="replace").splitlines()[1:]
    except OSError:
        return None
    for line in lines:
        fields = line.split()
        if len(fields) < 8 or fields[1] != "00000000" or fields[7] != "00000000":
            continue
        if int(fields[3], 16) & _UP_AND_GATEWAY != _UP_AND_GATEWAY:
            continue
        host = socket.inet_ntoa(struct.pack("=I", int(fields[2], 16)))
        found.append((int(fields[6]), host, fields[0]))
    if not found:
        return None
    _, host, interface = min(found)
    own = own_address_towards(host)
    return None if own is None else Gateway(host, own, interface)


def own_address_towards(host: str) -> str | None:
    """Return the address that packets to a host leave from; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
        try:
            trial.connect((host, 9))
        except OSError:
            return None
        own: str = trial.getsockname()[0]
        return own
