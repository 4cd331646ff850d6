"""How errors are told: one sentence, a hint, and the exit status of their kind."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable

import click

from p2prc.errors import P2prcError

USAGE_STATUS = 2
COULD_NOT_RUN_STATUS = 125
"""What `run`, `exec` and `ssh` end with when the command itself could not."""
INTERRUPTED_STATUS = 130
BROKEN_PIPE_STATUS = 141
"""What a shell reports of a program that its reader left."""


class UsageOfP2prc(click.UsageError):
    """A flag of P2PRC's that means nothing here, or not so."""

    hint = "each command of P2PRC beside ours: docs/from-p2prc.md; ours: `p2prc --help`"


def tell(error: P2prcError, *, as_json: bool, home: str = "") -> int:
    """Print the error to standard error; return the exit status.

    `home` is the one that was typed: the command that the hint names then needs it too.
    """
    fields = error.as_fields()
    if home:
        fields["hint"] = with_home(error.hint, home)
    _print(fields, as_json=as_json)
    return error.exit_status


def with_home(hint: str, home: str) -> str:
    """Return a hint whose commands are for the node in this home, where they are for this node."""
    words = {word.strip(",:;") for word in hint.split()}
    if "--home" in hint or words & {"ask", "there", "owner"}:
        # What another person types, on another machine.
        return hint
    return hint.replace("`p2prc ", f"`p2prc --home {shlex.quote(home)} ")


def tell_usage(error: click.ClickException, *, as_json: bool) -> int:
    """Print what was typed wrongly; return the exit status."""
    fields: dict[str, object] = {
        "code": "wrong-usage",
        "message": _sentence(error.format_message()),
        "hint": _help_of(error),
        "retryable": False,
    }
    _print(fields, as_json=as_json)
    return USAGE_STATUS


def note(line: str) -> None:
    """Tell a person something that is no data."""
    print(line, file=sys.stderr, flush=True)


def slow_note(line: str) -> Callable[[], None] | None:
    """Return what tells a person the line; None where our errors are another command's as well."""
    return (lambda: note(line)) if sys.stderr.isatty() else None


def _print(fields: dict[str, object], *, as_json: bool) -> None:
    note(f"error: {fields['message']}")
    if fields["hint"]:
        note(f"hint: {fields['hint']}")
    if as_json:
        import json  # noqa: PLC0415 - only failures pay for it

        note(json.dumps({"error": fields}))


def _sentence(message: str) -> str:
    message = message.strip().rstrip(".")
    is_word = message[1:2].islower()
    return message[:1].lower() + message[1:] if is_word else message


def _help_of(error: click.ClickException) -> str:
    if isinstance(error, UsageOfP2prc):
        return error.hint
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "p2prc"
    return f"see `{path} --help`"
