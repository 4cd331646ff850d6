"""Try the rules of `bridge` for real: from a network like a lease's, with an internet of our own.

Nothing of it leaves the machine, apart from a few packets that the rules have to refuse.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from functools import partial

from p2prc.egress.host_tools import (
    ToolFailed,
    configure_far,
    make_pair,
    refused_packets,
    remove_interface,
)
from p2prc.egress.namespaces import inside, new_network
from p2prc.protocol.bridge import OUTSIDE, OUTSIDE_NEAR, PROBE_SLOT, BridgeNames, refused_samples
from p2prc.protocol.egress import Network

_CONNECT_S = 0.5
_REACH_S = 3.0
"""Longer, for what has to succeed on a busy machine too."""
_GROUP = "224.0.0.251"
_SETTLE_S = 0.05


def trouble_with(names: BridgeNames, own: Sequence[Network]) -> str:
    """Return why the rules in force cannot be relied upon here, "" when all is as it should be."""
    try:
        with _stage(names) as (tenant, outside):
            return _forwards(tenant, outside) or _keeps_in(names, tenant, own)
    except OSError as error:
        return f"its trial failed: {error.strerror or error}"


@contextlib.contextmanager
def _stage(names: BridgeNames) -> Iterator[tuple[int, int]]:
    """Set up a tenant and an internet, with the machine between them."""
    handles: list[int] = []
    near = names.near(PROBE_SLOT)
    try:
        for name, here, there in (
            (names.interface(PROBE_SLOT), near, names.far(PROBE_SLOT)),
            (names.outside, OUTSIDE_NEAR, OUTSIDE),
        ):
            handles.append(new_network())
            make_pair(name, handles[-1], near=str(here))
            inside(handles[-1], partial(configure_far, near=str(here), far=str(there)))
        yield handles[0], handles[1]
    finally:
        for name in (names.interface(PROBE_SLOT), names.outside):
            with contextlib.suppress(ToolFailed):
                remove_interface(name)
        for handle in handles:
            os.close(handle)


def _forwards(tenant: int, outside: int) -> str:
    with inside(outside, lambda: _listen(socket.AF_INET, str(OUTSIDE))) as listener:
        port = listener.getsockname()[1]
        if inside(tenant, lambda: _connects(str(OUTSIDE), port, _REACH_S)):
            return ""
    return "this machine's own firewall lets nothing through to the internet"


def _keeps_in(names: BridgeNames, tenant: int, own: Sequence[Network]) -> str:
    with contextlib.ExitStack() as stack:
        listeners = [stack.enter_context(_listen(socket.AF_INET, "0.0.0.0"))]  # noqa: S104
        with contextlib.suppress(OSError):
            listeners.append(stack.enter_context(_listen(socket.AF_INET6, "::")))
        ports = {each.family: each.getsockname()[1] for each in listeners}
        hosts = {str(each[0]) for each in own if each.num_addresses == 1}
        hosts |= {str(names.near(PROBE_SLOT)), "127.0.0.1", "::1"}
        for host in sorted(hosts):
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            if family in ports and inside(tenant, partial(_connects, host, ports[family])):
                return "this machine itself could be reached from such a place"
        if _hears_multicast(names, tenant):
            return "multicast reaches this machine from such a place"
    for address in refused_samples(own):
        before = refused_packets(names.table)
        if inside(tenant, partial(_connects, address, 80)):
            return "the local network could be reached from such a place"
        if refused_packets(names.table) <= before:
            return f"{address} is not refused by the rules, as it has to be"
    return ""


def _listen(family: int, host: str) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind((host, 0))
        listener.listen(8)
    except BaseException:
        listener.close()
        raise
    return listener


def _connects(host: str, port: int, within_s: float = _CONNECT_S) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trying:
        trying.settimeout(within_s)
        try:
            trying.connect((host, port))
        except OSError:
            return False
        return True


def _hears_multicast(names: BridgeNames, tenant: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as hearing:
        hearing.bind((_GROUP, 0))
        port = hearing.getsockname()[1]
        near = names.near(PROBE_SLOT).packed
        member = struct.pack("4s4s", socket.inet_aton(_GROUP), near)
        hearing.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        hearing.setblocking(False)

        def call() -> None:
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as calling,
                contextlib.suppress(OSError),
            ):
                calling.sendto(b"?", (_GROUP, port))

        inside(tenant, call)
        time.sleep(_SETTLE_S)
        try:
            hearing.recv(1)
        except BlockingIOError:
            return False
        return True
