"""`config`: settings, where each came from, and the file that holds them."""

from __future__ import annotations

import os
from pathlib import Path

import click

from p2prc.api.schema import Setting
from p2prc.cli.compatibility.config_file import CONFIG_OF_P2PRC, Taken, taken_over
from p2prc.cli.failures import note
from p2prc.cli.invocation import Command, Invocation, shared_options
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import table
from p2prc.errors import HomeUnusable, NodeNotRunning, SettingInvalid

_HEADER = """\
# Settings of this node, read once when it starts. A line without `#` sets its key.
# What is in force and where it came from: `p2prc config show`.

"""


@click.group("config", invoke_without_command=True, params=shared_options())
@click.pass_context
def config_command(context: click.Context, /) -> None:
    """Show settings and where each came from."""
    if context.invoked_subcommand is None:
        context.invoke(show_settings)


@config_command.command("show", cls=Command)
@click.pass_obj
def show_settings(invocation: Invocation, /) -> None:
    """Show every setting and where it came from."""
    settings = invocation.client.settings()
    if invocation.as_json:
        write_json(settings)
    else:
        write(table(("KEY", "VALUE", "FROM"), [_setting_row(setting) for setting in settings]))


@config_command.command("get", cls=Command)
@click.argument("key")
@click.pass_obj
def get_setting(invocation: Invocation, /, *, key: str) -> None:
    """Show one setting of the node that runs."""
    found = {setting.key: setting for setting in invocation.client.settings()}
    if key not in found:
        from p2prc.settings import check_setting  # noqa: PLC0415 - hardly anybody needs it

        check_setting(key, "")
        raise SettingInvalid(f"the node that runs does not know `{key[:80]}`")
    if invocation.as_json:
        write_json(found[key])
    else:
        write(_setting_row(found[key])[1])


@config_command.command("set", cls=Command)
@click.argument("key")
@click.argument("value")
@click.pass_obj
def set_setting(invocation: Invocation, /, *, key: str, value: str) -> None:
    """Write a setting into the home's file, for the next start.

    Those of lending that can change while the node runs are in force at once: see `p2prc policy`.
    """
    from p2prc.settings import CONFIG_FILE, check_setting  # noqa: PLC0415
    from p2prc.storage.config_file import set_in_config  # noqa: PLC0415

    check_setting(key, value)
    try:
        invocation.client.set_policy(key, value)
    except (NodeNotRunning, SettingInvalid):
        # No node, or one that reads this key at its start alone.
        pass
    else:
        note(f"{key} is in force")
        return
    _make_home(invocation.home)
    set_in_config(Path(invocation.home) / CONFIG_FILE, key, value)
    note(f"{key} is written: in force when the node starts next")


@config_command.command("init", cls=Command)
@click.option(
    "--from", "source", metavar="FILE", help="A config.json of P2PRC; else the one in the home."
)
@click.pass_obj
def init_settings(invocation: Invocation, /, *, source: str | None) -> None:
    """Make the home and its `config.toml`, with every setting as a comment.

    A config.json of P2PRC is read: what maps is taken over, and what does not is said. A file
    that is there already stays as it is.
    """
    from p2prc.settings import CONFIG_FILE  # noqa: PLC0415
    from p2prc.storage.config_file import set_in_config  # noqa: PLC0415

    _make_home(invocation.home)
    path = Path(invocation.home) / CONFIG_FILE
    old = Path(source or Path(invocation.home) / CONFIG_OF_P2PRC)
    taken = taken_over(old) if source or old.exists() else Taken()
    is_there = path.exists()
    if not is_there:
        path.write_text(_HEADER + _commented(Path(invocation.home)), encoding="utf-8")
        for key, value in taken.settings.items():
            set_in_config(path, key, value)
    if invocation.as_json:
        write_json({"path": str(path), "made": not is_there, "settings": taken.settings,
                    "notes": taken.notes})  # fmt: skip
        return
    write(str(path))
    if is_there:
        note("it was there already and stays as it is; change it: `p2prc config set KEY VALUE`")
    elif taken.settings:
        note(f"from {old}: " + ", ".join(f"{k} = {v}" for k, v in taken.settings.items()))
    for line in taken.notes:
        note(f"  {line}")


def _commented(home: Path) -> str:
    from p2prc.settings import read_settings, this_machine  # noqa: PLC0415

    values = read_settings(home, environment={}, overrides={}, machine=this_machine(home)).values
    lines = []
    for key, value in values.items():
        is_below_value = any(key.startswith(f"{above}.") for above in values)
        lines.append(f"# {_quoted(key) if is_below_value else key} = {_quoted(value)}\n")
    return "".join(lines)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _make_home(home: str) -> None:
    try:
        os.makedirs(home, mode=0o700, exist_ok=True)  # noqa: PTH103
    except OSError as error:
        raise HomeUnusable(f"cannot make the folder {home}: {error.strerror}") from error


def _setting_row(setting: Setting) -> tuple[str, str, str]:
    value = setting.value
    shown = ", ".join(value) if isinstance(value, list) else str(value or "")
    return setting.key, shown, setting.origin
