"""What the control API asks about ports brought here, and those shown to others."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Awaitable, Callable

from p2prc.api import tunnel_schema as schema
from p2prc.daemon.rows import instant
from p2prc.errors import InvalidInput, LeaseUnknown, NodeUnknown, NotFound
from p2prc.model.identity import LeaseId, NodeId
from p2prc.node.containers import Held
from p2prc.node.exposures import Exposed, Exposure
from p2prc.node.forwards import Running
from p2prc.node.gateway import Lent
from p2prc.node.node import Node
from p2prc.protocol.domains import read_domain
from p2prc.protocol.forwarding import THIS_MACHINE, UDP
from p2prc.protocol.gateways import Granted

_LOCAL_HINT = "LOCAL is a port, HOST:PORT, or the path of a Unix socket"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
Find = Callable[[str], Awaitable[NodeId]]


class TunnelDesk:
    """Answers for this node's tunnels."""

    def __init__(self, node: Node, find_node: Find, find_held: Callable[[str], Held]) -> None:
        self._node = node
        self._find_held = find_held
        self._find_node = find_node

    async def forward(self, request: schema.ForwardRequest) -> schema.TunnelRow:
        """Listen here for a port of a container or of a node."""
        local = _local(request.local)
        node, lease = await self._target(request.target)
        if lease is not None:
            _check_inside(request)
        running = await self._node.forwards.add(
            node, lease, request.remote, request.protocol, local
        )
        return self._row(running)

    async def expose(self, request: schema.ExposeRequest) -> schema.TunnelRow:
        """Get a public port for one of this machine, of a node, or of a container."""
        node, lease = (None, None) if not request.of else await self._target(request.of)
        if node is None or lease is not None:
            _check_port(request.service, request.protocol, is_inside=lease is not None)
        if request.name and _NAME.fullmatch(request.name) is None:
            raise InvalidInput(
                f"`{request.name}` is no name of a tunnel", hint="letters, digits, `.`, `_`, `-`"
            )
        domain = read_domain(request.domain) if request.domain else ""
        _check_domain(request)
        via = await self._find_node(request.via) if request.via else None
        now = time.time()
        exposure = Exposure(
            id="",
            gateway=self._node.id,
            service=request.service,
            protocol=request.protocol,
            created_at=now,
            name=request.name,
            node=node,
            lease=lease,
            wanted_port=request.public_port,
            expires_at=None if request.lifetime_s is None else now + request.lifetime_s,
            follows=request.follow,
            domain=domain,
            is_tls=request.tls,
            tells_client=request.proxy_protocol,
        )
        return self._exposed_row(await self._node.exposures.add(exposure, via))

    async def rows(self) -> list[schema.TunnelRow]:
        return [
            *(self._row(each) for each in self._node.forwards.all()),
            *(self._exposed_row(each) for each in self._node.exposures.all()),
            *(self._lent_row(each) for each in self._node.gateway.all()),
        ]

    async def end(self, request: schema.EndTunnelRequest) -> schema.TunnelRow:
        """End one by its id, or the beginning of one; an exposure by its name too."""
        typed = request.id
        found = [row for row in await self.rows() if row.id.startswith(typed) or row.name == typed]
        if len(found) != 1:
            raise NotFound(f"no tunnel has the id `{typed}`", hint="see `p2prc tunnels`")
        match found[0].kind:
            case "forward":
                await self._node.forwards.end(found[0].id)
            case "expose":
                await self._node.exposures.end(found[0].id)
            case "lent":
                await self._node.gateway.end(NodeId(found[0].node), found[0].id)
        return found[0]

    async def _target(self, typed: str) -> tuple[NodeId, LeaseId | None]:
        try:
            held = self._find_held(typed)
        except LeaseUnknown as no_lease:
            try:
                return await self._find_node(typed), None
            except NodeUnknown as error:
                guessed = error.hint.partition("see ")[0] or no_lease.hint.partition("see ")[0]
                raise NodeUnknown(
                    f"no node and no container is called `{typed[:80]}`",
                    hint=f"{guessed}see `p2prc nodes` and `p2prc ps`",
                ) from error
        return held.node, held.lease

    def _exposed_row(self, exposed: Exposed) -> schema.TunnelRow:
        exposure = exposed.exposure
        local = exposure.service if exposure.node else f"{THIS_MACHINE}:{exposure.service}"
        return schema.TunnelRow(
            id=exposure.id,
            kind="expose",
            protocol=exposure.protocol,
            local=local,
            remote=_public(exposure),
            node=exposure.gateway,
            node_name=self._node.name_of(exposure.gateway),
            lease=exposure.lease or "",
            bytes_in=exposed.traffic.read_bytes,
            bytes_out=exposed.traffic.written_bytes,
            connections=exposed.connections,
            created_at=instant(exposure.created_at),
            trouble=exposed.trouble,
            name=exposure.name,
            of=exposure.node or "",
            expires_at=_instant_or_none(exposure.expires_at),
            follow=exposure.follows,
            domain=exposure.domain,
            certificate_expires_at=_instant_or_none(exposure.certificate_ends_at),
        )

    def _lent_row(self, lent: Lent) -> schema.TunnelRow:
        granted = lent.granted
        return schema.TunnelRow(
            id=granted.id,
            kind="lent",
            protocol=granted.protocol,
            local=granted.domain or f":{granted.port}",
            remote="",
            node=granted.owner,
            node_name=self._node.name_of(granted.owner),
            bytes_in=lent.traffic.read_bytes,
            bytes_out=lent.traffic.written_bytes,
            connections=lent.connections,
            created_at=instant(granted.created_at),
            trouble=lent.trouble,
            expires_at=_instant_or_none(granted.expires_at),
            domain=granted.domain,
            certificate_expires_at=_instant_or_none(self._certificate_ends_at(granted)),
        )

    def _certificate_ends_at(self, granted: Granted) -> float | None:
        certificates = self._node.domain_door.certificates
        is_here = bool(granted.domain) and not granted.is_tls
        found = certificates.find(granted.domain) if is_here else None
        return None if found is None else found.ends_at

    def _row(self, running: Running) -> schema.TunnelRow:
        forward = running.forward
        names = {view.record.node: view.record.name for view in self._node.network.nodes()}
        return schema.TunnelRow(
            id=forward.id,
            kind="forward",
            protocol=forward.protocol,
            local=forward.local,
            remote=forward.service,
            node=forward.node,
            node_name=names.get(forward.node, ""),
            lease=forward.lease or "",
            bytes_in=running.traffic.read_bytes,
            bytes_out=running.traffic.written_bytes,
            connections=running.connections,
            created_at=instant(forward.created_at),
            trouble=running.trouble,
        )


