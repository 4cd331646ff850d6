"""`policy`: who may have how much of this machine."""

from __future__ import annotations

import click

from p2prc.api.schema import PolicyChanged, Setting
from p2prc.cli.failures import note
from p2prc.cli.invocation import Command, Invocation, shared_options
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.policy_words import policy_words
from p2prc.cli.render.text import plain, size, table

_SIZES = (".memory", ".disk")
"""The ends of the keys whose values are bytes where they are numbers."""


@click.group("policy", invoke_without_command=True, params=shared_options())
@click.pass_context
def policy_command(context: click.Context, /) -> None:
    """Show and change who may have how much."""
    if context.invoked_subcommand is None:
        context.invoke(show_policy)


@policy_command.command("show", cls=Command)
@click.pass_obj
def show_policy(invocation: Invocation, /) -> None:
    """Show every rule of lending, where it came from, and what they mean in words."""
    rules = invocation.client.policy()
    if invocation.as_json:
        write_json(rules)
    else:
        write(_table(rules))
        if words := policy_words(rules):
            write("\n" + "\n".join(words))


# A negative number is a wrong value, not an option: the check of the value says so.
@policy_command.command("set", cls=Command, context_settings={"ignore_unknown_options": True})
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_policy(invocation: Invocation, /, *, key: str, value: str) -> None:
    """Change one rule, now and for the next start.

    It is written into `config.toml` in the node's home. What runs for whom it excludes ends.
    """
    _tell(invocation, invocation.client.set_policy(key, value), key)


@policy_command.command("allow", cls=Command)
@click.argument("node")
@click.pass_obj
def allow_node(invocation: Invocation, /, *, node: str) -> None:
    """Lend to a node: take it off the list of those denied, and name it where names are kept."""
    _tell(invocation, invocation.client.allow(node), "lend.to", "lend.deny")


@policy_command.command("deny", cls=Command)
@click.argument("node")
@click.pass_obj
def deny_node(invocation: Invocation, /, *, node: str) -> None:
    """Lend a node nothing, and end what it runs here."""
    _tell(invocation, invocation.client.deny(node), "lend.to", "lend.deny")


def _tell(invocation: Invocation, changed: PolicyChanged, *keys: str) -> None:
    if invocation.as_json:
        write_json(changed.rules)
    else:
        write(_table([rule for rule in changed.rules if rule.key in keys]))
    for line in changed.notes:
        note(plain(line))


def _table(rules: list[Setting]) -> str:
    return table(("KEY", "VALUE", "FROM", "IN USE"), [_cells(rule) for rule in rules])


def _cells(rule: Setting) -> tuple[str, str, str, str]:
    value = rule.value
    shown = ", ".join(value) if isinstance(value, list) else str(value or "")
    if rule.key.endswith(_SIZES) and shown.isdigit():
        shown = size(int(shown))
    return rule.key, plain(shown) or "none", rule.origin, plain(rule.used)
