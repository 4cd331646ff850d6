"""`run`: one command on another node, as if it ran here.

Nothing slow may be imported: `p2prc run any -- true` is to cost about what `ssh` does.
"""

from __future__ import annotations

import json
import sys
from binascii import a2b_base64
from contextlib import closing
from typing import Any

import click

from p2prc.api.connection import JsonObject, events
from p2prc.cli.commands.work_options import taken_from, work_options
from p2prc.cli.failures import COULD_NOT_RUN_STATUS, note, slow_note, tell
from p2prc.cli.invocation import Invocation, RunLike, command
from p2prc.errors import P2prcError, from_fields

KEPT_OUTPUT_LIMIT_BYTES = 1 << 20
"""How much of each of the command's streams `--json` repeats, counted from the end."""


@command("run", cls=RunLike)
@click.argument("target", metavar="NODE|any")
@work_options
@click.pass_obj
def run_command(invocation: Invocation, /, *, target: str, argv: list[str], **options: Any) -> None:
    """Run one command on another node.

    Streams what it prints, brings its outputs back and exits with its status; with 125 when it
    could not be run. NODE is a name, an id or the beginning of one; `any` is a node with room.
    Its standard input is empty: send files with --in.
    """
    try:
        request = {**taken_from(options).request(argv), "target": target}
        request["has_reader"] = sys.stderr.isatty() and not invocation.as_json
        status = _run(invocation, request)
    except P2prcError as error:
        tell(error, as_json=invocation.as_json, home=invocation.typed_home)
        status = COULD_NOT_RUN_STATUS
    raise click.exceptions.Exit(status)


def _run(invocation: Invocation, request: dict[str, object]) -> int:
    kept = {1: bytearray(), 2: bytearray()} if invocation.as_json else None
    ended: JsonObject = {}
    waits_for = "a node with room" if request["target"] == "any" else request["target"]
    slow = slow_note(f"waiting for {waits_for}...")
    with closing(events(invocation.home, "POST", "/v1/run", request, slow=slow)) as stream:
        for event in stream:
            match event["type"]:
                case "output":
                    _show(event["channel"], a2b_base64(event["content"]), kept)
                case "note" if sys.stderr.isatty():
                    note(str(event["message"]))
                case "ended":
                    ended = event
    if kept is not None:
        _print_result(ended, kept)
    return _status_of(invocation, ended)


def _show(channel: int, content: bytes, kept: dict[int, bytearray] | None) -> None:
    if kept is not None:
        kept[channel] += content
        del kept[channel][:-KEPT_OUTPUT_LIMIT_BYTES]
        return
    stream = (sys.stdout if channel == 1 else sys.stderr).buffer
    stream.write(content)
    stream.flush()


def _print_result(ended: JsonObject, kept: dict[int, bytearray]) -> None:
    result = {name: ended.get(name) for name in ("exit", "node", "lease", "outputs")}
    result["stdout"] = kept[1].decode("utf-8", "replace")
    result["stderr"] = kept[2].decode("utf-8", "replace")
    print(json.dumps(result, indent=2), flush=True)


def _status_of(invocation: Invocation, ended: JsonObject) -> int:
    """Return the status to exit with; say why when it is not the command's own."""
    status: int | None = ended["exit"]
    if status is not None and (status != 0 or not ended["code"]):
        if ended["hint"] and not ended["code"]:
            note(f"hint: {ended['hint']}")
        return status
    error = from_fields(ended["code"] or "work-failed", ended["message"], hint=ended["hint"])
    tell(error, as_json=invocation.as_json, home=invocation.typed_home)
    return COULD_NOT_RUN_STATUS if status is None else error.exit_status
