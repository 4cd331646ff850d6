"""Scenarios are data: how many nodes, what network, and what happens when.

The ones that ship lie beside this module as TOML; anybody may write another.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import InvalidInput

_FOLDER = files("p2prc.simulation") / "scenarios"
_Seconds = Annotated[float, Meta(ge=0, le=86_400)]
_Number = Annotated[int, Meta(ge=0, lt=10_000)]


class _Happening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Something that is done to the network at a moment."""

    at_s: _Seconds


class Crash(_Happening, frozen=True, tag="crash"):
    """The node stops without a word."""

    node: _Number


class Restart(_Happening, frozen=True, tag="restart"):
    """A crashed node starts again; without its disk it remembers nobody.

    With `clock_back_s` its wall clock is wrong, so that its record's version is behind.
    """

    node: _Number
    keeps_disk: bool = True
    clock_back_s: _Seconds = 0.0


class Leave(_Happening, frozen=True, tag="leave"):
    """The node says that it leaves the network, and is gone a second later."""

    node: _Number


class Cut(_Happening, frozen=True, tag="cut"):
    """The first so many nodes can no longer talk with the others."""

    first: _Number


class Heal(_Happening, frozen=True, tag="heal"):
    """Everybody can talk with everybody again."""


class Unlink(_Happening, frozen=True, tag="unlink"):
    """The node's connections break, and it may make new ones."""

    node: _Number


class Lie(_Happening, frozen=True, tag="lie"):
    """The node, a member, starts to send lies besides."""

    node: _Number


Happening = Crash | Restart | Leave | Cut | Heal | Unlink | Lie


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network and its fate. Latencies are log-normal around the median."""

    name: str
    description: str
    duration_s: _Seconds
    nodes: Annotated[int, Meta(ge=2, le=10_000)] = 100
    seed: int = 1
    loss: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    latency_median_ms: Annotated[float, Meta(gt=0)] = 30.0
    latency_sigma: Annotated[float, Meta(ge=0)] = 0.5
    join_over_s: _Seconds = 5.0
    notice_s: tuple[_Seconds, _Seconds] = (3.5, 4.4)
    happenings: tuple[Happening, ...] = ()


def parse_scenario(text: str) -> Scenario:
    """Return the scenario that the TOML describes. Raises InvalidInput."""
    try:
        scenario = msgspec.toml.decode(text, type=Scenario)
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"not a scenario: {error}") from error
    for happening in scenario.happenings:
        if getattr(happening, "node", 0) >= scenario.nodes:
            raise InvalidInput(f"something happens to a node above {scenario.nodes - 1}")
    return scenario


def load_scenario(name: str) -> Scenario:
    """Return one of the scenarios that ship. Raises InvalidInput."""
    if name not in scenario_names():
        raise InvalidInput(f"no scenario {name!r}", hint=f"one of {', '.join(scenario_names())}")
    return parse_scenario((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))


def scenario_names() -> list[str]:
    """Return the names of the scenarios that ship."""
    names = (entry.name for entry in _FOLDER.iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))
