"""What the control API asks about ports brought here."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from p2prc.api import tunnel_schema as schema
from p2prc.daemon.rows import instant
from p2prc.errors import InvalidInput, LeaseUnknown, NodeUnknown
from p2prc.model.identity import LeaseId, NodeId
from p2prc.node.containers import Held
from p2prc.node.forwards import Running
from p2prc.node.node import Node
from p2prc.protocol.forwarding import THIS_MACHINE, UDP

_LOCAL_HINT = "LOCAL is a port, HOST:PORT, or the path of a Unix socket"
Find = Callable[[str], Awaitable[NodeId]]


class TunnelDesk:
    """Answers for this node's forwards."""

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

    async def rows(self) -> list[schema.TunnelRow]:
        return [self._row(running) for running in self._node.forwards.all()]

    async def end(self, request: schema.EndTunnelRequest) -> schema.TunnelRow:
        return self._row(await self._node.forwards.end(request.id))

    async def _target(self, typed: str) -> tuple[NodeId, LeaseId | None]:
        try:
            held = self._find_held(typed)
        except LeaseUnknown:
            try:
                return await self._find_node(typed), None
            except NodeUnknown as error:
                raise NodeUnknown(
                    f"no node and no container is called `{typed[:80]}`",
                    hint="see `p2prc nodes` and `p2prc ps`",
                ) from error
        return held.node, held.lease

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
