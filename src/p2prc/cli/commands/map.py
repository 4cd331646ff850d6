"""`map`: one command over a range, on every node that has room."""

from __future__ import annotations

import re
import sys
from typing import Any

import click
import msgspec

from p2prc.api.schema import JobRequest
from p2prc.cli.commands.work_options import (
    again_option,
    priority_option,
    taken_from,
    verify_option,
    work_options,
)
from p2prc.cli.failures import note
from p2prc.cli.following import announce, wait_safe_option
from p2prc.cli.invocation import CommandWithTail, Invocation, command
from p2prc.errors import JobInvalid

_BRACES = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]{0,63})(?::[^{}]*)?\}")


@command("map", cls=CommandWithTail)
@click.option(
    "--over",
    multiple=True,
    metavar="NAME=RANGE",
    help="Run once for each value of the range, like `i=1-100`, `i=1-100:5` or `s=a,b`.",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    default=1,
    metavar="N",
    help="So many at once: `{i}` is then `1-10`.",
)
@click.option(
    "--retries", type=click.IntRange(0, 100), metavar="N", help="Try a failed task so often again."
)
@click.option("--on", multiple=True, metavar="NODE,...", help="Only these nodes.")
@click.option("--isolate", is_flag=True, help="Give each task a sandbox of its own.")
@verify_option
@again_option
@priority_option
@click.option("--watch", "is_watched", is_flag=True, help="Show how far it is, to the end.")
@wait_safe_option
@work_options
@click.pass_obj
def map_command(
    invocation: Invocation,
    /,
    *,
    argv: list[str],
    is_watched: bool,
    waits_safe: bool,
    **options: Any,
) -> None:
    """Run one command over a range, on all nodes.

    `{NAME}` in the command, its variables, --out and --to stands for the value; `{NAME:04d}`
    pads it. Several --over multiply. Outputs arrive in --to as their tasks finish. Without
    --watch, prints the job's id and key at once.
    """
    unfilled = _unfilled(argv, options)
    request = _request(argv, options)
    if sys.stderr.isatty() and not invocation.as_json:
        request = msgspec.structs.replace(request, has_reader=True)
    for name in unfilled:
        note(f"`{{{name}}}` stays as it is: there is no `--over {name}=...`")
    announce(
        invocation, invocation.client.submit(request), is_watched=is_watched, waits_safe=waits_safe
    )


def _unfilled(argv: list[str], options: dict[str, Any]) -> list[str]:
    """Return the names in braces that no `--over` gives: right in a script, a typo elsewhere."""
    given = {over.partition("=")[0] for over in options["over"]}
    texts = [*argv, *options["outputs"], options["to"] or ""]
    found = [name for text in texts for name in _BRACES.findall(text)]
    return [name for name in dict.fromkeys(found) if name not in given]


def _request(argv: list[str], options: dict[str, Any]) -> JobRequest:
    shared = taken_from(options).request(argv)
    on = [name.strip() for names in options["on"] for name in names.split(",") if name.strip()]
    fields = {
        **shared,
        "over": list(options["over"]),
        "chunk": options["chunk"],
        "retries": options["retries"],
        "verify": options["verify"],
        "again": options["again"],
        "priority": options["priority"],
        "on": on,
        "isolate": options["isolate"],
    }
    try:
        return msgspec.convert(fields, JobRequest)
    except msgspec.ValidationError as error:
        raise JobInvalid(f"the job is not valid: {error}") from error
