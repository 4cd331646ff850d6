"""Which ports of an owner's machine and neighbourhood others may reach through the node."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from p2prc.errors import PolicyRefuses, SettingInvalid
from p2prc.model.identity import NodeId

Protocol = Literal["tcp", "udp"]
UDP: Protocol = "udp"
THIS_MACHINE = "127.0.0.1"
ENTRIES_LIMIT = 200
_NAME = re.compile(r"[a-z][a-z0-9-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9._-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\]")
_PORTS = re.compile(r"(\d{1,5})(?:-(\d{1,5}))?")
_HINT = "like `8080,9000-9100,printer=192.168.1.9:631`, or `none`"


@dataclass(frozen=True, slots=True)
class ForwardRules:
    """The owner's word. `to` None is every member; `ports` are ranges on this machine's loopback,
    `services` names of addresses, on this machine or in its neighbourhood.
    """

    ports: tuple[tuple[int, int], ...] = ()
    services: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    to: frozenset[NodeId] | None = None
    denied: frozenset[NodeId] = frozenset()

    def address_of(self, service: str, peer: NodeId) -> tuple[str, int]:
        """Return the host and port that a peer may reach by this name or port.

        Raises PolicyRefuses, which tells a peer that may reach nothing no more than that.
        """
        if peer in self.denied or (self.to is not None and peer not in self.to):
            raise PolicyRefuses("this node lets you reach none of its ports")
        if service.isdecimal():
            port = int(service)
            if any(first <= port <= last for first, last in self.ports):
                return THIS_MACHINE, port
        elif service in self.services:
            return self.services[service]
        raise PolicyRefuses(
            f"this node's owner does not let others reach `{service[:80]}`",
            hint="its owner names what may be reached: `p2prc policy set forward.ports ...`",
        )


def parse_forward_ports(
    text: str,
) -> tuple[tuple[tuple[int, int], ...], dict[str, tuple[str, int]]]:
    """Return the ranges and the named addresses that a setting names; raise SettingInvalid."""
    ranges: list[tuple[int, int]] = []
    services: dict[str, tuple[str, int]] = {}
    entries = [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]
    if len(entries) > ENTRIES_LIMIT:
        raise SettingInvalid(f"more than {ENTRIES_LIMIT} ports and services")
    for entry in entries:
        name, has_name, address = entry.partition("=")
        if has_name:
            services[_name(name)] = _address(address, entry)
        else:
            ranges.append(_range(entry))
    return tuple(ranges), services


def parse_port_ranges(text: str) -> tuple[tuple[int, int], ...]:
    """Read `20000-29999,443`, or `none`. Raises SettingInvalid."""
    ranges, services = parse_forward_ports(text)
    if services:
        raise SettingInvalid("ports only, no names", hint="like `20000-29999,443`, or `none`")
    return ranges


def _name(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise SettingInvalid(f"`{name[:80]}` is no name of a service: a-z, 0-9 and -", hint=_HINT)
    return name


def _address(address: str, entry: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    if _HOST.fullmatch(host) is None:
        raise SettingInvalid(f"`{entry[:80]}` names no HOST:PORT", hint=_HINT)
    return host.strip("[]"), _port(port, entry)


def _range(entry: str) -> tuple[int, int]:
    found = _PORTS.fullmatch(entry)
    if found is None:
        raise SettingInvalid(f"`{entry[:80]}` is no port", hint=_HINT)
    first = _port(found[1], entry)
    last = _port(found[2] or found[1], entry)
    if last < first:
        raise SettingInvalid(f"`{entry[:80]}` is upside down", hint=_HINT)
    return first, last


def _port(text: str, entry: str) -> int:
    if not text.isdecimal() or len(text) > 5 or not 1 <= int(text) <= 65535:
        raise SettingInvalid(f"`{entry[:80]}`: a port is 1 to 65535", hint=_HINT)
    return int(text)
