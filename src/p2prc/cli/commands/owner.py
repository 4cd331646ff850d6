"""`leases`, `kill`, `pause`, `resume`: the owner of this machine decides."""

from __future__ import annotations

import click

from p2prc.api.schema import KillRequest, LeaseRow
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import counted, plain, since, size, table, until
from p2prc.cli.watching import watch

_NOTHING_LENT = "nobody runs anything here; what I run on other nodes: `p2prc jobs`"


@command("leases")
@click.option("--watch", "is_watched", is_flag=True, help="Go on showing it until Ctrl-C.")
@click.pass_obj
def leases_command(invocation: Invocation, /, *, is_watched: bool) -> None:
    """Show who runs what here, and what it uses."""
    client = invocation.client
    if is_watched:
        watch(client.leases, _leases_text, as_json=invocation.as_json)
    leases = client.leases()
    if invocation.as_json:
        write_json(leases)
    elif leases:
        write(_leases_text(leases))
    else:
        note(_NOTHING_LENT)


@command("kill")
@click.argument("leases", metavar="[LEASE]...", nargs=-1)
@click.option("--peer", default="", metavar="NODE", help="All of this node's.")
@click.option("--all", "is_all", is_flag=True, help="Everything.")
@click.pass_obj
def kill_command(
    invocation: Invocation, /, *, leases: tuple[str, ...], peer: str, is_all: bool
) -> None:
    """End what runs here, now. Who ran it is told that you did."""
    if [bool(leases), bool(peer), is_all].count(True) != 1:
        raise click.UsageError("give LEASE ids, or --peer NODE, or --all")
    request = KillRequest(leases=list(leases), peer=peer, is_all=is_all)
    killed = invocation.client.kill(request)
    if invocation.as_json:
        write_json(killed)
        return
    for lease in killed.ended:
        write(lease)
    note(f"ended {counted(len(killed.ended), 'lease')}")


@command("pause")
@click.pass_obj
def pause_command(invocation: Invocation, /) -> None:
    """Lend nothing new. What runs goes on; `p2prc kill --all` ends it."""
    invocation.client.pause()
    note("lends nothing new; lend again: `p2prc resume`")


@command("resume")
@click.pass_obj
def resume_command(invocation: Invocation, /) -> None:
    """Lend again."""
    invocation.client.resume()
    note("lends again")


def _leases_text(leases: list[LeaseRow]) -> str:
    if not leases:
        return _NOTHING_LENT
    headings = ("LEASE", "FOR", "STATE", "CPU", "MEMORY", "DISK", "SINCE", "ENDS IN", "COMMAND")
    return table(headings, [_lease_cells(lease) for lease in leases])


def _lease_cells(lease: LeaseRow) -> tuple[str, ...]:
    return (
        lease.id[:10],
        plain(lease.peer_name) or lease.peer[:10],
        lease.state,
        f"{lease.cpu_percent:.0f} %",
        size(lease.memory_bytes),
        size(lease.disk_bytes),
        since(lease.created_at),
        until(lease.expires_at),
        lease.command or lease.image,
    )
