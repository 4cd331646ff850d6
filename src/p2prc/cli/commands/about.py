"""`openapi`, `completion`, `version`: around it."""

from __future__ import annotations

import platform

import click
from click.shell_completion import get_completion_class

from p2prc import __version__
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.main import root
from p2prc.cli.render.output import write, write_json

_SHELLS = ["bash", "zsh", "fish"]


@command("openapi")
@click.pass_obj
def openapi_command(invocation: Invocation, /) -> None:
    """Print the control API's description, as the running node serves it."""
    write_json(invocation.client.openapi())


@command("completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def completion_command(shell: str) -> None:
    """Print a script that completes commands.

    For bash: `eval "$(p2prc completion bash)"` in ~/.bashrc.
    """
    kind = get_completion_class(shell)
    if kind is None:
        raise click.UsageError(f"no completion for {shell}")
    write(kind(root, {}, "p2prc", "_P2PRC_COMPLETE").source())


@command("version")
@click.pass_obj
def version_command(invocation: Invocation, /) -> None:
    """Show the version."""
    python = platform.python_version()
    if invocation.as_json:
        write_json({"version": __version__, "python": python, "platform": platform.platform()})
    else:
        write(f"p2prc {__version__} (Python {python})")
