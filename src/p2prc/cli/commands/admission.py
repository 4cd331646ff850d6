"""`requests`, `approve`, `revoke`, `metadata`: who is in the network, and what this node tells."""

from __future__ import annotations

import click

from p2prc.api.schema import (
    AskEnded,
    AskRequest,
    AskStarted,
    Decision,
    Joined,
    RequestRow,
    RevokeRequest,
)
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import pairs, plain, since, table
from p2prc.errors import NodeNotRunning

ASK_TIMEOUT = "1h"


def ask(invocation: Invocation, address: str, timeout_s: float) -> Joined:
    """Ask to be let in and wait, telling a person what to compare; Ctrl-C withdraws."""
    events = invocation.client.ask(AskRequest(address=address, timeout_s=timeout_s))
    for event in events:
        if isinstance(event, AskEnded):
            return event.joined
        if isinstance(event, AskStarted):
            note(f"asking {plain(event.address)} to let this node in")
            note(f"  that node: {event.fingerprint}")
            note(f"  this node: {event.own_fingerprint}")
        else:
            note("a member there sees it with `p2prc requests` and types `p2prc approve`")
            note("waiting; Ctrl-C withdraws the request")
    raise NodeNotRunning("the node stopped before it was let in")


def is_ticket(text: str) -> bool:
    """Whether this is meant as a ticket: one begins like no host does."""
    word = text.strip().lower()
    looks_alike = word.startswith("p2prc") or "p2prc".startswith(word)
    return looks_alike and not set(word) & set(".:@-")


@command("requests")
@click.option("--deny", "denied", metavar="NODE", help="Refuse this one.")
@click.pass_obj
def requests_command(invocation: Invocation, /, *, denied: str | None) -> None:
    """Show who asks to be let in.

    Compare the fingerprint with the one on the newcomer's own screen before you approve.
    """
    if denied is not None:
        row = invocation.client.decide(Decision(node=denied, is_approved=False))
        if invocation.as_json:
            write_json(row)
        else:
            note(f"refused {_who(row)}")
        return
    rows = invocation.client.requests()
    if invocation.as_json:
        write_json(rows)
    elif rows:
        headings = ("NAME", "FINGERPRINT", "FROM", "ASKED", "ASKED AT")
        write(table(headings, [_cells(row) for row in rows]))
        note("let one in: `p2prc approve FINGERPRINT`; refuse: `p2prc requests --deny FINGERPRINT`")
    else:
        note("nobody asks to be let in; to invite somebody: `p2prc invite`")


@command("approve")
@click.argument("node")
@click.option("--admin", is_flag=True, help="It may let in others.")
@click.pass_obj
def approve_command(invocation: Invocation, /, *, node: str, admin: bool) -> None:
    """Let in a node that asks.

    NODE is its fingerprint, its name, or the beginning of its id: see `p2prc requests`.
    """
    decision = Decision(node=node, is_approved=True, is_admin=admin)
    row = invocation.client.decide(decision)
    if invocation.as_json:
        write_json(row)
    else:
        note(f"let in {_who(row)}; to put it out again: `p2prc revoke {row.id[:10]}`")


@command("revoke")
@click.argument("node")
@click.option("--reason", default="", metavar="TEXT", help="What the others are told.")
@click.pass_obj
def revoke_command(invocation: Invocation, /, *, node: str, reason: str) -> None:
    """Put a node out of the network, and every node that it let in.

    All members hear of it and end what it runs; it cannot be undone for what you let in. The
    founder can put out anybody, another member those that it let in.
    """
    gone = invocation.client.revoke(RevokeRequest(node=node, reason=reason))
    if invocation.as_json:
        write_json(gone)
    else:
        note(f"put out {plain(gone.name) or gone.id[:10]}: the other members are told")


@command("metadata")
@click.argument("changes", metavar="[KEY=VALUE]...", nargs=-1)
@click.pass_obj
def metadata_command(invocation: Invocation, /, *, changes: tuple[str, ...]) -> None:
    """Show or set what this node tells the others.

    An empty value removes its key. Every member sees it: `p2prc nodes --json`.
    """
    wanted = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise click.UsageError(f"`{change}` is no change: write it like `KEY=VALUE`")
        wanted[key] = value
    client = invocation.client
    told = client.change_metadata(wanted) if wanted else client.metadata()
    if invocation.as_json:
        write_json(told)
    elif told:
        write(pairs([(key, plain(value)) for key, value in sorted(told.items())]))
    else:
        note("this node tells nothing of its own; set it: `p2prc metadata KEY=VALUE`")


def _cells(row: RequestRow) -> tuple[str, ...]:
    return (
        plain(row.name) or "no name",
        row.fingerprint,
        plain(row.address) or "a relay",
        f"{since(row.asked_at)} ago",
        "here" if row.via is None else row.via[:10],
    )


def _who(row: RequestRow) -> str:
    return f"{plain(row.name)} ({row.fingerprint})" if row.name else row.fingerprint
