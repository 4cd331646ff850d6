"""Every way to be connected beside every other: whoever has a way runs commands on whom it likes.

One internet and one network of nodes for all pairs.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median

import pytest

from tests.nat.lab import Lab
from tests.nat.matrix import Member, build, nodes_on, running, try_pairs
from tests.nat.nodes import LabNode, pairs_of

pytestmark = pytest.mark.timeout(300)

FRESH_PATH_S = 3.0
SLOWEST_S = 10.0
PUNCHED_WITHIN_S = 10.0


@dataclass(frozen=True, slots=True)
class Connected:
    """The network that all tests here share."""

    members: list[Member]
    nodes: list[LabNode]


@pytest.fixture(scope="module")
def connected(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connected]:
    members = build(lab)
    with running(nodes_on(tmp_path_factory.mktemp("matrix"), members)) as nodes:
        yield Connected(members, nodes)


def test_every_pair_runs_commands_and_goes_direct_where_the_routers_allow(
    connected: Connected,
) -> None:
    found = try_pairs(
        connected.members,
        connected.nodes,
        pairs_of(connected.nodes),
        patience_s=PUNCHED_WITHIN_S,
    )
    assert len(found) == len(connected.nodes) * (len(connected.nodes) - 1) // 2
    assert [each.trouble for each in found if each.trouble] == []
    # One of them may have had to wait for the processor: thirteen nodes share this machine.
    assert median(each.way.seconds for each in found) < FRESH_PATH_S
    assert [str(each.way) for each in found if each.way.seconds > SLOWEST_S] == []
