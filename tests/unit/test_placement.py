from __future__ import annotations

from dataclasses import replace
from random import Random

from p2prc.model.environment import EnvironmentLock
from p2prc.model.identity import NodeId
from p2prc.model.resources import GIBIBYTE, Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.placement import NodeOffer, choose, explain, why_not


def capacity(cores: int, memory: int) -> Capacity:
    return Capacity(cores * 1000, memory * GIBIBYTE, 100 * GIBIBYTE)


def offer(name: str, *, cores: int = 4, memory: int = 8, python: str = "3.11.2") -> NodeOffer:
    return NodeOffer(
        node=NodeId(name[0] * 64),
        name=name,
        is_reachable=True,
        is_lending=True,
        lent=capacity(cores, memory),
        free=capacity(cores, memory),
        runtimes=(RuntimeOffer("process", "userns"),),
        python=python,
        latency_s=0.01,
    )


def needing(*, memory: int = 1, cores: int = 1, **kwargs: object) -> Workload:
    limits = Limits(cpu_millis=cores * 1000, memory_bytes=memory * GIBIBYTE)
    return Workload(limits, **kwargs)  # type: ignore[arg-type]


ALICE = offer("alice")
BOB = offer("bob", memory=11)
TWELVE = EnvironmentLock(python="3.12", packages=())


def test_explain_names_the_requirement_that_nobody_meets_and_who_is_nearest() -> None:
    told = explain([ALICE, BOB], needing(memory=64))
    assert told == "no node lends 64 GiB of memory: the most is 11 GiB of memory on bob"
    assert explain([ALICE, BOB], needing(cores=9)) == (
        "no node lends 9 cores: the most is 4 cores on alice"
    )
    assert explain([ALICE, BOB], needing(environment=TWELVE)) == (
        "no node has Python 3.12: alice has 3.11.2, bob has 3.11.2"
    )
    assert explain([ALICE], needing(tiers=("container",))) == (
        "no node offers the tier container: alice has userns"
    )
    assert explain([ALICE], needing(image="debian")) == "no node can run image `debian`: alice"
    assert explain([], needing()) == "there is no node to run it"


def test_explain_says_when_requirements_are_met_but_not_by_one_node() -> None:
    new = offer("carol", memory=2, python="3.12")
    assert explain([ALICE, new], needing(memory=4, environment=TWELVE)) == (
        "no node meets all requirements (alice: has Python 3.11.2, not 3.12; "
        "carol: lends at most 2 GiB of memory)"
    )


def test_explain_tells_absence_and_business_apart() -> None:
    away = replace(ALICE, is_reachable=False)
    resting = replace(BOB, is_lending=False)
    assert explain([away], needing()) == "no node can be reached: alice"
    assert explain([away, resting], needing()) == "no node that can be reached lends: alice, bob"
    busy = replace(ALICE, free=Capacity())
    assert explain([busy], needing()) == "every node that could run it is busy: alice"


def test_python_is_compared_by_its_minor_version() -> None:
    old = EnvironmentLock(python="3.1", packages=())
    eleven = EnvironmentLock(python="3.11", packages=())
    assert why_not(ALICE, needing(environment=eleven)) is None
    assert why_not(ALICE, needing(environment=old)) == "has Python 3.11.2, not 3.1"
    unknown = replace(ALICE, python="")
    assert why_not(unknown, needing(environment=eleven)) == (
        "has Python of an unknown version, not 3.11"
    )


def test_a_bare_node_is_used_only_when_offered_and_after_isolated_ones() -> None:
    bare = replace(ALICE, runtimes=(RuntimeOffer("process", "none"),), latency_s=0.0)
    far = replace(BOB, latency_s=0.2)
    assert [found.name for found in choose([bare, far], needing(), Random(1))] == ["bob", "alice"]
    assert [found.name for found in choose([bare], needing(tiers=("userns",)), Random(1))] == []


def test_room_now_comes_before_nearness() -> None:
    near_but_full = replace(ALICE, free=Capacity(), latency_s=0.0)
    found = choose([near_but_full, BOB], needing(), Random(1))
    assert [node.name for node in found] == ["bob", "alice"]


def test_equal_nodes_are_asked_in_an_order_of_chance() -> None:
    equals = [offer(f"{letter}") for letter in "abcdef"]
    firsts = {choose(equals, needing(), Random(seed))[0].name for seed in range(50)}
    assert len(firsts) == 6