def _public(exposure: Exposure) -> str:
    """Return the public address: a host that others know is better than one of a LAN."""
    if exposure.domain:
        scheme, usual = ("https", 443) if exposure.is_secured else ("http", 80)
        port = "" if exposure.port == usual else f":{exposure.port}"
        return f"{scheme}://{exposure.domain}{port}"
    host = next(iter(exposure.hosts), "")
    return f"{host}:{exposure.port}"


def _instant_or_none(at: float | None) -> str | None:
    return None if at is None else instant(at)


def _check_domain(request: schema.ExposeRequest) -> None:
    if request.tls and not request.domain:
        raise InvalidInput("TLS is told apart by a domain", hint="add `--domain DOMAIN`")
    if request.domain and (request.protocol == UDP or request.public_port):
        raise InvalidInput(
            "a domain is asked for at the gateway's own ports, by HTTP or TLS",
            hint="leave out `--udp` and `--public`",
        )
    if request.proxy_protocol and request.protocol == UDP:
        raise InvalidInput("the PROXY protocol precedes connections, not datagrams")
    if request.proxy_protocol and request.domain and not request.tls:
        raise InvalidInput(
            "requests of HTTP tell whose they are in `X-Forwarded-For`",
            hint="leave out `--proxy-protocol`",
        )


def _check_port(service: str, protocol: str, *, is_inside: bool) -> None:
    if is_inside and protocol == UDP:
        raise InvalidInput("ports of containers are TCP here; UDP goes to ports of nodes")
    if not (service.isascii() and service.isdecimal()) or not 1 <= int(service) <= 65535:
        raise InvalidInput(f"`{service}` is no port", hint="from 1 to 65535")


def _check_inside(request: schema.ForwardRequest) -> None:
    if request.protocol == UDP:
        raise InvalidInput("ports of containers are TCP here; UDP goes to ports of nodes")
    if not request.remote.isdecimal() or not 1 <= int(request.remote) <= 65535:
        raise InvalidInput(
            f"`{request.remote}` is no port of a container: names are of nodes' services"
        )


def _local(text: str) -> str:
    """Return HOST:PORT, a path, or nothing. Raises InvalidInput."""
    if not text or "/" in text:
        if text and not os.path.isabs(text):  # noqa: PTH117 - a word, not a file yet
            raise InvalidInput(f"`{text[:80]}` is no absolute path", hint=_LOCAL_HINT)
        return text
    host, has_host, port = text.rpartition(":")
    if not port.isdecimal() or not 0 <= int(port[:6]) <= 65535:
        raise InvalidInput(f"`{text[:80]}` names no port here", hint=_LOCAL_HINT)
    return text if has_host and host else f"{THIS_MACHINE}:{port}"
