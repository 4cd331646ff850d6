"""The operations of the control API that are about ports brought here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import Response

from p2prc.api import tunnel_schema as schema


class TunnelService(Protocol):
    """What a running node does with tunnels."""

    async def forward(self, request: schema.ForwardRequest) -> schema.TunnelRow: ...

    async def expose(self, request: schema.ExposeRequest) -> schema.TunnelRow: ...

    async def rows(self) -> list[schema.TunnelRow]: ...

    async def end(self, request: schema.EndTunnelRequest) -> schema.TunnelRow: ...


class HasTunnels(Protocol):
    """A running node."""

    @property
    def tunnels(self) -> TunnelService: ...


def add_tunnel_routes(
    add: Any, body: Any, json: Callable[[object], Response], node: HasTunnels
) -> None:
    """Add them with the server's own means: how it adds, reads a body and answers."""

    async def forward(request: Request) -> Response:
        """Bring a remote port here, until it is ended."""
        return json(await node.tunnels.forward(await body(request, schema.ForwardRequest)))

    async def expose(request: Request) -> Response:
        """Give a port a public address at another node, until it is ended."""
        return json(await node.tunnels.expose(await body(request, schema.ExposeRequest)))

    async def tunnels() -> Response:
        """Ports that are brought here, exposed elsewhere and lent to others, with their traffic."""
        return json(await node.tunnels.rows())

    async def end_tunnel(request: Request) -> Response:
        """End a tunnel and hang up what goes through it."""
        return json(await node.tunnels.end(await body(request, schema.EndTunnelRequest)))

    add("POST", "/v1/forwards", forward, body=schema.ForwardRequest, answer=schema.TunnelRow)
    add("POST", "/v1/exposures", expose, body=schema.ExposeRequest, answer=schema.TunnelRow)
    add("GET", "/v1/tunnels", tunnels, answer=list[schema.TunnelRow])
    add(
        "POST",
        "/v1/tunnels/end",
        end_tunnel,
        body=schema.EndTunnelRequest,
        answer=schema.TunnelRow,
    )
