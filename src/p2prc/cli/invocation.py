"""What every command shares: which home, which output, and how its options are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from p2prc.cli.failures import note

if TYPE_CHECKING:
    from p2prc.api.client import ControlClient

HOME_VARIABLES = ("P2PRC_HOME", "P2PRC")
DEFAULT_HOME = "~/.p2prc"


@dataclass(slots=True)
class Invocation:
    """One call of the command line: filled while its options are read."""

    home: str
    as_json: bool = False
    is_home_typed: bool = False
    is_json_implied: bool = False
    """Nobody typed `--json`: data is JSON all the same, errors are for a person."""

    @property
    def errors_as_json(self) -> bool:
        """Whether errors are told as an object too."""
        return self.as_json and not self.is_json_implied

    @property
    def typed_home(self) -> str:
        """The home where it was typed: the commands that hints name then need it too."""
        return self.home if self.is_home_typed else ""

    @property
    def client(self) -> ControlClient:
        """The running node of this home; importing it late keeps `--help` and `run` quick."""
        from p2prc.api.client import ControlClient  # noqa: PLC0415

        return ControlClient(self.home, tell=note)


def home_of(environment: Mapping[str, str]) -> str:
    """Return the home when the command line names none, as an absolute path."""
    named = next((environment[name] for name in HOME_VARIABLES if environment.get(name)), "")
    return absolute(named or DEFAULT_HOME)


def absolute(path: str) -> str:
    """Return the path for another process, with `~` and `..` resolved but no links."""
    return os.path.abspath(os.path.expanduser(path))  # noqa: PTH100, PTH111


def _remember_home(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value is not None:
        invocation = context.ensure_object(Invocation)
        invocation.home, invocation.is_home_typed = absolute(value), True


def _remember_json(context: click.Context, _: click.Parameter, value: object) -> None:
    if value:
        context.ensure_object(Invocation).as_json = True


def shared_options() -> list[click.Parameter]:
    """Return new `--home` and `--json`: both may stand before or after the command."""
    return [
        click.Option(
            ["--home"],
            metavar="DIR",
            expose_value=False,
            is_eager=True,
            callback=_remember_home,
            help="The node's folder (also P2PRC_HOME; else ~/.p2prc).",
        ),
        click.Option(
            ["--json"],
            is_flag=True,
            expose_value=False,
            is_eager=True,
            callback=_remember_json,
            help="Print data for another program.",
        ),
    ]


class Command(click.Command):
    """A command with the shared options."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self.params.extend(shared_options())


class CommandWithTail(Command):
    """A command that ends with another one: `p2prc run any --cpus 2 -- make -j4`.

    Options stand anywhere before the other command, which begins after `--` or after
    `positionals` words that are no options. It is given as the parameter `argv`.
    """

    positionals = 0
    is_tail_optional = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        own, tail = self._split(args)
        rest = super().parse_args(ctx, own)
        if not tail and not self.is_tail_optional:
            raise click.UsageError("which command? put it after `--`", ctx)
        ctx.params["argv"] = tail
        return rest

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        tail = "[-- CMD ...]" if self.is_tail_optional else "-- CMD ..."
        return [*super().collect_usage_pieces(ctx), tail]

    def _split(self, args: list[str]) -> tuple[list[str], list[str]]:
        takes_value = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        seen = position = 0
        while position < len(args):
            word = args[position]
            if word == "--":
                return args[:position], args[position + 1 :]
            if word == "-" or not word.startswith("-"):
                if seen == self.positionals:
                    break
                seen += 1
            elif word in takes_value:
                position += 1
            position += 1
        return args[:position], args[position:]


class RunLike(CommandWithTail):
    """A command whose first word is a node, and the rest another command."""

    positionals = 1


def command(
    name: str, cls: type[Command] = Command, **settings: Any
) -> Callable[[Callable[..., None]], click.Command]:
    """Declare a command with the shared options."""
    return click.command(name, cls=cls, **settings)
