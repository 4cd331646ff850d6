"""`create`, `ps`, `rm`, `group`: containers on other nodes."""

from __future__ import annotations

import re
from contextlib import closing
from typing import Any

import click

from p2prc.api.container_schema import (
    COUNT_LIMIT,
    ContainerRow,
    CreateAllEnded,
    CreateFailed,
    CreateNote,
    CreateRequest,
    GroupRequest,
)
from p2prc.cli.commands.work_options import place_options, taken_from
from p2prc.cli.failures import note, tell, with_home
from p2prc.cli.invocation import Invocation, RunLike, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain, since, table, until
from p2prc.errors import P2prcError
from p2prc.model.quantities import DURATION_LIMIT_S

_NOTHING_HELD = "I hold no container; what others run here: `p2prc leases`"
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,40}", re.ASCII)
_TASK_ONLY = ("inputs", "outputs", "to", "timeout_s")


class CreateLike(RunLike):
    """Ends with the main process, if there is one."""

    is_tail_optional = True


@command("create", cls=CreateLike)
@click.argument("target", metavar="NODE|any")
@place_options
@click.option(
    "--ports", type=click.IntRange(0, 64), default=0, metavar="N", help="Named ports that it wants."
)
@click.option(
    "--restart",
    type=click.Choice(["no", "on-failure", "always"]),
    default="no",
    help="Whether the main process starts again after its end.",
)
@click.option(
    "--volume",
    "volumes",
    multiple=True,
    metavar="NAME:/path",
    help="A folder that stays on that node when the container goes; see `p2prc volumes`.",
)
@click.option("--group", default="", metavar="G", help="Put it into this group.")
@click.option(
    "--count",
    type=click.IntRange(1, COUNT_LIMIT),
    default=1,
    metavar="N",
    help="Make so many at once; their names are numbered.",
)
@click.pass_obj
def create_command(
    invocation: Invocation,
    /,
    *,
    target: str,
    argv: list[str],
    ports: int,
    restart: Any,
    volumes: tuple[str, ...],
    group: str,
    count: int,
    **options: Any,
) -> None:
    """Get a container on another node to work in.

    CMD, if given, is its main process.

    NODE is a name, an id or the beginning of one; `any` is a node with room. It stays until its
    time is over, whether you are connected or not: `p2prc rm` gives it back. Of several with
    --count each that cannot be made says why, and the others stay.
    """
    work = taken_from(options)
    fields: dict[str, Any] = work.request(argv)
    for name in _TASK_ONLY:
        fields.pop(name, None)
    if work.lifetime == DURATION_LIMIT_S:
        fields["lifetime_s"] = "none"
    request = CreateRequest(
        target=target,
        ports=ports,
        restart=restart,
        volumes=list(volumes),
        group=group,
        count=count,
        **fields,
    )
    made: list[ContainerRow] = []
    status = 0
    with closing(invocation.client.create(request)) as events:
        for event in events:
            if isinstance(event, CreateNote):
                note(plain(event.message))
            elif isinstance(event, CreateFailed):
                status = _tell_failed(invocation, event) or status
            elif not isinstance(event, CreateAllEnded):
                made.append(event.container)
                if not invocation.as_json:
                    _tell_created(invocation, event.container, is_one=count == 1)
    if invocation.as_json:
        write_json(made if count > 1 else made[0])
    elif count > 1:
        enter = f"`p2prc exec {plain(group)} -- CMD`" if group else "see `p2prc ps`"
        text = f"made {len(made)} of {count}; {'in all of them: ' if group else ''}{enter}"
        note(_typed(invocation, text))
    raise click.exceptions.Exit(status)


def _tell_failed(invocation: Invocation, event: CreateFailed) -> int:
    from p2prc.errors import from_fields  # noqa: PLC0415 - only a failure pays for it

    said = event.error
    message = f"{event.name}: {said.message}" if event.name else said.message
    error = from_fields(said.code, message, hint=said.hint)
    return tell(error, as_json=invocation.errors_as_json, home=invocation.typed_home)


def _typed(invocation: Invocation, text: str) -> str:
    home = invocation.typed_home
    return with_home(text, home) if home else text


