"""The entry point: finds the command that was typed, and turns errors into exit statuses.

Only the module of that command is imported, because `--help` and `run` must answer in a blink;
so the summaries that `--help` shows are written here.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Mapping, Sequence
from types import FrameType, MappingProxyType
from typing import NoReturn

import click

from p2prc import __version__
from p2prc.cli.failures import (
    BROKEN_PIPE_STATUS,
    INTERRUPTED_STATUS,
    note,
    tell,
    tell_usage,
)
from p2prc.cli.invocation import Invocation, home_of, shared_options
from p2prc.errors import P2prcError

_COMMANDS = "p2prc.cli.commands"
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Start here": {
        "demo": ("p2prc.demo.command", "See three nodes render an animation."),
        "up": (f"{_COMMANDS}.node", "Start this machine's node."),
        "invite": (f"{_COMMANDS}.network", "Make a ticket that lets others join."),
        "join": (f"{_COMMANDS}.network", "Join a network: with a ticket, or by asking."),
        "nodes": (f"{_COMMANDS}.network", "Show the network as seen from here."),
    },
    "My work": {
        "run": (f"{_COMMANDS}.run", "Run one command on another node."),
        "map": (f"{_COMMANDS}.map", "Run one command over a range, on all nodes."),
        "render": (f"{_COMMANDS}.render", "Render an animation; frames arrive as they are done."),
        "submit": (f"{_COMMANDS}.submit", "Run an Open Job Description template."),
        "jobs": (f"{_COMMANDS}.jobs", "Show my jobs."),
        "job": (f"{_COMMANDS}.jobs", "Show one job in full."),
        "watch": (f"{_COMMANDS}.jobs", "Follow a job to its end."),
        "logs": (
            f"{_COMMANDS}.jobs",
            "Show what a container or job printed, or this node's log.",
        ),
        "results": (f"{_COMMANDS}.jobs", "Bring a job's outputs to a folder."),
        "cancel": (f"{_COMMANDS}.jobs", "Stop a job."),
        "retry": (f"{_COMMANDS}.jobs", "Queue a job's failed tasks again."),
        "create": (f"{_COMMANDS}.containers", "Get a container on another node to work in."),
        "ps": (f"{_COMMANDS}.containers", "Show the containers that I hold on other nodes."),
        "exec": (f"{_COMMANDS}.exec", "Run a command in a container."),
        "ssh": (f"{_COMMANDS}.ssh", "Work in a container with ssh."),
        "ssh-config": (f"{_COMMANDS}.ssh", "Print what lets ssh, scp and rsync reach containers."),
        "connect": (f"{_COMMANDS}.ssh", "Carry ssh to a container: for ssh's ProxyCommand."),
        "cp": (f"{_COMMANDS}.cp", "Copy files into a container, or out of it."),
        "rm": (f"{_COMMANDS}.containers", "Give containers back."),
        "group": (f"{_COMMANDS}.containers", "Handle containers together."),
        "plugin": (f"{_COMMANDS}.plugin", "Run Ansible playbooks on containers."),
        "specs": (f"{_COMMANDS}.network", "Show what machine a node is."),
        "images": (f"{_COMMANDS}.images", "Show what containers can be made of."),
        "forward": (f"{_COMMANDS}.tunnels", "Bring a remote port to this machine."),
        "expose": (f"{_COMMANDS}.tunnels", "Give a port of mine a public address."),
        "tunnels": (f"{_COMMANDS}.tunnels", "Show the ports that are brought here."),
        "unexpose": (f"{_COMMANDS}.tunnels", "End a tunnel."),
        "volumes": (f"{_COMMANDS}.volumes", "Show the folders that stay between leases."),
        "ping": (f"{_COMMANDS}.network", "Measure the way to a node."),
    },
    "My machine": {
        "requests": (f"{_COMMANDS}.admission", "Show who asks to be let in."),
        "approve": (f"{_COMMANDS}.admission", "Let in a node that asks."),
        "revoke": (f"{_COMMANDS}.admission", "Put a node out of the network."),
        "status": (f"{_COMMANDS}.node", "Show this node."),
        "doctor": (f"{_COMMANDS}.doctor", "Say why nodes do not connect, and what to change."),
        "interfaces": (f"{_COMMANDS}.network", "Show the network interfaces of this machine."),
        "leases": (f"{_COMMANDS}.owner", "Show who runs what here."),
        "kill": (f"{_COMMANDS}.owner", "End what runs here, now."),
        "usage": (f"{_COMMANDS}.owner", "Show what each peer has used."),
        "pause": (f"{_COMMANDS}.owner", "Lend nothing new."),
        "resume": (f"{_COMMANDS}.owner", "Lend again."),
        "policy": (f"{_COMMANDS}.policy", "Show and change who may have how much."),
        "metadata": (f"{_COMMANDS}.admission", "Show or set what this node tells the others."),
        "config": (f"{_COMMANDS}.config", "Show settings and where each came from."),
        "leave": (f"{_COMMANDS}.network", "Leave the network."),
        "down": (f"{_COMMANDS}.node", "Stop this machine's node."),
    },
    "Around it": {
        "simulate": (f"{_COMMANDS}.simulate", "Simulate a network of many nodes."),
        "deploy": (f"{_COMMANDS}.deploy", "Bring up a private network that a file describes."),
        "new": (f"{_COMMANDS}.new", "Make a project that embeds a node."),
        "openapi": (f"{_COMMANDS}.about", "Print the control API's description."),
        "completion": (f"{_COMMANDS}.about", "Print a script that completes commands."),
        "version": (f"{_COMMANDS}.about", "Show the version."),
    },
}
_MODULES = {name: entry[0] for section in SECTIONS.values() for name, entry in section.items()}


class LazyGroup(click.Group):
    """All commands by name; each is imported when it is typed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        module_name = _MODULES.get(cmd_name)
        if module_name is None:
            return None
        __import__(module_name)
        found: click.Command = getattr(sys.modules[module_name], _attribute(cmd_name))
        return found

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        typed = args[0]
        if typed not in _MODULES:
            raise click.UsageError(f"no such command: `{typed}`{_near(typed)}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, summary) for name, (_, summary) in section.items()])


def _attribute(command_name: str) -> str:
    """Return the name of the command in its module: `map_`, where `map` means something."""
    return (
        command_name if command_name in ("demo",) else f"{command_name.replace('-', '_')}_command"
    )


def _near(typed: str) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 - only a mistake pays for it

    near = get_close_matches(typed, _MODULES, n=2, cutoff=0.6)
    return f"; did you mean {' or '.join(f'`{name}`' for name in near)}?" if near else ""


def _print_version(context: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        click.echo(f"p2prc {__version__}")
        context.exit()


root = LazyGroup(
    name="p2prc",
    help="Pool the computers that people already own into one network for computation.",
    epilog="`p2prc COMMAND --help` says more. NODE is a name, an id, or the beginning of an id.",
    params=[
        *shared_options(),
        click.Option(
            ["-v", "--version"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_print_version,
            help="Show the version and exit.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def run_command_line(
    arguments: Sequence[str],
    invocation: Invocation,
    environment: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Do what was typed; return the exit status. The environment may hold P2PRC's variables."""
    try:
        for words in _commands(arguments, invocation, environment):
            # Not `root.main`: it would turn a reader that went away into status 1.
            with root.make_context("p2prc", list(words), obj=invocation) as context:
                root.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as stop:
        return stop.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        return tell_usage(error, as_json=invocation.errors_as_json or _asks_json(arguments))
    except P2prcError as error:
        return tell(error, as_json=invocation.errors_as_json, home=invocation.typed_home)
    except (click.Abort, KeyboardInterrupt):
        note("interrupted")
        return INTERRUPTED_STATUS
    except BrokenPipeError:
        # Python would try to flush again at exit, and complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE_STATUS
    return 0


def _commands(
    arguments: Sequence[str], invocation: Invocation, environment: Mapping[str, str]
) -> Iterable[Sequence[str]]:
    """Return what was typed, or the commands that P2PRC's flags stand for."""
    if arguments and not arguments[0].startswith("-"):
        return [arguments]
    from p2prc.cli.compatibility.reading import is_of_p2prc  # noqa: PLC0415 - mostly not needed

    if not is_of_p2prc(arguments, environment):
        return [arguments]
    from p2prc.cli.compatibility.running import commands_for  # noqa: PLC0415 - hardly ever needed

    return commands_for(arguments, invocation, environment)


def _asks_json(arguments: Sequence[str]) -> bool:
    """Say whether `--json` was typed, for errors found before the options were read."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    return "--json" in own


def _interrupt(number: int, frame: FrameType | None) -> None:
    """End in order at the first Ctrl-C, and at once at the next one: no traceback either way."""
    signal.signal(signal.SIGINT, _leave_at_once)
    signal.default_int_handler(number, frame)


def _leave_at_once(_number: int, _frame: FrameType | None) -> None:
    os._exit(INTERRUPTED_STATUS)


def main() -> NoReturn:
    """Run as the program `p2prc`."""
    # A shell that starts a program in the background has it ignore Ctrl-C.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    if "_P2PRC_COMPLETE" in os.environ:
        root.main(prog_name="p2prc")
    status = run_command_line(sys.argv[1:], Invocation(home_of(os.environ)), os.environ)
    sys.stderr.flush()
    # Taking the interpreter down costs nine milliseconds, and nothing here needs it.
    os._exit(status)
