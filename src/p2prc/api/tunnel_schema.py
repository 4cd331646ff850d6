"""The values of the control API that are about ports brought here."""

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


class EndTunnelRequest(Request, frozen=True):
    """End a tunnel, by its id or the beginning of one."""

    id: Annotated[str, Meta(min_length=1, max_length=40)]


class TunnelRow(Answer, frozen=True):
    """A port that is brought elsewhere. `bytes_in` came from the far end.

    `trouble` says why the last connection did not come about, or why nothing listens.
    """

    id: str
    kind: Literal["forward", "expose"]
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
