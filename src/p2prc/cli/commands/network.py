"""`invite`, `join`, `leave`, `nodes`, `specs`, `ping`, `interfaces`: the network and its nodes."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress

import click

from p2prc.api.client import ControlClient
from p2prc.api.connection import SILENCE_S
from p2prc.api.schema import (
    Bandwidth,
    InterfaceRow,
    InviteRequest,
    NodeRow,
    PingResult,
    RuntimeTier,
    SpecsOfNode,
)
from p2prc.cli.commands.admission import ASK_TIMEOUT, ask, is_ticket
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.qr import qr_code
from p2prc.cli.render.text import counted, pairs, plain, since, size, table, until
from p2prc.cli.values import DURATION
from p2prc.cli.watching import watch
from p2prc.errors import P2prcError, PeerUnreachable, TicketInvalid

_ASKED_AT_ONCE = 16
_REACH = {
    "internet": "usable from anywhere",
    "relay": "usable from anywhere, through a relay",
    "lan": "usable from this local network",
}


@command("invite")
@click.option(
    "--expires",
    type=DURATION,
    default="24h",
    metavar="DURATION",
    show_default=True,
    help="Until when it can be used; membership does not end with it.",
)
@click.option("--admin", is_flag=True, help="Who joins by it may invite others.")
@click.option("--lan", is_flag=True, help="For this local network only.")
@click.option("--qr", is_flag=True, help="Show it as a QR code too.")
@click.pass_obj
def invite_command(
    invocation: Invocation, /, *, expires: float, admin: bool, lan: bool, qr: bool
) -> None:
    """Make a ticket that lets others join.

    Who has the ticket may join: send it as you would send a password. A member whose ticket was
    made with --admin may invite others in turn; other members let in nobody.
    """
    request = InviteRequest(expires_s=expires, is_admin=admin, is_lan=lan)
    invitation = invocation.client.invite(request)
    if invocation.as_json:
        write_json(invitation)
        return
    write(invitation.ticket)
    if qr:
        note(qr_code(invitation.ticket))
    reach = _REACH.get(invitation.reach, f"reach: {plain(invitation.reach)}")
    note(f"{reach}, for {until(invitation.expires_at)}")
    note("on the other machine: `p2prc up --detach`, then `p2prc join TICKET`")


@command("join")
@click.argument("ticket", metavar="TICKET|-|HOST[:PORT]")
@click.option(
    "--timeout",
    type=DURATION,
    default=ASK_TIMEOUT,
    metavar="DURATION",
    show_default=True,
    help="How long to wait to be let in.",
)
@click.pass_obj
def join_command(invocation: Invocation, /, *, ticket: str, timeout: float) -> None:
    """Join a network: with a ticket, or by asking.

    With `-` the ticket is read from standard input, which other users cannot see. With the
    address of a member it asks to be let in and waits; both fingerprints are shown, for the two
    people to compare. Ctrl-C withdraws the request.
    """
    is_address = ticket != "-" and bool(ticket) and not is_ticket(ticket)
    if ticket == "-":
        ticket = sys.stdin.readline().strip()
    if not ticket:
        raise TicketInvalid("the ticket is empty")
    joined = ask(invocation, ticket, timeout) if is_address else invocation.client.join(ticket)
    if invocation.as_json:
        write_json(joined)
        return
    name = plain(joined.name) or "this node"
    write(f"{name} joined a network of {counted(joined.members, 'node')}: see `p2prc nodes`")


@command("leave")
@click.pass_obj
def leave_command(invocation: Invocation, /) -> None:
    """Leave the network.

    The node stays up, in a network of its own.
    """
    invocation.client.leave()
    note("left the network; to enter one: `p2prc join TICKET`")


@command("nodes")
@click.option("--watch", "is_watched", is_flag=True, help="Go on showing it until Ctrl-C.")
@click.option("--refresh", is_flag=True, help="First ask every node for a sign of life.")
@click.pass_obj
def nodes_command(invocation: Invocation, /, *, is_watched: bool, refresh: bool) -> None:
    """Show the network as seen from here."""
    client = invocation.client
    if refresh:
        _ask_everybody(invocation)
    if is_watched:
        watch(client.nodes, _nodes_table, as_json=invocation.as_json)
    nodes = client.nodes()
    if invocation.as_json:
        write_json(nodes)
        return
    write(_nodes_table(nodes))
    if len(nodes) == 1:
        note("only this one; let others in: `p2prc invite`")


@command("specs")
@click.argument("node", default="", required=False)
@click.pass_obj
def specs_command(invocation: Invocation, /, *, node: str) -> None:
    """Show what machine a node is; without NODE, this one."""
    specs = invocation.client.specs(node)
    if invocation.as_json:
        write_json(specs)
    else:
        write(_specs_text(specs))


@command("interfaces")
@click.pass_obj
def interfaces_command(invocation: Invocation, /) -> None:
    """Show the network interfaces of this machine, and the routers behind them."""
    interfaces = invocation.client.interfaces()
    if invocation.as_json:
        write_json(interfaces)
    else:
        write(_interfaces_table(interfaces))


@command("ping")
@click.argument("node")
@click.option(
    "--count",
    type=click.IntRange(1, 100),
    default=5,
    show_default=True,
    metavar="N",
    help="How many round trips.",
)
@click.option("--bandwidth", is_flag=True, help="Also how fast bytes go both ways.")
@click.pass_obj
def ping_command(invocation: Invocation, /, *, node: str, count: int, bandwidth: bool) -> None:
    """Measure the way to a node: round trips, and the path they take.

    With --bandwidth bytes are moved both ways for about a second each, as files are: 85 MB each way
    at most, 5 MB over a relay. `p2prc nodes --json` keeps what was found, with its age.
    """
    if bandwidth:
        invocation.client.measure_bandwidth(node)
    result = invocation.client.ping(node, count)
    if invocation.as_json:
        write_json(result)
    else:
        write(_ping_text(node, result))
    if result.rtt_ms is None:
        raise PeerUnreachable(f"no answer from {plain(node)}")


def _ask_everybody(invocation: Invocation) -> None:
    """Dial and measure every node that has not said goodbye."""
    client = ControlClient(invocation.home)

    def ask(node: str) -> None:
        # What came of it is in the table that follows.
        with suppress(P2prcError):
            client.ping(node, 1)

    asked = [node.id for node in client.nodes() if not node.is_self and node.state != "left"]
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        pending = [pool.submit(ask, node) for node in asked]
        silent = wait(pending, timeout=SILENCE_S).not_done
        if silent:
            note(f"waiting for {counted(len(silent), 'node')} to answer...")


def _nodes_table(nodes: list[NodeRow]) -> str:
    headings: tuple[str, ...] = (
        "NAME", "ID", "STATE", "PATH", "LATENCY", "FREE", "MEMORY", "RUNS", "VERSION",
    )  # fmt: skip
    rows = [_node_cells(node) for node in nodes]
    if any(node.bandwidth is not None for node in nodes):
        headings = (*headings, "DOWN/UP")
        rows = [
            (*cells, _bandwidth(node.bandwidth)) for cells, node in zip(rows, nodes, strict=True)
        ]
    return table(headings, rows)


def _bandwidth(measured: Bandwidth | None) -> str:
    """Return bytes a second both ways and their age; nothing where nobody measured."""
    if measured is None:
        return ""
    down, up = size(round(measured.down_bytes_s)), size(round(measured.up_bytes_s))
    return f"{down}/s, {up}/s, {since(measured.measured_at)} ago"


def _node_cells(node: NodeRow) -> tuple[str, ...]:
    who = (node.name, node.id[:10], node.state)
    if node.state in ("dead", "left"):
        # What it had when it was last heard of helps nobody.
        return (*who, "", "", "", "", "", node.version)
    latency = "" if node.latency_ms is None else f"{node.latency_ms:.1f} ms"
    return (
        *who,
        node.path or "",
        latency,
        f"{node.free.cpus:g}/{node.cpus}",
        size(node.free.memory_bytes),
        _runtimes(node.runtimes) if node.is_lending else "lends nothing",
        node.version,
    )


def _runtimes(runtimes: list[RuntimeTier]) -> str:
    """Return each runtime with the best of its tiers, which comes first."""
    best: dict[str, str] = {}
    for runtime in runtimes:
        best.setdefault(runtime.name, runtime.tier)
    return ",".join(f"{name}:{tier}" for name, tier in best.items())


def _interfaces_table(interfaces: list[InterfaceRow]) -> str:
    rows = [
        (
            each.name,
            "up" if each.up else "down",
            ", ".join(each.addresses),
            ", ".join(each.gateways),
        )
        for each in interfaces
    ]
    return table(("NAME", "STATE", "ADDRESSES", "GATEWAY"), rows)


def _specs_text(specs: SpecsOfNode) -> str:
    entries = [
        ("host", specs.hostname),
        ("platform", specs.platform),
        ("cpu", f"{specs.cpu}, {counted(specs.cpus, 'core')}"),
        ("memory", size(specs.memory_bytes)),
        ("disk", size(specs.disk_bytes)),
        ("runtimes", _runtimes(specs.runtimes) or "none"),
    ]
    for card in specs.gpus:
        use = "" if card.utilization_percent is None else f", {card.utilization_percent:.0f} % used"
        heat = "" if card.temperature_c is None else f", {card.temperature_c:.0f} °C"
        driver = f", driver {plain(card.driver)}" if card.driver else ""
        text = f"{plain(card.name)}, {size(card.memory_bytes)}{driver}{use}{heat}"
        entries.append(("gpu", text))
    return pairs(entries)


def _ping_text(typed: str, result: PingResult) -> str:
    if result.rtt_ms is None:
        return f"{plain(typed)}: every ping was lost"
    trips = result.rtt_ms
    lost = f", {result.lost} lost" if result.lost else ""
    text = (
        f"{plain(typed)} ({result.path or 'unknown path'}): median {trips.median:.2f} ms, "
        f"{trips.min:.2f} to {trips.max:.2f} ms{lost}"
    )
    if result.bandwidth is not None:
        text += f"\ndown, up: {_bandwidth(result.bandwidth)}"
    return text
