"""Placement: which nodes could run a workload, in which order to ask, and why nobody can.

Pure functions over what nodes said about themselves. An offer may be seconds old, so the provider
always has the last word.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.egress import OPEN_TIERS
from p2prc.protocol.lending import (
    NO_ISOLATION,
    cores_text,
    is_runtime_suitable,
    is_tier_accepted,
    size_text,
)

_NODES_EXPLAINED = 5
_PLENTY = 8
"""Beyond room for this many leases, distance matters more than room."""


@dataclass(frozen=True, slots=True)
class NodeOffer:
    """What a node lends, as far as we know. `lent` is its ceiling, `free` what is left of it.

    `runtimes` is best first; `python` is a version like `3.11` or `3.11.2`. `brings_s` is how long
    a job's inputs would take to come there, where they are not.
    """

    node: NodeId
    name: str
    is_reachable: bool
    is_lending: bool
    lent: Capacity
    free: Capacity
    runtimes: tuple[RuntimeOffer, ...] = ()
    python: str = ""
    platform: str = ""
    latency_s: float | None = None
    brings_s: float = 0.0


def why_not(offer: NodeOffer, workload: Workload) -> str | None:
    """Say which requirement the node does not meet even when idle; None when it meets all."""
    for requirement in _requirements(workload):
        if not requirement.is_met(offer):
            return requirement.shortage(offer)
    return None


def choose(
    offers: Sequence[NodeOffer], workload: Workload, rng: Random, *, has_ports: bool = False
) -> list[NodeOffer]:
    """Return the nodes that could run it, the best to ask first.

    With `has_ports` those come first where ports are the lease's own and can be reached.
    Room now, then isolation, then plenty of room, then nearness. The rest is chance, so that
    requesters who know the same do not all ask the same node.
    """
    matching = [offer for offer in offers if why_not(offer, workload) is None]
    rng.shuffle(matching)
    return sorted(matching, key=lambda offer: _rank(offer, workload, has_ports=has_ports))


def fitting_now(offer: NodeOffer, workload: Workload) -> int:
    """Return how many leases of this kind the node said it has room for."""
    return offer.free.times_it_fits(workload.limits)


def explain(offers: Sequence[NodeOffer], workload: Workload) -> str:
    """Say in one sentence why no node runs it: first of all, which requirement nobody meets."""
    if not offers:
        return "there is no node to run it"
    for requirement in _requirements(workload):
        if not any(requirement.is_met(offer) for offer in offers):
            return requirement.nobody(offers)
    reasons = [(offer, why_not(offer, workload)) for offer in offers]
    matching = [offer for offer, reason in reasons if reason is None]
    if matching:
        return f"every node that could run it is busy: {_names(matching)}"
    told = "; ".join(f"{offer.name}: {reason}" for offer, reason in reasons[:_NODES_EXPLAINED])
    return f"no node meets all requirements ({told})"


@dataclass(frozen=True, slots=True)
class _Requirement:
    is_met: Callable[[NodeOffer], bool]
    shortage: Callable[[NodeOffer], str]
    nobody: Callable[[Sequence[NodeOffer]], str]


def _requirements(workload: Workload) -> list[_Requirement]:
    return [_REACHABLE, _LENDING, *_amounts(workload), *_software(workload)]


_REACHABLE = _Requirement(
    is_met=lambda offer: offer.is_reachable,
    shortage=lambda _: "cannot be reached",
    nobody=lambda offers: f"no node can be reached: {_names(offers)}",
)
_LENDING = _Requirement(
    is_met=lambda offer: offer.is_lending and offer.is_reachable,
    shortage=lambda _: "lends nothing at present",
    nobody=lambda offers: f"no node that can be reached lends: {_names(offers)}",
)


def _amounts(workload: Workload) -> list[_Requirement]:
    limits = workload.limits
    return [
        _amount(limits.cpu_millis, lambda lent: lent.cpu_millis, cores_text),
        _amount(
            limits.memory_bytes,
            lambda lent: lent.memory_bytes,
            lambda size: f"{size_text(size)} of memory",
        ),
        _amount(
            limits.disk_bytes,
            lambda lent: lent.disk_bytes,
            lambda size: f"{size_text(size)} of disk",
        ),
        _amount(limits.gpus, lambda lent: lent.gpus, _cards_text),
    ]


def _amount(needed: int, of: Callable[[Capacity], int], text: Callable[[int], str]) -> _Requirement:
    def nobody(offers: Sequence[NodeOffer]) -> str:
        able = [offer for offer in offers if offer.is_reachable and offer.is_lending]
        most = max(able, key=lambda offer: of(offer.lent))
        found = of(most.lent)
        if not found:
            return f"no node lends {text(needed)}, nor a part of it"
        return f"no node lends {text(needed)}: the most is {text(found)} on {most.name}"

    return _Requirement(
        is_met=lambda offer: offer.is_reachable and offer.is_lending and of(offer.lent) >= needed,
        shortage=lambda offer: (
            f"lends {'at most ' if of(offer.lent) else ''}{text(of(offer.lent))}"
        ),
        nobody=nobody,
    )


def _software(workload: Workload) -> list[_Requirement]:
    needed = [_runtime(workload), _tier(workload)]
    if workload.environment is not None:
        needed.append(_python(workload.environment.python))
    return needed


def _runtime(workload: Workload) -> _Requirement:
    wanted = f"image `{workload.image}`" if workload.image else f"runtime `{workload.runtime}`"
    if workload.runtime == "auto" and not workload.image:
        wanted = "anything with a graphics card" if workload.limits.gpus else "any command"
    return _Requirement(
        is_met=lambda offer: any(is_runtime_suitable(way, workload) for way in offer.runtimes),
        shortage=lambda _: f"cannot run {wanted}",
        nobody=lambda offers: f"no node can run {wanted}: {_names(offers)}",
    )


def _tier(workload: Workload) -> _Requirement:
    wanted = ", ".join(workload.tiers)
    with_what = " with volumes" if workload.volumes else ""

    def suitable(offer: NodeOffer) -> str:
        ways = tuple(way for way in offer.runtimes if is_runtime_suitable(way, workload))
        return _tiers(replace(offer, runtimes=ways))

    return _Requirement(
        is_met=lambda offer: any(
            is_runtime_suitable(way, workload) and is_tier_accepted(way, workload)
            for way in offer.runtimes
        ),
        shortage=lambda offer: f"offers tier {suitable(offer)}{with_what}, not {wanted}",
        nobody=lambda offers: (
            f"no node offers the tier {wanted}{with_what}: {_offered(offers, suitable)}"
        ),
    )


def _python(minor: str) -> _Requirement:
    return _Requirement(
        is_met=lambda offer: _minor(offer.python) == minor,
        shortage=lambda offer: f"has Python {offer.python or 'of an unknown version'}, not {minor}",
        nobody=lambda offers: (
            f"no node has Python {minor}: {_offered(offers, lambda offer: offer.python)}"
        ),
    )


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _tiers(offer: NodeOffer) -> str:
    return ", ".join(dict.fromkeys(way.tier for way in offer.runtimes))


def _cards_text(count: int) -> str:
    if not count:
        return "no graphics card: it has none to lend"
    return "1 graphics card" if count == 1 else f"{count} graphics cards"


def _names(offers: Sequence[NodeOffer]) -> str:
    return _shortened([offer.name for offer in offers])


def _offered(offers: Sequence[NodeOffer], of: Callable[[NodeOffer], str]) -> str:
    return _shortened([f"{offer.name} has {of(offer) or 'none'}" for offer in offers])


def _shortened(told: list[str]) -> str:
    rest = len(told) - _NODES_EXPLAINED
    shown = ", ".join(told[:_NODES_EXPLAINED])
    return f"{shown} and {rest} more" if rest > 0 else shown


def _rank(
    offer: NodeOffer, workload: Workload, *, has_ports: bool
) -> tuple[bool, bool, bool, int, float]:
    room = fitting_now(offer, workload)
    suitable = [way for way in offer.runtimes if is_runtime_suitable(way, workload)]
    is_unreachable = has_ports and all(way.tier in OPEN_TIERS for way in suitable)
    is_bare = all(way.tier == NO_ISOLATION for way in suitable)
    latency_s = float("inf") if offer.latency_s is None else offer.latency_s
    return (room == 0, is_unreachable, is_bare, -min(room, _PLENTY), latency_s)
