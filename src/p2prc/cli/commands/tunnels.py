"""`forward`, `expose`, `tunnels`, `unexpose`: ports of other machines here, and of mine there."""

from __future__ import annotations

import os
from typing import Any

import click

from p2prc.api.tunnel_schema import ExposeRequest, ForwardRequest, TunnelRow
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain, since, size, table
from p2prc.cli.values import DURATION


@command("forward")
@click.argument("target", metavar="NODE|LEASE")
@click.argument("ports", metavar="[LOCAL:]REMOTE")
@click.option("--udp", is_flag=True, help="Datagrams instead of connections.")
@click.pass_obj
def forward_command(invocation: Invocation, /, *, target: str, ports: str, udp: bool) -> None:
    """Bring a remote port to this machine.

    It is a port of a container that you hold, or of a node.

    REMOTE is a port, or the name of a service that the node's owner gave. LOCAL is a port of this
    machine, HOST:PORT, or the path of a Unix socket; without it the same port, or a free one. It
    stays until `p2prc unexpose` ends it, over restarts of either side.
    """
    local, _, remote = ports.rpartition(":")
    if "/" in local:
        local = os.path.abspath(local)  # noqa: PTH100 - for the node, whose folder is another
    protocol: Any = "udp" if udp else "tcp"
    row = invocation.client.forward(
        ForwardRequest(target=target, remote=remote, local=local, protocol=protocol)
    )
    if invocation.as_json:
        write_json(row)
        return
    write(row.local)
    where = f"container {row.lease[:10]}" if row.lease else plain(row.node_name) or row.node[:10]
    note(f"leads to {plain(row.remote)} of {where}; end it: `p2prc unexpose {row.id}`")


@command("expose")
@click.argument("port", metavar="PORT")
@click.option("--udp", is_flag=True, help="Datagrams instead of connections.")
@click.option("--via", default="", metavar="NODE", help="The node to listen at; else any that may.")
@click.option("--of", default="", metavar="NODE|LEASE", help="Whose port; else this machine's.")
@click.option(
    "--public",
    "public_port",
    type=click.IntRange(1, 65535),
    default=None,
    metavar="PORT",
    help="The public port; else the gateway chooses one.",
)
@click.option("--name", default="", metavar="NAME", help="A name for people.")
@click.option(
    "--lifetime", type=DURATION, default=None, metavar="DURATION", help="End it after this."
)
@click.option(
    "--domain", default="", metavar="DOMAIN", help="A domain instead: what is asked of it by HTTP."
)
@click.option(
    "--tls", is_flag=True, help="With --domain: the service speaks TLS itself, handed over unread."
)
@click.option(
    "--proxy-protocol", is_flag=True, help="Tell the service who connects (PROXY protocol 2)."
)
@click.option("--follow", is_flag=True, help="Move to another gateway when its own is gone.")
@click.pass_obj
def expose_command(
    invocation: Invocation,
    /,
    *,
    port: str,
    udp: bool,
    via: str,
    of: str,
    public_port: int | None,
    name: str,
    lifetime: float | None,
    domain: str,
    tls: bool,
    proxy_protocol: bool,
    follow: bool,
) -> None:
    """Give a port of mine a public address on a reachable node.

    That node, the gateway, listens for everybody and hands over what connects. Its owner says who
    may have public ports (`gateway.to`) and domains (`gateway.domains`). PORT is one of this
    machine, or with --of of a container that you hold or of a node. It stays until `p2prc unexpose`
    ends it, over restarts of either side.
    """
    row = invocation.client.expose(
        ExposeRequest(
            service=port,
            protocol="udp" if udp else "tcp",
            via=via,
            of=of,
            public_port=public_port or 0,
            name=name,
            lifetime_s=lifetime,
            follow=follow,
            domain=domain,
            tls=tls,
            proxy_protocol=proxy_protocol,
        )
    )
    if invocation.as_json:
        write_json(row)
        return
    write(plain(row.remote))
    where = plain(row.node_name) or row.node[:10]
    note(f"{where} listens there for everybody; end it: `p2prc unexpose {row.id}`")
    if row.trouble:
        note(plain(row.trouble))


@command("tunnels")
@click.pass_obj
def tunnels_command(invocation: Invocation, /) -> None:
    """Show the ports that are brought here or exposed, with their traffic.

    Those of kind `lent` are public ports of this node that others have.
    """
    rows = invocation.client.tunnels()
    if invocation.as_json:
        write_json(rows)
    elif rows:
        headings = (
            "ID",
            "NAME",
            "KIND",
            "LOCAL",
            "REMOTE",
            "OF",
            "OPEN",
            "IN",
            "OUT",
            "SINCE",
            "TROUBLE",
        )
        write(table(headings, [_cells(row) for row in rows]))
    else:
        note("no tunnels; make one: `p2prc forward NODE PORT`, `p2prc expose PORT`")


def _cells(row: TunnelRow) -> tuple[str, ...]:
    return (
        row.id,
        plain(row.name) or "-",
        row.kind if row.protocol == "tcp" else f"{row.kind}/{row.protocol}",
        plain(row.local),
        plain(row.remote),
        row.lease[:10] or plain(row.node_name) or row.node[:10],
        str(row.connections),
        size(row.bytes_in),
        size(row.bytes_out),
        since(row.created_at),
        plain(row.trouble) or "-",
    )


@command("unexpose")
@click.argument("tunnel", metavar="ID")
@click.pass_obj
def unexpose_command(invocation: Invocation, /, *, tunnel: str) -> None:
    """End a tunnel: nothing listens any more, and what goes through it is hung up."""
    row = invocation.client.end_tunnel(tunnel)
    if invocation.as_json:
        write_json(row)
    else:
        write(row.id)
