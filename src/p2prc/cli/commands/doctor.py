"""`doctor`: why others cannot reach this node, or it them, and what to change."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from p2prc.api.schema import Check
from p2prc.cli import launch
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.redaction import Redaction
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain
from p2prc.errors import NodeNotRunning, PathInvalid

NETWORK_STATUS = 6
MACHINE_STATUS = 8
_OF_NETWORK = (
    "reachability",
    "nat",
    "relay",
    "outside relays",
    "network",
    "path",
    "port mapping",
)


@command("doctor")
@click.argument("node", default="", required=False)
@click.option(
    "--bundle",
    type=click.Path(dir_okay=False),
    metavar="FILE",
    help="Also write an archive for a bug report, without addresses and names.",
)
@click.pass_obj
def doctor_command(invocation: Invocation, /, *, node: str, bundle: str | None) -> None:
    """Say why nodes do not connect, and what to change.

    Looks at this node, its ways in and out, its relays, and its machine. With NODE, also the way
    to that node. Exits with 0 when nothing needs doing, with 6 when something about the network
    does, with 8 when something about this machine does, with 9 when no node runs here.
    """
    note("looking at this node and asking its relays and peers...")
    checks = _checks(invocation, node)
    if bundle is not None:
        _write_bundle(Path(bundle), invocation, checks)
    if invocation.as_json:
        write_json(checks)
    else:
        write(_text(checks))
    if status := _status(checks):
        raise click.exceptions.Exit(status)


def _checks(invocation: Invocation, node: str) -> list[Check]:
    try:
        return invocation.client.doctor(node)
    except NodeNotRunning:
        found = msgspec.convert(launch.check(invocation.home), list[Check])
        stopped = Check(
            check="node",
            ok=False,
            finding=f"no node is running in {invocation.home}",
            advice="start it: `p2prc up`",
        )
        return [stopped, *found]


def _status(checks: Sequence[Check]) -> int:
    failed = [check.check for check in checks if not check.ok]
    if not failed:
        return 0
    if failed[0] == "node":
        return NodeNotRunning.exit_status
    is_network = all(name.startswith(_OF_NETWORK) for name in failed)
    return NETWORK_STATUS if is_network else MACHINE_STATUS


def _text(checks: Sequence[Check]) -> str:
    width = max(len(check.check) for check in checks)
    lines = []
    for check in checks:
        mark = "ok  " if check.ok else "FIX "
        lines.append(f"{mark} {plain(check.check):{width}}  {plain(check.finding)}")
        if check.advice:
            lines.append(f"     {'':{width}}  -> {plain(check.advice)}")
    failed = sum(not check.ok for check in checks)
    lines.append("nothing needs doing" if not failed else f"{failed} to fix")
    return "\n".join(lines)


def _write_bundle(path: Path, invocation: Invocation, checks: Sequence[Check]) -> None:
    texts = {"doctor.json": _json(checks)}
    names: list[str] = []
    try:
        client = invocation.client
        nodes = client.nodes()
        names = [row.name for row in nodes]
        texts["status.json"] = _json(client.status())
        texts["nodes.json"] = _json(nodes)
        texts["settings.json"] = _json(client.settings())
        texts["log.txt"] = "\n".join(client.node_log(2000))
    except NodeNotRunning:
        note("no node is running: the archive holds this machine's checks only")
    redaction = Redaction(home=str(Path(invocation.home).expanduser().absolute()), names=names)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise PathInvalid(
            f"cannot write {path}: {error.strerror}", hint="name a file that is not there yet"
        ) from error
    with os.fdopen(descriptor, "wb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, text in texts.items():
            content = redaction.of(text).encode()
            entry = tarfile.TarInfo(f"p2prc-report/{name}")
            entry.size, entry.mtime = len(content), int(time.time())
            archive.addfile(entry, io.BytesIO(content))
    note(f"wrote {path}: look into it before you send it")


def _json(value: object) -> str:
    return json.dumps(msgspec.to_builtins(value), indent=1)
