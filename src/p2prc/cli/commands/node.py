"""`up`, `down`, `status`: this machine's node."""

from __future__ import annotations

from typing import Any

import click

from p2prc.api.schema import InviteRequest, Lending, RelayServing, Status
from p2prc.cli import launch
from p2prc.cli.commands.admission import ASK_TIMEOUT, ask, is_ticket
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.qr import qr_code
from p2prc.cli.render.text import cores, counted, duration, pairs, plain, size
from p2prc.cli.values import SIZE
from p2prc.errors import P2prcError
from p2prc.model.quantities import parse_duration


@command("up")
@click.option("--detach", is_flag=True, help="Return once the node is ready.")
@click.option(
    "--install", is_flag=True, help="Write a systemd unit: it starts with the machine, and now."
)
@click.option("--name", metavar="NAME", help="What people call this node.")
@click.option("--listen", metavar="HOST:PORT", help="Else port 8088 if it is free.")
@click.option("--public", metavar="HOST[:PORT]", help="The address others reach.")
@click.option("--relay", metavar="auto|none|URL", help="How peers that cannot reach us do.")
@click.option(
    "--join", "ticket", default="", metavar="TICKET|HOST[:PORT]", help="Join this network first."
)
@click.option("--open", "is_open", is_flag=True, help="Found a network that lets in who asks.")
@click.option("--qr", is_flag=True, help="Show a ticket, and as a QR code.")
@click.option("--no-lend", is_flag=True, help="Use the network, lend nothing to it.")
@click.option(
    "--cpus",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Lend at most these cores.",
)
@click.option("--memory", type=SIZE, metavar="SIZE", help="Lend at most this memory.")
@click.option("--disk", type=SIZE, metavar="SIZE", help="Lend at most this disk.")
@click.option(
    "--runtime", type=click.Choice(["auto", "docker", "process"]), help="What others' work runs in."
)
@click.pass_obj
def up_command(
    invocation: Invocation,
    /,
    *,
    detach: bool,
    ticket: str,
    is_open: bool,
    qr: bool,
    install: bool,
    **options: Any,
) -> None:
    """Start this machine's node.

    The first start makes the node's key and founds a network of its own. Says what is lent and
    to whom, and how to invite others. Without --detach the node's log follows until Ctrl-C.
    """
    if install:
        _install(invocation, ticket, options, is_open=is_open)
        return
    process = launch.start(
        invocation.home,
        _settings(options),
        detached=detach,
        tell=note,
        extra=["--open"] if is_open else [],
    )
    with launch.ended_on_error(process):
        client = invocation.client
        if ticket and not is_ticket(ticket):
            ask(invocation, ticket, parse_duration(ASK_TIMEOUT) or 0.0)
        elif ticket:
            # Through the API, not as an argument of the daemon: every user may read those.
            client.join(ticket)
        status = client.status()
    if detach:
        # The node outlives this command, whoever reads what it says: nobody here waits for it.
        process.returncode = 0
    if invocation.as_json:
        write_json(status)
    else:
        write(_banner(status))
    if qr:
        try:
            ticket = client.invite(InviteRequest()).ticket
            note(f"{qr_code(ticket)}\n{ticket}")
        except P2prcError as error:
            # The node is up all the same.
            note(f"no ticket: {error.message}")
    if detach:
        return
    with launch.signals_left_to(process):
        ended = process.wait()
    if ended:
        raise click.exceptions.Exit(ended if ended > 0 else 128 - ended)


def _install(
    invocation: Invocation, ticket: str, options: dict[str, Any], *, is_open: bool
) -> None:
    """Have systemd run the node, and wait until it answers."""
    import os  # noqa: PLC0415 - seldom needed

    from p2prc.cli import service_unit  # noqa: PLC0415 - the same

    words = ["--open"] if is_open else []
    for key, value in options.items():
        if value is True:
            words.append(f"--{key.replace('_', '-')}")
        elif value is not None and value is not False:
            words += [f"--{key}", str(value)]
    path = service_unit.install(invocation.home, words, os.environ)
    launch.wait_for_answer(invocation.home, note)
    if ticket:
        if is_ticket(ticket):
            invocation.client.join(ticket)
        else:
            ask(invocation, ticket, parse_duration(ASK_TIMEOUT) or 0.0)
    status = invocation.client.status()
    if invocation.as_json:
        write_json(status)
    else:
        write(_banner(status))
        note(f"its unit: {path}; stop it for good: `systemctl --user disable --now {path.name}`")


@command("down")
@click.pass_obj
def down_command(invocation: Invocation, /) -> None:
    """Stop this machine's node.

    What runs here ends, and the other nodes are told.
    """
    client = invocation.client
    status = client.status()
    client.shut_down()
    launch.wait_for_end(status.pid)
    note(f"{plain(status.name)} has stopped")


