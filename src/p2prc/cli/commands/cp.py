"""`cp`: files into a container and out of it; either side may be a folder."""

from __future__ import annotations

from pathlib import Path

import click

from p2prc.api.container_files import get_files, put_files
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command


@command("cp")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.pass_obj
def cp_command(invocation: Invocation, /, *, source: str, target: str) -> None:
    """Copy files into a container, or out of it.

    One of SRC and DST is LEASE:PATH, a file or folder below its working folder.
    A DST that is a folder, or ends with `/`, gets SRC under its own name.
    """
    there, here = _apart(source), _apart(target)
    if (there is None) == (here is None):
        raise click.UsageError("one of SRC and DST is LEASE:PATH, the other a path here")
    if there is not None:
        get_files(invocation.home, *there, Path(target), into=target.endswith("/"))
    elif here is not None:
        put_files(invocation.home, Path(source), *here, on_left_out=_tell_left_out)


def _apart(text: str) -> tuple[str, str] | None:
    lease, colon, path = text.partition(":")
    if not colon or not lease or "/" in lease or lease == ".":
        return None
    return lease, path.removeprefix("/work/") if path != "/work" else ""


def _tell_left_out(name: str) -> None:
    note(f"left out, as it is neither a file nor a folder: {name}")
