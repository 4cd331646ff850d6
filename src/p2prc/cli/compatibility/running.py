"""What needs more than a table: which node an address is, and where the home is."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Mapping, Sequence

from p2prc.api.schema import NodeRow
from p2prc.cli.compatibility.reading import from_environment, read
from p2prc.cli.compatibility.translation import NodeWord, Word, translate
from p2prc.cli.failures import note, slow_note
from p2prc.cli.invocation import Invocation, absolute
from p2prc.errors import LeaseUnknown, NameAmbiguous, NodeUnknown, SettingInvalid

_OWN_HOSTS = frozenset({"localhost", "127.0.0.1", "0.0.0.0", "::1", "::"})  # noqa: S104 - compared
_MAKES_HOME = ("config",)


def commands_for(
    arguments: Sequence[str], invocation: Invocation, environment: Mapping[str, str]
) -> Iterator[list[str]]:
    """Yield our commands, each to be run before the next is asked for.

    Raises `UsageOfP2prc` for what has no meaning, `NodeUnknown`, `NameAmbiguous`,
    `LeaseUnknown`, and `SettingInvalid` when the variable P2PRC leads nowhere.
    """
    typed = read(arguments)
    invocation.as_json = invocation.as_json or typed.is_json
    if typed.home is not None:
        invocation.home, invocation.is_home_typed = absolute(typed.home), True
    found = translate(typed.values, from_environment(environment), _new_name)
    if found.commands[0][0] not in _MAKES_HOME and not invocation.is_home_typed:
        _check_variable(environment)
    if found.unless_known and _named(found.unless_known, invocation.client.nodes()):
        note(f"{found.unless_known} is in this network already: see `p2prc nodes`")
        return
    if found.held_on is not None:
        _check_held(invocation, *found.held_on)
    for command in found.commands:
        words = [_resolved(word, invocation) for word in command]
        if tell := slow_note(f"this is `p2prc {' '.join(words)}` now"):
            tell()
        invocation.is_json_implied = found.is_json and not typed.is_json
        yield ["--json", *words] if found.is_json else words


def _new_name() -> str:
    return f"grp{secrets.token_hex(4)}"


def _check_variable(environment: Mapping[str, str]) -> None:
    named = environment.get("P2PRC", "")
    if named and not environment.get("P2PRC_HOME") and not os.path.isdir(absolute(named)):  # noqa: PTH112
        raise SettingInvalid(
            f"the variable P2PRC names {absolute(named)}, and there is no such folder",
            hint="make it with `p2prc --dc`, or `unset P2PRC` to use ~/.p2prc",
        )


def _resolved(word: Word, invocation: Invocation) -> str:
    if isinstance(word, str):
        return word
    if ":" not in word.text:
        return word.text
    found = _named(word.text, invocation.client.nodes())
    if len(found) > 1:
        listed = ", ".join(f"{row.name} ({row.id[:10]})" for row in found[:5])
        raise NameAmbiguous(f"`{word.text[:80]}` may be any of: {listed}")
    if not found:
        raise NodeUnknown(
            f"no node of this network listens at `{word.text[:80]}`",
            hint="see `p2prc nodes`; a name or an id does as well as an address",
        )
    return found[0].id


def _named(text: str, rows: list[NodeRow]) -> list[NodeRow]:
    """Return the nodes at an address; those that are gone only where no other is there."""
    host, _, port = text.rpartition(":")
    host = host.strip("[]")
    found = [row for row in rows if any(_is_at(host, port, one, row) for one in row.addresses)]
    there = [row for row in found if row.state not in ("dead", "left")]
    return there or found


def _is_at(host: str, port: str, listed: str, row: NodeRow) -> bool:
    listed_host, _, listed_port = listed.rpartition(":")
    listed_host = listed_host.strip("[]")
    if listed_port != port:
        return False
    if host in _OWN_HOSTS:
        return row.is_self or listed_host in _OWN_HOSTS
    return listed_host == host


def _check_held(invocation: Invocation, lease: str, place: NodeWord) -> None:
    """Refuse to remove a container that is not where the person says."""
    where = _resolved(place, invocation)
    rows = [
        row
        for row in invocation.client.containers()
        if row.name == lease or (len(lease) >= 6 and row.id.startswith(lease.lower()))
    ]
    if rows and not any(
        where in (row.node, row.node_name) or row.node.startswith(where) for row in rows
    ):
        raise LeaseUnknown(
            f"`{lease[:80]}` is on {rows[0].node_name or rows[0].node[:10]}, not on `{place.text}`",
            hint=f"`p2prc rm {lease[:80]}` removes it wherever it is",
        )
