"""Machines whose clocks are a day off: members like all others, and their owners are told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.system.nodes import NodeUnderTest, sees_all, stop_all, up_all, wait_until

LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))

pytestmark = pytest.mark.skipif(
    not LIBRARIES, reason="no wrong clocks without libfaketime (Debian: libfaketime)"
)


def node_with_clock(folder: Path, name: str, offset: str) -> NodeUnderTest:
    variables = {
        "LD_PRELOAD": str(LIBRARIES[0]),
        "FAKETIME": offset,
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_DISABLE_SHM": "1",
    }
    return NodeUnderTest(folder / name, name, variables=variables)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    """Two that are right, one a day ahead, one a day behind; all started, none joined."""
    folder = tmp_path_factory.mktemp("clocks")
    made = [
        NodeUnderTest(folder / "right", "right"),
        node_with_clock(folder, "ahead", "+1d"),
        node_with_clock(folder, "behind", "-1d"),
        NodeUnderTest(folder / "late", "late"),
    ]
    try:
        up_all(made)
        yield made
    finally:
        stop_all(made)


def clock_of(node: NodeUnderTest) -> dict[str, Any]:
    rows = node.p2prc("--json", "doctor", status=None).data
    return next(row for row in rows if row["check"] == "clock")


def test_a_clock_that_is_a_day_off_does_no_harm_and_is_told(nodes: list[NodeUnderTest]) -> None:
    right, ahead, behind, late = nodes
    # To the one ahead every ticket has expired; the member that admits decides.
    ahead.p2prc("join", right.json("invite", "--lan", "--expires", "1h")["ticket"])
    only = clock_of(ahead)
    assert not only["ok"]
    assert "24 h ahead of the only other" in only["finding"]
    behind.p2prc("join", right.json("invite", "--lan", "--admin")["ticket"])
    # To whom it is for, this one expired yesterday.
    late.p2prc("join", behind.json("invite", "--lan", "--expires", "1h")["ticket"])
    for node in nodes:
        wait_until(lambda node=node: sees_all(node, nodes), f"{node.name} sees all")  # type: ignore[misc]

    # Clocks are compared with those it has links with: a newcomer has one for some seconds.
    wait_until(lambda: clock_of(right)["ok"], "most others agree with it")
    wait_until(lambda: "ahead of most others" in clock_of(ahead)["finding"], "it is ahead")
    assert not clock_of(ahead)["ok"]
    wait_until(lambda: "behind most others" in clock_of(behind)["finding"], "it is behind")
    assert ahead.p2prc("doctor", status=None).status != 0

    # A new life of the one behind is newer to the others all the same.
    behind.p2prc("down")
    wait_until(lambda: late.states()["behind"] == "left", "it said goodbye")
    behind.up()
    for node in nodes:
        wait_until(lambda node=node: sees_all(node, nodes), f"{node.name} has it back")  # type: ignore[misc]
    for asker, lender in ((right, ahead), (ahead, behind), (behind, late)):
        assert asker.p2prc("run", lender.name, "--", "true").status == 0