@command("status")
@click.pass_obj
def status_command(invocation: Invocation, /) -> None:
    """Show this node."""
    status = invocation.client.status()
    if invocation.as_json:
        write_json(status)
    else:
        write(_described(status))


def _settings(options: dict[str, Any]) -> dict[str, str]:
    """Return what was given, by the keys of the settings."""
    given = {
        "name": options["name"],
        "listen": options["listen"],
        "public": options["public"],
        "relay": options["relay"],
        "runtime": options["runtime"],
        "lend.cpus": options["cpus"],
        "lend.memory": options["memory"],
        "lend.disk": options["disk"],
        "lend.to": "none" if options["no_lend"] else None,
    }
    return {key: str(value) for key, value in given.items() if value is not None}


def _banner(status: Status) -> str:
    lines = [f"node {plain(status.name)} is up: {status.id}", *map(plain, status.notices)]
    lines += _lending_lines(status.lending)
    lines.append("invite others: `p2prc invite`")
    if status.members > 1:
        lines.append(f"network of {counted(status.members, 'node')}: `p2prc nodes`")
    return "\n".join(lines)


def _lending_lines(lending: Lending | None) -> list[str]:
    if lending is None:
        return []
    if not lending.enabled:
        return ["lends nothing: to lend, `p2prc policy set lend.to members`"]
    if not lending.runtimes:
        return ["lends nothing: no runtime works here (`p2prc doctor` says why)"]
    isolating = [each for each in lending.runtimes if each.tier != "none"]
    if not isolating:
        return [
            "lends nothing, except to nodes named in `lend.tier_none_to`: "
            "work cannot be isolated here (install bubblewrap)"
        ]
    runtimes = ", ".join(f"{each.name} ({each.tier})" for each in isolating)
    lines = [f"lends to {plain(lending.to)}: {_amounts(lending)}", f"runs their work by {runtimes}"]
    if lending.paused:
        return [*lines, "lending is paused: `p2prc resume`"]
    return [
        *lines,
        "lend less: `p2prc policy set lend.cpus N`, or `p2prc pause`; to whom: `p2prc policy`",
        "see who uses it: `p2prc leases`; end that: `p2prc kill`",
    ]


def _amounts(lending: Lending) -> str:
    parts = [
        cores(lending.cpus),
        f"{size(lending.memory_bytes)} memory",
        f"{size(lending.disk_bytes)} disk",
    ]
    if lending.gpus:
        parts.append(counted(lending.gpus, "GPU"))
    parts.append("no network" if lending.network == "none" else f"network {lending.network}")
    return ", ".join(parts)


def _held_back(lending: Lending | None) -> list[str]:
    """Say why nothing new is lent at present, if nothing is."""
    if lending is None:
        return []
    found = ["nothing new at present, it is paused: `p2prc resume`"] if lending.paused else []
    if lending.needed_for:
        found.append(f"nothing new at present: {plain(lending.needed_for)}")
    return found


def _described(status: Status) -> str:
    lending = "; ".join([*_lending_lines(status.lending)[:1], *_held_back(status.lending)])
    lending = lending or "unknown"
    return pairs(
        [
            ("name", status.name),
            ("id", status.id),
            ("state", status.state),
            ("network", status.network or "none"),
            ("members", _members_line(status)),
            *(
                [("asking", f"{counted(status.requests, 'node')}: `p2prc requests`")]
                if status.requests
                else []
            ),
            ("addresses", ", ".join(status.addresses) or "none"),
            ("reachable", _reachable(status)),
            ("relays", ", ".join(status.relays) or "none"),
            ("relaying", _relaying(status.relay)),
            ("lending", lending.removeprefix("lends ")),
            *(
                [("lent now", f"nothing new: {status.lending.needed_for}")]
                if status.lending is not None and status.lending.needed_for
                else []
            ),
            ("leases", str(status.leases)),
            ("up for", duration(status.uptime_s)),
            ("version", status.version),
            ("home", status.home),
            ("process", str(status.pid)),
            *([("API", status.api)] if status.api else []),
            *(("note", plain(notice)) for notice in status.notices),
        ]
    )


def _members_line(status: Status) -> str:
    away = status.members - status.alive
    return str(status.members) if not away else f"{status.members}, {away} of them not there"


def _reachable(status: Status) -> str:
    if status.reachability:
        return plain(status.reachability)
    return "yes" if status.is_public else "not known to be, from the internet"


def _relaying(relay: RelayServing | None) -> str:
    if relay is None or relay.port is None:
        return "no" if relay is None else f"no: {relay.reason}"
    refused = sum(relay.refusals.values())
    return f"on TCP port {relay.port}; {counted(relay.clients, 'client')}, {refused} refused"
