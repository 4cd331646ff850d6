"""`exec`: one command in a container, as if it ran here."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from binascii import b2a_base64
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import click

from p2prc.api.connection import JsonObject, quoted
from p2prc.api.duplex_client import DuplexCall
from p2prc.cli.command_answer import read_answer
from p2prc.cli.failures import COULD_NOT_RUN_STATUS, tell
from p2prc.cli.invocation import Invocation, RunLike, command
from p2prc.cli.values import variables
from p2prc.errors import InvalidInput, LeaseUnknown, P2prcError, from_fields

_PIECE_BYTES = 64 * 1024


@command("exec", cls=RunLike)
@click.argument("lease", metavar="LEASE")
@click.option("-i", "--interactive", "takes_input", is_flag=True, help="Give it my input.")
@click.option("-t", "--tty", "on_terminal", is_flag=True, help="Run it on a terminal.")
@click.option("-e", "--env", multiple=True, metavar="K=V", help="Set a variable of the command.")
@click.pass_obj
def exec_command(
    invocation: Invocation,
    /,
    *,
    lease: str,
    argv: list[str],
    takes_input: bool,
    on_terminal: bool,
    env: tuple[str, ...],
) -> None:
    """Run a command in a container.

    Exits with its status; with 125 when it could not be run. LEASE is an id, the beginning of
    one, or a name. With the name of a group it runs in all of it at once, and each line says
    where; the status is then the first that is not 0.
    """
    request: JsonObject = {
        "type": "exec",
        "argv": argv,
        "variables": variables(env),
        "input": takes_input,
        "terminal": _size() if on_terminal else None,
    }
    try:
        if not lease:
            raise InvalidInput("which container?", hint="see yours: `p2prc ps`")
        if on_terminal and takes_input and not sys.stdin.isatty():
            raise InvalidInput("my input is no terminal", hint="leave out `-t`")
        status = _run_in_one_or_all(invocation, lease, request)
    except P2prcError as error:
        tell(error, as_json=invocation.as_json, home=invocation.typed_home)
        status = COULD_NOT_RUN_STATUS
    raise click.exceptions.Exit(status)


def _run_in_one_or_all(invocation: Invocation, lease: str, request: JsonObject) -> int:
    try:
        return _run(invocation, lease, request)
    except LeaseUnknown as error:
        from p2prc.api.container_schema import IS_A_GROUP  # noqa: PLC0415 - only this pays for it

        if not error.message.endswith(IS_A_GROUP):
            raise
        groups = [group for group in invocation.client.groups() if group.name == lease]
        if not groups:
            raise
    if request["input"] or request["terminal"]:
        raise InvalidInput("a group has no one input or terminal", hint="leave out `-i` and `-t`")
    from p2prc.cli.commands.exec_in_group import run_in_all  # noqa: PLC0415 - groups alone pay

    return run_in_all(invocation, groups[0], request)


def _run(invocation: Invocation, lease: str, request: JsonObject) -> int:
    call = DuplexCall(invocation.home, f"/v1/containers/{quoted(lease)}/exec")
    is_raw = bool(request["terminal"] and request["input"])
    try:
        with suppress(ConnectionError):
            # Refused before it was said: the answer tells why.
            _send(call, request)
        with _terminal(call, is_raw=is_raw, has_size=bool(request["terminal"])):
            if request["input"]:
                threading.Thread(target=_feed, args=(call,), daemon=True).start()
            ended = _print(call)
    finally:
        call.close()
    status: int | None = ended["exit"]
    if status is not None:
        return status
    error = from_fields(ended["code"] or "work-failed", ended["message"], hint=ended["hint"])
    tell(error, as_json=invocation.as_json, home=invocation.typed_home)
    return COULD_NOT_RUN_STATUS


def _print(call: DuplexCall) -> JsonObject:
    """Show what it prints; return the last event."""

    def show(channel: int, content: bytes) -> None:
        stream = (sys.stdout if channel == 1 else sys.stderr).buffer
        stream.write(content)
        stream.flush()

    return read_answer(call, show)


def _feed(call: DuplexCall) -> None:
    try:
        while content := os.read(0, _PIECE_BYTES):
            encoded = b2a_base64(content, newline=False).decode("ascii")
            _send(call, {"type": "input", "content": encoded})
        _send(call, {"type": "end-input"})
    except OSError:
        # The command is over: nobody wants the rest.
        return


def _send(call: DuplexCall, line: JsonObject) -> None:
    call.send(json.dumps(line).encode() + b"\n")


def _size() -> dict[str, int]:
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno())
    except (OSError, ValueError):
        return {"rows": 24, "columns": 80}
    return {"rows": rows or 24, "columns": columns or 80}


@contextmanager
def _terminal(call: DuplexCall, *, is_raw: bool, has_size: bool) -> Iterator[None]:
    """Hand every key on, and tell of every new size; leave the terminal as it was."""
    if not is_raw:
        yield
        return
    import termios  # noqa: PLC0415 - not on every system
    import tty  # noqa: PLC0415

    before = termios.tcgetattr(0)

    def resized(*_: Any) -> None:
        if has_size:
            _send(call, {"type": "resize", "terminal": _size()})

    handler = signal.signal(signal.SIGWINCH, resized)
    try:
        tty.setraw(0)
        yield
    finally:
        signal.signal(signal.SIGWINCH, handler)
        termios.tcsetattr(0, termios.TCSADRAIN, before)
