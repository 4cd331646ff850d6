"""The options that `run`, `map` and `create` share, and the part of a request that they make."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import click

from p2prc.cli.invocation import absolute
from p2prc.cli.values import DURATION, SIZE, existing_paths, variables

_Decorated = TypeVar("_Decorated", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True)
class WorkOptions:
    """What was typed, of what they have in common; `create` has no files and no timeout."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    to: str | None
    env: tuple[str, ...]
    requirements: tuple[str, ...]
    runtime: str
    tiers: tuple[str, ...]
    image: str
    network: str
    cpus: float | None
    memory: int | None
    disk: int | None
    gpus: int
    lifetime: float | None
    timeout: float | None
    name: str

    def request(self, argv: list[str]) -> dict[str, object]:
        """Return the fields of a request; raise `FileUnknown` for an input that is not there."""
        return {
            "argv": argv,
            "requirements": list(self.requirements),
            "inputs": existing_paths(self.inputs),
            "outputs": list(self.outputs),
            "to": absolute(self.to or "."),
            "variables": variables(self.env),
            "runtime": self.runtime,
            "tiers": list(self.tiers),
            "image": self.image,
            "network": self.network,
            "cpus": self.cpus,
            "memory_bytes": self.memory,
            "disk_bytes": self.disk,
            "gpus": self.gpus,
            "lifetime_s": self.lifetime,
            "timeout_s": self.timeout,
            "name": self.name,
        }


_FILES = [
    click.option(
        "--in",
        "inputs",
        multiple=True,
        metavar="PATH",
        help="Send a file or folder along; it has its own name there.",
    ),
    click.option("--out", "outputs", multiple=True, metavar="GLOB", help="Bring these files back."),
    click.option("--to", metavar="DIR", help="Where to; else the current folder."),
]
_TIMEOUT = click.option(
    "--timeout", type=DURATION, metavar="DURATION", help="Stop the command after this."
)
_OPTIONS = [
    click.option(
        "-e", "--env", multiple=True, metavar="K=V", help="Set a variable of the command."
    ),
    click.option(
        "--requirement",
        "requirements",
        multiple=True,
        metavar="PKG",
        help="Have a Python package there, like `numpy>=2`.",
    ),
    click.option(
        "--cpus",
        type=click.FloatRange(min=0, min_open=True),
        metavar="N",
        help="Cores that it needs; else 1.",
    ),
    click.option("--memory", type=SIZE, metavar="SIZE", help="Memory that it needs; else 1G."),
    click.option("--disk", type=SIZE, metavar="SIZE", help="Disk that it needs; else 1G."),
    click.option(
        "--gpus", type=click.IntRange(min=0), default=0, metavar="N", help="GPUs that it needs."
    ),
    click.option(
        "--lifetime",
        type=DURATION,
        metavar="DURATION",
        help="Give the place back after this, whatever runs; else 2h. Some owners allow `none`.",
    ),
    click.option(
        "--runtime",
        type=click.Choice(["auto", "docker", "process"]),
        default="auto",
        help="What it runs in.",
    ),
    click.option(
        "--tier",
        "tiers",
        multiple=True,
        metavar="TIER",
        help="Walls that it accepts: container, userns, ...; none is host access.",
    ),
    click.option(
        "--image", default="", metavar="NAME", help="The container's image; else the node's own."
    ),
    click.option(
        "--network",
        type=click.Choice(["none", "proxy", "bridge"]),
        default="none",
        help="`proxy`: HTTP and HTTPS, where the node's owner allows it.",
    ),
    click.option("--name", default="", metavar="NAME", help="A name for people."),
]


def again_option(function: _Decorated) -> _Decorated:
    """Add `--again` to a command that begins a job."""
    return click.option(
        "--again",
        is_flag=True,
        help="Begin a new job though the very same is running already.",
    )(function)


def verify_option(function: _Decorated) -> _Decorated:
    """Add the share of tasks that are done twice and compared."""
    return click.option(
        "--verify",
        type=click.FloatRange(0, 1),
        default=0.0,
        metavar="SHARE",
        help="Do this share of the tasks again on another node and compare, like `0.1`.",
    )(function)


def priority_option(function: _Decorated) -> _Decorated:
    """Add which of this node's jobs come first."""
    return click.option(
        "--priority",
        type=click.IntRange(-100, 100),
        default=0,
        metavar="N",
        help="Higher ones first, of the jobs of this node; else 0.",
    )(function)


def work_options(function: _Decorated) -> _Decorated:
    """Add the options to a command; it takes them as one `WorkOptions`, `work`."""
    return _with([*_FILES, *_OPTIONS, _TIMEOUT], function)


def place_options(function: _Decorated) -> _Decorated:
    """Add those that say what a place is: it has no files and no timeout."""
    return _with(_OPTIONS, function)


def _with(
    options: Sequence[Callable[[_Decorated], _Decorated]], function: _Decorated
) -> _Decorated:
    for option in reversed(options):
        function = option(function)
    return function


def taken_from(options: dict[str, Any]) -> WorkOptions:
    """Return the shared options, removing them from a command's own."""
    usual = {"inputs": (), "outputs": (), "to": None, "timeout": None}
    return WorkOptions(
        **{name: options.pop(name, usual.get(name)) for name in WorkOptions.__slots__}
    )
