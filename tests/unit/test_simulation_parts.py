"""Ways between nodes, what the wire costs, what is checked, and the picture's axes."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest

from p2prc.simulation import Convergence, parse_scenario, wire_costs
from p2prc.simulation.checks import verdicts
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.paths import Place, Way, places, way_between
from p2prc.simulation.scenario import Nat
from p2prc.simulation.traffic import Traffic

PUBLIC, CONE, SYMMETRIC, BLOCKED = Place


@pytest.mark.parametrize(
    ("caller", "callee", "with_relay", "without"),
    [
        (PUBLIC, PUBLIC, Way.DIRECT, Way.DIRECT),
        (CONE, PUBLIC, Way.DIRECT, Way.DIRECT),
        (SYMMETRIC, PUBLIC, Way.DIRECT, Way.DIRECT),
        (PUBLIC, CONE, Way.DIRECT, Way.NONE),
        (PUBLIC, SYMMETRIC, Way.DIRECT, Way.NONE),
        (CONE, CONE, Way.DIRECT, Way.NONE),
        (CONE, SYMMETRIC, Way.RELAYED, Way.NONE),
        (SYMMETRIC, CONE, Way.RELAYED, Way.NONE),
        (SYMMETRIC, SYMMETRIC, Way.RELAYED, Way.NONE),
        (BLOCKED, PUBLIC, Way.RELAYED, Way.NONE),
        (PUBLIC, BLOCKED, Way.RELAYED, Way.NONE),
        (CONE, BLOCKED, Way.RELAYED, Way.NONE),
    ],
)
def test_the_way_between_two_nodes(
    caller: Place, callee: Place, with_relay: Way, without: Way
) -> None:
    assert way_between(caller, callee, has_relay=True) is with_relay
    assert way_between(caller, callee, has_relay=False) is without


def test_places_are_dealt_as_the_shares_say_and_relays_can_be_reached() -> None:
    dealt = places(
        Nat(public=0.1, cone=0.5, symmetric=0.3, blocked=0.1), 100, Random(1), public_first=3
    )
    assert Counter(dealt) == {PUBLIC: 10, CONE: 50, SYMMETRIC: 30, BLOCKED: 10}
    assert dealt[:3] == [PUBLIC] * 3


def test_a_link_costs_both_ends_as_long_as_it_lasts() -> None:
    clock = VirtualClock()
    traffic = Traffic(3, clock)
    traffic.link_opened(0, 1)
    clock.run_until(10.0)
    traffic.link_closed(1, 0)
    traffic.send(2, 50)
    clock.run_until(20.0)
    kept = 10 * wire_costs.KEEP_ALIVE_BYTES_PER_S
    assert traffic.per_node() == [kept, kept, 50]
    assert traffic.total() == 2 * kept + 50


def test_large_messages_travel_in_several_packets() -> None:
    assert wire_costs.packets_of(1) == 1
    assert wire_costs.packets_of(wire_costs.PACKET_PAYLOAD_BYTES) == 2
    assert wire_costs.acknowledgement_bytes(3) == 2 * wire_costs.ACKNOWLEDGEMENT_BYTES


TEXT = """
name = "mine"
description = ""
duration_s = 1
[[checks]]
figure = "known-to-all-s"
of = "crash"
at_most = 2
[[checks]]
figure = "known-to-all-s"
of = "crash"
at_most = 1
up_to_nodes = 100
"""


@pytest.mark.parametrize(
    ("nodes", "overtaken", "median_s", "at_most", "ok"),
    [
        (100, 0, 1.0, 1.0, True),
        (100, 0, 1.1, 1.0, False),
        (101, 0, 1.1, 2.0, True),
        # Where most were never known to all, the median of the others says nothing.
        (100, 2, 0.5, 1.0, False),
    ],
)
def test_the_check_for_the_smallest_networks_that_fits_counts(
    *, nodes: int, overtaken: int, median_s: float, at_most: float, ok: bool
) -> None:
    found = verdicts(
        parse_scenario(f"nodes = {nodes}\n{TEXT}"),
        convergence=(Convergence("crash", 3, overtaken, None, median_s, median_s),),
        wrong_at_end=0,
        false_deaths=0,
        node_hours=1.0,
        idle_bytes_per_node_per_s=0.0,
    )
    assert [(one.at_most, one.ok) for one in found] == [(at_most, ok)]


def test_no_happening_means_no_proof() -> None:
    found = verdicts(
        parse_scenario(TEXT),
        convergence=(),
        wrong_at_end=0,
        false_deaths=0,
        node_hours=1.0,
        idle_bytes_per_node_per_s=0.0,
    )
    assert [(one.value, one.ok) for one in found] == [(None, False)]
