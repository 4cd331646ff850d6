"""`leases`, `kill`, `usage`, `pause`, `resume`: the owner of this machine decides."""

from __future__ import annotations

import shutil
import sys

import click

from p2prc.api.schema import KillRequest, LeaseRow, UsageRow
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import (
    brief_size,
    brief_until,
    counted,
    duration,
    plain,
    shortened,
    table,
)
from p2prc.cli.values import DURATION
from p2prc.cli.watching import watch

_WIDE = 130
_STATES = {"suspended": "paused", "creating": "making", "waiting": "waits"}
FOREVER_S = 400 * 86400.0
GIBIBYTE_HOUR = (1 << 30) * 3600
_NOTHING_LENT = "nobody runs anything here; what I hold on other nodes: `p2prc ps`"


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


@command("usage")
@click.option(
    "--since", type=DURATION, default="7d", metavar="DURATION", help="How far back; else 7d."
)
@click.pass_obj
def usage_command(invocation: Invocation, /, *, since: float | None) -> None:
    """Show what each peer has used, in whole days (UTC)."""
    rows = invocation.client.usage(FOREVER_S if since is None else since)
    if invocation.as_json:
        write_json(rows)
    elif rows:
        headings = ("PEER", "CPU", "MEMORY", "DISK PEAK", "IN", "OUT", "LEASES", "TASKS", "FIRST")
        write(table(headings, [_usage_cells(row) for row in rows]))
    else:
        note("nobody has used anything here in that time")


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


def _usage_cells(row: UsageRow) -> tuple[str, ...]:
    return (
        plain(row.peer_name) or row.peer[:10],
        duration(row.cpu_s),
        f"{row.memory_byte_s / GIBIBYTE_HOUR:.2f} GiB h",
        brief_size(row.disk_peak_bytes),
        brief_size(row.net_rx_bytes),
        brief_size(row.net_tx_bytes),
        str(row.leases),
        str(row.tasks),
        row.since,
    )


def _leases_text(leases: list[LeaseRow]) -> str:
    if not leases:
        return _NOTHING_LENT
    headings = (
        "LEASE", "PEER", "IMAGE", "STATE", "CPU%", "MEM", "PEAK", "DISK", "PROC", "NET", "LEFT",
        "COMMAND",
    )  # fmt: skip
    # A terminal of 80 columns shows all but the command and, for some, the time left.
    width = 6 if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE else 40
    return table(headings, [_lease_cells(lease, width) for lease in leases], gap=1)


def _of(used: str, limit: str) -> str:
    """Say how much of a limit is used: `300M/1G`."""
    return f"{used}/{limit}" if limit else used


def _limit(amount: int | None) -> str:
    return brief_size(amount) if amount else ""


def _lease_cells(lease: LeaseRow, width: int) -> tuple[str, ...]:
    return (
        lease.id[:6],
        shortened(plain(lease.peer_name) or lease.peer[:8], width),
        shortened(plain(lease.image), width),
        _STATES.get(lease.state, lease.state),
        _of(f"{lease.cpu_percent:.0f}", f"{100 * lease.cpu_limit:.0f}" if lease.cpu_limit else ""),
        _of(brief_size(lease.memory_bytes), _limit(lease.memory_limit_bytes)),
        brief_size(lease.memory_peak_bytes),
        _of(brief_size(lease.disk_bytes), _limit(lease.disk_limit_bytes)),
        _of(str(lease.processes), str(lease.processes_limit or "")),
        _of(brief_size(lease.net_rx_bytes + lease.net_tx_bytes), _limit(lease.net_limit_bytes)),
        brief_until(lease.expires_at) if lease.expires_at else "never",
        lease.command,
    )
