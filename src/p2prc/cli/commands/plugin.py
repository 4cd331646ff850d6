"""`plugin`: Ansible playbooks on containers, in folders as P2PRC has them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime
from pathlib import Path

import click
import msgspec

from p2prc.api.container_schema import (
    ContainerRow,
    CreateEnded,
    CreateNote,
    CreateRequest,
    GroupRequest,
)
from p2prc.cli.commands.ssh import prepare
from p2prc.cli.failures import note, with_home
from p2prc.cli.invocation import Command, Invocation, shared_options
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain, table
from p2prc.errors import InvalidInput, LeaseUnknown, NameAmbiguous, P2prcError, WorkFailed
from p2prc.model.identity import NodeId
from p2prc.plugins import pulling, used_ports
from p2prc.plugins.folder import Plugin, PluginFolder, read_plugin
from p2prc.plugins.playbook import HostResult, Target, find_ansible, run_playbook

_AT_ONCE = 8
_PREFIX_LEAST = 6
_RUNTIMES = ("auto", "docker", "process")
_turns = threading.Lock()


class PluginRow(msgspec.Struct, frozen=True):
    """A plugin that is here. `used_by` are the ports that it has taken, by container."""

    name: str
    description: str
    ports: int
    source: str | None
    commit: str | None
    problem: str
    used_by: dict[str, list[int]]


@click.group("plugin", params=shared_options())
def plugin_command() -> None:
    """Run Ansible playbooks on containers."""


@plugin_command.command("list", cls=Command)
@click.pass_obj
def list_plugins(invocation: Invocation, /) -> None:
    """Show the plugins that are here, and what is wrong with those that cannot be run."""
    plugins = _folder(invocation)
    rows = [_row(plugins, name) for name in plugins.names()]
    if invocation.as_json:
        write_json(rows)
    elif rows:
        cells = [
            [row.name, str(row.ports), (row.commit or "")[:10],
             plain(row.problem or " ".join(row.description.split()))]
            for row in rows
        ]  # fmt: skip
        write(table(["NAME", "PORTS", "COMMIT", "DESCRIPTION"], cells))
    else:
        note(_typed(invocation, "no plugin is here; get one: `p2prc plugin pull URL`"))


@plugin_command.command("pull", cls=Command)
@click.argument("source", metavar="URL")
@click.pass_obj
def pull_plugin(invocation: Invocation, /, *, source: str) -> None:
    """Bring a plugin here, from a git URL or a folder. Nothing of it is run.

    The commit is shown, and kept. Again from the same place, it brings what is new there.
    """
    pulled = pulling.pull(_folder(invocation), source, lambda line: note(plain(line)))
    if invocation.as_json:
        write_json(_row(_folder(invocation), pulled.name))
        return
    write(pulled.name)
    commit = pulled.source.commit
    was = pulled.was.commit if pulled.was else None
    if commit is not None:
        note(f"at commit {commit}" + (f", was {was}" if was and was != commit else ""))
    note("read its `site.yml` before you run it: a playbook can do what you can, here too")


@plugin_command.command("rm", cls=Command)
@click.argument("name")
@click.pass_obj
def rm_plugin(invocation: Invocation, /, *, name: str) -> None:
    """Delete a plugin. What it did in containers stays there."""
    plugins = _folder(invocation)
    pulling.remove(plugins, name)
    with used_ports.held(plugins.path) as used:
        for taken in used.values():
            for port in [port for port, plugin in taken.items() if plugin == name]:
                del taken[port]
    if invocation.as_json:
        write_json({"name": name})
    else:
        write(name)


@plugin_command.command("run", cls=Command)
@click.argument("name")
@click.argument("lease", metavar="LEASE|GROUP")
@click.option(
    "--recreate",
    is_flag=True,
    help="Give back containers with too few free ports, and make them again with enough.",
)
@click.pass_obj
def run_plugin(invocation: Invocation, /, *, name: str, lease: str, recreate: bool) -> None:
    """Run a plugin's playbook on a container, or on all of a group at once.

    The result of each is a line. Ends with 7 when it failed on any of them.
    """
    plugins = _folder(invocation)
    plugin = read_plugin(plugins.at(name))
    find_ansible()
    rows = _containers(invocation, lease)
    held = {row.id for row in invocation.client.containers(is_all=True)}
    with used_ports.held(plugins.path, held) as used:
        short = [row for row in rows if _chosen(plugin, row, used) is None]
        if short and not recreate:
            raise _too_few(plugin, short[0], used, lease)
        made = {row.id: _make_again(invocation, plugin, row, used) for row in short}
        rows = [made.get(row.id, row) for row in rows]
        targets = []
        for row in rows:
            ports = _chosen(plugin, row, used)
            if ports is None:
                raise WorkFailed(f"{_called(row)} was made again, and has too few ports still")
            used.setdefault(row.id, {}).update(dict.fromkeys(ports, plugin.name))
            targets.append(Target(row.id, plain(row.name), ports))
    results = _run_all(invocation, plugin, targets)
    _tell_results(invocation, results)


def _run_all(invocation: Invocation, plugin: Plugin, targets: Sequence[Target]) -> list[HostResult]:
    config = prepare(invocation, NodeId(invocation.client.status().id))
    width = max(len(_label(target)) for target in targets)
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        running = [
            pool.submit(_run_one, plugin, target, config, f"{_label(target):<{width}} | ")
            for target in targets
        ]
        return [each.result() for each in running]
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _run_one(plugin: Plugin, target: Target, config: Path, mark: str) -> HostResult:
    def show(line: str) -> None:
        with _turns:
            note(mark + plain(line.expandtabs()))

    try:
        return run_playbook(plugin, target, config, show)
    except P2prcError as error:
        return HostResult(
            target.id, target.name, ok=False, ports=target.ports, reason=error.message
        )


def _tell_results(invocation: Invocation, results: Sequence[HostResult]) -> None:
    if invocation.as_json:
        write_json(results)
    else:
        write(table(["LEASE", "NAME", "RESULT", "CHANGED", "PORTS", "WHY"], map(_cells, results)))
    bad = [result for result in results if not result.ok]
    if bad:
        raise WorkFailed(
            f"the playbook failed on {len(bad)} of {len(results)}: "
            + ", ".join(result.name or result.id[:10] for result in bad[:8]),
            hint="what it printed there says why; it may be run again",
        )
    for result in results:
        for port in result.ports:
            where = result.name or result.id[:10]
            note(_typed(invocation, f"reach port {port}: `p2prc forward {where} {port}`"))


def _cells(result: HostResult) -> list[str]:
    verdict = "ok" if result.ok else "unreachable" if result.unreachable else "failed"
    ports = " ".join(map(str, result.ports))
    return [
        result.id[:10], result.name, verdict, str(result.changed), ports, plain(result.reason),
    ]  # fmt: skip


def _row(plugins: PluginFolder, name: str) -> PluginRow:
    source = plugins.source_of(name)
    problem, description, ports = "", "", 0
    try:
        plugin = read_plugin(plugins.path / name)
        description, ports = plugin.description, plugin.ports
    except P2prcError as error:
        problem = error.message
    used = {
        lease: own
        for lease, taken in used_ports.read(plugins.path).items()
        if (own := sorted(port for port, user in taken.items() if user == name))
    }
    return PluginRow(
        name=name,
        description=description,
        ports=ports,
        source=source.source if source else None,
        commit=source.commit if source else None,
        problem=problem,
        used_by=used,
    )


def _containers(invocation: Invocation, typed: str) -> list[ContainerRow]:
    """Return the containers that were meant: one, or those of a group."""
    rows = [row for row in invocation.client.containers(is_all=False) if row.state == "active"]
    group = next((each for each in invocation.client.groups() if each.name == typed), None)
    if group is not None:
        found = [row for row in rows if row.id in group.containers]
        if not found:
            raise InvalidInput(
                f"the group `{typed[:80]}` has no container that runs",
                hint=f"`p2prc group add {typed[:80]} LEASE`",
            )
        return found
    found = [row for row in rows if typed in (row.id, row.name)]
    if not found and len(typed) >= _PREFIX_LEAST:
        found = [row for row in rows if row.id.startswith(typed)]
    if len(found) > 1:
        raise NameAmbiguous(f"`{typed[:80]}` is more than one container: type more of the id")
    if not found:
        raise LeaseUnknown(
            f"no container that runs, and no group, is `{typed[:80]}`", hint="see `p2prc ps`"
        )
    return found


# -- ports


def _chosen(plugin: Plugin, row: ContainerRow, used: used_ports.Used) -> tuple[int, ...] | None:
    offered = [port.internal for port in row.ports]
    return used_ports.choose(offered, used.get(row.id, {}), plugin.name, plugin.ports)


def _too_few(plugin: Plugin, row: ContainerRow, used: used_ports.Used, typed: str) -> InvalidInput:
    taken = used.get(row.id, {})
    free = sum(port.internal not in taken for port in row.ports)
    return InvalidInput(
        f"`{plugin.name}` needs {plugin.ports} ports, and {_called(row)} has {free} free",
        hint=f"`p2prc plugin run {plugin.name} {typed} --recreate` makes it again with enough; "
        "what is in it is lost",
    )


def _make_again(
    invocation: Invocation, plugin: Plugin, row: ContainerRow, used: used_ports.Used
) -> ContainerRow:
    """Return a new container like it, on its node, with ports for this plugin and what it has."""
    if row.command:
        raise InvalidInput(
            f"{_called(row)} has a main process, which is not known well enough to make it again",
            hint=f"`p2prc rm {row.id[:10]}`, then `p2prc create` with `--ports {plugin.ports}`",
        )
    limits = row.limits
    request = CreateRequest(
        target=row.node,
        # A container of no image in particular says what it runs in.
        image="" if row.image in _RUNTIMES else row.image,
        runtime=row.image if row.image in _RUNTIMES else "auto",
        cpus=limits.cpus,
        memory_bytes=limits.memory_bytes,
        disk_bytes=limits.disk_bytes,
        gpus=limits.gpus,
        ports=len(used.get(row.id, {})) + plugin.ports,
        lifetime_s=_lifetime_s(row),
        name=row.name,
    )
    note(f"making {_called(row)} again, with {request.ports} ports")
    invocation.client.remove([row.id])
    used.pop(row.id, None)
    with closing(invocation.client.create(request)) as events:
        for event in events:
            if isinstance(event, CreateNote):
                note(plain(event.message))
            elif isinstance(event, CreateEnded):
                for group in row.groups:
                    invocation.client.change_group(GroupRequest("add", group, [event.container.id]))
                return event.container
    raise WorkFailed(f"{_called(row)} was given back, and could not be made again")


def _lifetime_s(row: ContainerRow) -> float | None:
    if row.expires_at is None:
        return None
    whole = datetime.fromisoformat(row.expires_at) - datetime.fromisoformat(row.created_at)
    return max(60.0, whole.total_seconds())


# -- words


def _folder(invocation: Invocation) -> PluginFolder:
    return PluginFolder(Path(invocation.home) / "plugins")


def _called(row: ContainerRow) -> str:
    return f"`{plain(row.name) or row.id[:10]}`"


def _label(target: Target) -> str:
    return target.name or target.id[:10]


def _typed(invocation: Invocation, text: str) -> str:
    home = invocation.typed_home
    return with_home(text, home) if home else text
