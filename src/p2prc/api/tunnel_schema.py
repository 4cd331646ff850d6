"""The values of the control API that are about ports brought here, and shown to others."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta

from p2prc.api.schema import Answer, Request


class ForwardRequest(Request, frozen=True):
    """Bring a remote port here: `target` is a node or a container, as typed.

    `remote` is a port, or the name of a service that the node's owner gave. `local` is HOST:PORT, a
    port, or an absolute path of a Unix socket; nothing is the same port, or any if that is taken.
    """

    target: Annotated[str, Meta(min_length=1, max_length=200)]
    remote: Annotated[str, Meta(min_length=1, max_length=63)]
    local: Annotated[str, Meta(max_length=4096)] = ""
    protocol: Literal["tcp", "udp"] = "tcp"


class ExposeRequest(Request, frozen=True):
    """Give a port a public address: of this machine, or `of` a node or a container, as typed.

    `service` is a port, or with a node the name of a service there. `via` is the node to listen at,
    "" any that lends public ports; `public_port` 0 is any. It ends after `lifetime_s`; null never.
    With `follow` it moves to another gateway when its own is gone. With `domain` what is asked of
    that name comes to it: requests of HTTP, or with `tls` TLS that the service speaks itself. With
    `proxy_protocol` each connection of TCP begins with who it is from (PROXY protocol, version 2).
    """

    service: Annotated[str, Meta(min_length=1, max_length=63)]
    protocol: Literal["tcp", "udp"] = "tcp"
    via: Annotated[str, Meta(max_length=200)] = ""
    of: Annotated[str, Meta(max_length=200)] = ""
    public_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    name: Annotated[str, Meta(max_length=63)] = ""
    lifetime_s: Annotated[float, Meta(gt=0, le=1e10)] | None = None
    follow: bool = False
    domain: Annotated[str, Meta(max_length=253)] = ""
    tls: bool = False
    proxy_protocol: bool = False


class EndTunnelRequest(Request, frozen=True):
    """End a tunnel, by its id or the beginning of one."""

    id: Annotated[str, Meta(min_length=1, max_length=40)]


class TunnelRow(Answer, frozen=True):
    """A port that is brought elsewhere. `bytes_in` came from the far end.

    `trouble` says why the last connection did not come about, or why nothing listens. An `expose`
    has its public address as `remote` and its gateway as `node`; `lent` is a public port of this
    node's, and `node` who has it. One of a `domain` has a URL as `remote`, and where the gateway
    ends its TLS `certificate_expires_at`.
    """

    id: str
    kind: Literal["forward", "expose", "lent"]
    protocol: str
    local: str
    remote: str
    node: str
    node_name: str = ""
    lease: str = ""
    domain: str = ""
    bytes_in: int = 0
    bytes_out: int = 0
    connections: int = 0
    created_at: str = ""
    trouble: str = ""
    name: str = ""
    of: str = ""
    expires_at: str | None = None
    follow: bool = False
    certificate_expires_at: str | None = None
