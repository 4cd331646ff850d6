"""Claims about a hundred nodes that run the shipped membership code over a lossy network."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import pytest

from p2prc.errors import InvalidInput
from p2prc.simulation import Milestone, Report, load_scenario, run_scenario, scenario_names
from p2prc.simulation.scenario import parse_scenario

GOSSIP_S = 4.0
"""How long news may take to reach all of a hundred nodes, every tenth message lost."""


def settled_after_s(report: Report, name: str) -> list[float]:
    """How long each happening of this name took to be known to all; inf when it never was."""
    return [
        float("inf") if milestone.settled_after_s is None else milestone.settled_after_s
        for milestone in report.milestones
        if milestone.name == name
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_a_hundred_joining_nodes_all_know_all(seed: int) -> None:
    report = run_scenario(load_scenario("join"), seed)
    # A lost dial is tried again after three seconds, and may be lost again.
    assert max(settled_after_s(report, "all started")) < 15
    assert report.false_deaths == 0
    assert report.bytes_per_node_per_s < 40_000


@pytest.mark.parametrize("seed", [1, 2])
def test_a_crash_and_a_return_are_known_to_all(seed: int) -> None:
    report = run_scenario(load_scenario("crash"), seed)
    assert max(settled_after_s(report, "crash")) < 5.5 + 3 + 1
    # The second one has lost its disk and its clock is a day behind.
    assert max(settled_after_s(report, "restart")) < 2 * GOSSIP_S
    assert report.is_settled


def test_a_cut_network_is_two_networks_and_then_one_again() -> None:
    report = run_scenario(load_scenario("partition"), 1)
    assert settled_after_s(report, "cut")[0] < 30
    assert settled_after_s(report, "heal")[0] < 20
    assert report.is_settled


def test_leaving_is_known_at_once_and_a_broken_link_kills_nobody() -> None:
    report = run_scenario(load_scenario("leave"), 1)
    assert settled_after_s(report, "leave")[0] < GOSSIP_S
    assert report.false_deaths == 0
    assert report.is_settled


def test_a_lying_member_is_contained() -> None:
    report = run_scenario(load_scenario("liar"), 1)
    # Its doubts are refuted before anybody is held dead, nothing that it forged was believed,
    # and a node's return is known as fast as ever: every picture was right again.
    assert report.false_deaths == 0
    assert settled_after_s(report, "restart")[0] < 2 * GOSSIP_S
    refused = ("forged", "not-member", "foreign-network", "too-many", "shunned")
    assert all(report.refusals[reason] > 0 for reason in refused)
    # Without it, a node sends about 7 kB/s here.
    assert report.bytes_per_node_per_s < 120_000


def test_a_node_in_a_network_of_three_sends_next_to_nothing() -> None:
    scenario = msgspec.structs.replace(load_scenario("join"), nodes=3, loss=0.0, duration_s=60)
    report = run_scenario(scenario)
    assert report.is_settled
    assert report.idle_bytes_per_node_per_s < 600
    assert report.messages_per_node_per_s < 4


_RUN = """
from msgspec.structs import replace
from p2prc.simulation import load_scenario, run_scenario
for name in ("liar", "nat", "churn"):
    print(run_scenario(replace(load_scenario(name), nodes=16, duration_s=35), 7))
"""


def test_a_run_is_the_same_in_every_process() -> None:
    reports = {
        subprocess.run(
            [sys.executable, "-c", _RUN],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            check=True,
            capture_output=True,
            timeout=60,
        ).stdout
        for hash_seed in ("0", "1")
    }
    assert len(reports) == 1
    assert b"liar" in reports.pop()


def test_a_thousand_settled_nodes_keep_the_promises_of_their_scenario() -> None:
    report = run_scenario(load_scenario("change"))
    assert report.nodes == 1000
    assert max(settled_after_s(report, "change")) < 1.6
    assert report.has_met_all


def test_a_thousand_nodes_know_of_a_death() -> None:
    report = run_scenario(load_scenario("death"))
    assert report.nodes == 1000
    assert settled_after_s(report, "crash")[0] < 10
    assert report.false_deaths == 0


def test_routers_of_every_kind_and_a_relay_that_dies_part_nobody() -> None:
    report = run_scenario(load_scenario("nat"))
    assert report.is_settled
    assert report.false_deaths == 0
    assert 0.2 < report.connections_relayed_share < 0.8
    assert report.relayed_bytes > 0


def test_wrong_clocks_do_no_harm() -> None:
    report = run_scenario(load_scenario("skew"))
    assert report.is_settled
    assert report.false_suspicions == 0


def test_a_crowd_is_known_to_all() -> None:
    report = run_scenario(load_scenario("flash-crowd"))
    assert report.is_settled
    assert settled_after_s(report, "crowd")[0] < 10


def test_another_seed_is_another_run() -> None:
    scenario = msgspec.structs.replace(load_scenario("join"), nodes=10)
    assert run_scenario(scenario, 1).trace != run_scenario(scenario, 2).trace


def test_every_scenario_that_ships_can_be_read() -> None:
    assert {"crash", "join", "leave", "liar", "partition"} <= set(scenario_names())
    for name in scenario_names():
        assert load_scenario(name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "name = 1",
        "name = 'a'\ndescription = ''\nduration_s = 1\nsurprise = 1",
        "name = 'a'\ndescription = ''\nduration_s = 1\nnodes = 2\n"
        "[[happenings]]\nkind = 'crash'\nat_s = 1\nnode = 2",
    ],
)
def test_a_malformed_scenario_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        parse_scenario(text)


def test_a_scenario_that_does_not_ship_is_refused_with_those_that_do() -> None:
    with pytest.raises(InvalidInput) as refused:
        load_scenario("../secrets")
    assert "partition" in refused.value.hint


def test_a_milestone_that_never_settles_says_so() -> None:
    text = """
name = "cut-off"
description = "the run ends before anybody can have noticed"
duration_s = 12.5
nodes = 5
[[happenings]]
kind = "crash"
at_s = 12
node = 1
"""
    report = run_scenario(parse_scenario(text))
    assert report.milestones[-1] == Milestone("crash", 12.0, None, None, 1)
    assert not report.is_settled
