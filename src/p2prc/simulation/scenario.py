"""Scenarios are data: how many nodes, what network, and what happens when.

The ones that ship lie beside this module as TOML; anybody may write another. What each key means is
said in docs/simulation.md.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2prc.errors import InvalidInput

NODES_LIMIT = 20_000
SCENARIO_LIMIT_BYTES = 256 * 1024
_FOLDER = files("p2prc.simulation") / "scenarios"
_Seconds = Annotated[float, Meta(ge=0, le=86_400)]
_Number = Annotated[int, Meta(ge=0, lt=NODES_LIMIT)]
_Share = Annotated[float, Meta(ge=0, le=1)]
_PartShare = Annotated[float, Meta(gt=0, lt=1)]
_Name = Annotated[str, Meta(min_length=1, max_length=64, pattern="^[a-z0-9][a-z0-9-]*$")]


class _Happening(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind"):
    """Something that is done to the network at a moment."""

    at_s: _Seconds


class Change(_Happening, frozen=True, tag="change"):
    """The node says something new of itself. Without `node`, chance chooses."""

    node: _Number | None = None


class Crash(_Happening, frozen=True, tag="crash"):
    """The node stops without a word. Without `node`, chance chooses."""

    node: _Number | None = None


class Restart(_Happening, frozen=True, tag="restart"):
    """A crashed node starts again; without its disk it remembers nobody.

    With `clock_back_s` its wall clock is wrong, so that its record's version is behind.
    """

    node: _Number
    keeps_disk: bool = True
    clock_back_s: _Seconds = 0.0


class Leave(_Happening, frozen=True, tag="leave"):
    """The node says that it leaves the network, and is gone a second later."""

    node: _Number | None = None


class Crowd(_Happening, frozen=True, tag="crowd"):
    """So large a share of all nodes, which was not there before, joins within `over_s`."""

    share: _PartShare
    over_s: _Seconds = 1.0


class Cut(_Happening, frozen=True, tag="cut"):
    """So large a share of the nodes can no longer talk with the others."""

    share: _PartShare = 0.5


class Heal(_Happening, frozen=True, tag="heal"):
    """Everybody can talk with everybody again."""


class Unlink(_Happening, frozen=True, tag="unlink"):
    """The node's connections break, and it may make new ones. Without `node`, chance chooses."""

    node: _Number | None = None


class Lie(_Happening, frozen=True, tag="lie"):
    """The node, a member, starts to send lies besides."""

    node: _Number


Happening = Change | Crash | Restart | Leave | Crowd | Cut | Heal | Unlink | Lie