def _tell_created(invocation: Invocation, row: ContainerRow, *, is_one: bool) -> None:
    write(row.id)
    if not is_one:
        return
    for port in row.ports:
        note(f"port {port.name}: {port.internal} (P2PRC_{port.name.upper()})")
    node = plain(row.node_name) or row.node[:10]
    lasts = f"for {until(row.expires_at)}" if row.expires_at else "until you give it back"
    name = row.name if _WORD.fullmatch(row.name) else row.id[:10]
    note(_typed(invocation, f"on {node}, {lasts}; enter: `p2prc exec -it {name} -- sh`"))


@command("ps")
@click.option("--all", "is_all", is_flag=True, help="Also those that went more than an hour ago.")
@click.pass_obj
def ps_command(invocation: Invocation, /, *, is_all: bool) -> None:
    """Show the containers that I hold on other nodes."""
    rows = invocation.client.containers(is_all=is_all)
    if invocation.as_json:
        write_json(rows)
    elif rows:
        write(containers_table(rows))
    else:
        note(_NOTHING_HELD)


def containers_table(rows: list[ContainerRow]) -> str:
    """Return what is held, a line each; what was run comes last: it may be cut."""
    headings = ["LEASE", "NAME", "NODE", "STATE", "SINCE", "ENDS IN"]
    whys = [_why(row) for row in rows]
    if any(whys):
        headings.append("WHY")
    cells = [
        [*_cells(row), *([why] if any(whys) else []), plain(row.command)]
        for row, why in zip(rows, whys, strict=True)
    ]
    return table([*headings, "COMMAND"], cells)


def _cells(row: ContainerRow) -> tuple[str, ...]:
    is_gone = row.state == "ended"
    return (
        row.id[:10],
        plain(row.name),
        plain(row.node_name) or row.node[:10],
        "gone" if is_gone else row.state,
        since(row.created_at),
        "" if is_gone else until(row.expires_at) if row.expires_at else "never",
    )


def _why(row: ContainerRow) -> str:
    """Say what a person should know of it: why it is gone, or what became of its command."""
    if row.state == "ended" and row.ended_by:
        return plain(f"{row.ended_by}: {row.reason}")
    if row.reason or row.main not in ("ended", "waiting"):
        return plain(row.reason)
    how = "was killed" if row.main_exit is None else f"ended with {row.main_exit}"
    return f"its command {how}" + (", starts again" if row.main == "waiting" else "")


@command("rm")
@click.argument("leases", metavar="LEASE...", nargs=-1, required=True)
@click.pass_obj
def rm_command(invocation: Invocation, /, *, leases: tuple[str, ...]) -> None:
    """Give containers back: everything in them ends and is erased.

    LEASE is an id, the beginning of one, a name, or the name of a group: then all in it.
    """
    rows = invocation.client.remove(list(leases))
    if invocation.as_json:
        write_json(rows)
        return
    for row in rows:
        write(row.id)
        if row.state == "removing":
            note(f"{row.id[:10]}: its node cannot be reached now; it is told when it is back")


@command("group")
@click.argument("action", type=click.Choice(["create", "add", "remove", "show", "list", "rm"]))
@click.argument("name", required=False, default="")
@click.argument("leases", metavar="[LEASE]...", nargs=-1)
@click.pass_obj
def group_command(
    invocation: Invocation, /, *, action: Any, name: str, leases: tuple[str, ...]
) -> None:
    """Handle containers together: `group add web LEASE`, `group show web`."""
    if not name and action != "list":
        raise click.UsageError("which group? give its name")
    if action in ("list", "show"):
        groups = invocation.client.groups()
    else:
        groups = invocation.client.change_group(GroupRequest(action, name, list(leases)))
    if action in ("show", "create", "add", "remove"):
        groups = [group for group in groups if group.name == name]
        if not groups:
            raise _unknown_group(name)
    if invocation.as_json:
        write_json(groups)
        return
    for group in groups:
        members = " ".join(
            plain(name) or lease[:10]
            for lease, name in zip(group.containers, group.names, strict=True)
        )
        write(f"{plain(group.name)}: {members}" if members else plain(group.name))


def _unknown_group(name: str) -> P2prcError:
    from p2prc.errors import LeaseUnknown  # noqa: PLC0415 - only a mistake pays for it

    return LeaseUnknown(f"no group is called `{name[:80]}`", hint="see `p2prc group list`")