class Nat(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which share of the nodes stands where; the shares add up to one.

    `cone` lets paths be punched, `symmetric` draws another port for each peer, `blocked` lets no
    UDP through.
    """

    public: _Share = 1.0
    cone: _Share = 0.0
    symmetric: _Share = 0.0
    blocked: _Share = 0.0


class Relays(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Who forwards between nodes that find no direct way.

    `members`: so many of the public nodes do, and fall with them. Else they stand outside.
    """

    count: Annotated[int, Meta(ge=0, le=100)] = 0
    are_members: bool = False


class Churn(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nodes crash at random, and come back after a while with their disk."""

    share_per_minute: Annotated[float, Meta(ge=0, le=10)]
    from_s: _Seconds = 0.0
    until_s: _Seconds = 86_400.0
    down_s: tuple[_Seconds, _Seconds] = (20.0, 60.0)


class Clocks(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Wall clocks are up to `wrong_by_s` wrong; steady ones up to `drift` too fast or slow."""

    wrong_by_s: _Seconds = 0.0
    drift: Annotated[float, Meta(ge=0, le=0.5)] = 0.0


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure that must not be above `at_most`, in networks of at most `up_to_nodes`.

    `of` names the happening when the figure is `known-to-all-s`.
    """

    figure: Literal[
        "known-to-all-s",
        "wrong-at-end",
        "false-deaths-per-1000-node-hours",
        "bytes-per-node-per-s",
    ]
    at_most: Annotated[float, Meta(ge=0)]
    of: str = ""
    up_to_nodes: Annotated[int, Meta(ge=2, le=NODES_LIMIT)] = NODES_LIMIT


class Scenario(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A network and its fate. Latencies are log-normal around the median, drawn for each pair.

    `starts`: `cold` nodes join one after another within `join_over_s`; `warm` ones have known each
    other for long, and only begin to connect.
    """

    name: _Name
    description: Annotated[str, Meta(max_length=500)]
    duration_s: Annotated[float, Meta(gt=0, le=86_400)]
    nodes: Annotated[int, Meta(ge=2, le=NODES_LIMIT)] = 100
    seed: int = 1
    starts: Literal["cold", "warm"] = "cold"
    join_over_s: _Seconds = 5.0
    loss: Annotated[float, Meta(ge=0, le=0.9)] = 0.0
    latency_median_ms: Annotated[float, Meta(gt=0, le=10_000)] = 30.0
    latency_sigma: Annotated[float, Meta(ge=0, le=3)] = 0.5
    latency_jitter: Annotated[float, Meta(ge=0, le=10)] = 0.2
    bandwidth_mbit_per_s: Annotated[float, Meta(gt=0, le=100_000)] = 20.0
    notice_s: tuple[_Seconds, _Seconds] = (3.5, 5.5)
    gossip_interval_s: Annotated[float, Meta(ge=0.01, le=60)] | None = None
    nat: Nat = Nat()
    relays: Relays = Relays()
    churn: Churn | None = None
    clocks: Clocks = Clocks()
    happenings: Annotated[tuple[Happening, ...], Meta(max_length=10_000)] = ()
    checks: Annotated[tuple[Check, ...], Meta(max_length=100)] = ()


def parse_scenario(text: str) -> Scenario:
    """Return the scenario that the TOML describes. Raises InvalidInput."""
    if len(text) > SCENARIO_LIMIT_BYTES:
        raise InvalidInput(f"a scenario has at most {SCENARIO_LIMIT_BYTES} bytes")
    try:
        scenario = msgspec.toml.decode(text, type=Scenario)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise InvalidInput(f"not a scenario: {error}"[:300]) from error
    return checked(scenario)


def with_nodes(scenario: Scenario, nodes: int) -> Scenario:
    """Return the same fate of another number of nodes. Raises InvalidInput."""
    if not 2 <= nodes <= NODES_LIMIT:
        raise InvalidInput(f"a simulation has 2 to {NODES_LIMIT} nodes")
    return checked(msgspec.structs.replace(scenario, nodes=nodes))


def checked(scenario: Scenario) -> Scenario:
    """Return it when its parts fit each other. Raises InvalidInput."""
    crowds = 0.0
    for happening in scenario.happenings:
        kind = type(happening).__name__.lower()
        node = getattr(happening, "node", None)
        if node is not None and node >= scenario.nodes:
            raise InvalidInput(
                f"{kind} happens to node {node}, and there are {scenario.nodes} nodes",
                hint=f"nodes are numbered from 0: take `--nodes {node + 1}` or more",
            )
        if happening.at_s > scenario.duration_s:
            raise InvalidInput(
                f"{kind} happens at {happening.at_s:g} s, after the end"
                f" at {scenario.duration_s:g} s"
            )
        if isinstance(happening, Crowd):
            crowds += happening.share
    nat = scenario.nat
    total = nat.public + nat.cone + nat.symmetric + nat.blocked
    if abs(total - 1.0) > 1e-6:
        raise InvalidInput(f"the shares of nat add up to {total:g} instead of 1")
    if crowds > 0.95:
        raise InvalidInput("the crowds leave nobody whom they could join")
    if scenario.relays.are_members and scenario.relays.count and nat.public == 0.0:
        raise InvalidInput("relays that are members need public nodes")
    for check in scenario.checks:
        if (check.figure == "known-to-all-s") != bool(check.of):
            raise InvalidInput("a check has `of` when its figure is known-to-all-s, and only then")
    for low_s, high_s in (scenario.notice_s, *([scenario.churn.down_s] if scenario.churn else [])):
        if low_s > high_s:
            raise InvalidInput(f"the range {low_s:g} to {high_s:g} s is upside down")
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
