"""The usual case among friends: all behind routers, nobody outside; and what opens a way."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.nat.certified import authority_for
from tests.nat.lab import Lab, Router, why_not
from tests.nat.nodes import LabNode, command_on, commands_between, join_all, pairs_of, path_to
from tests.nat.rules import Nat
from tests.nat.services import iroh_relay, mapping_service, running_iroh_relay
from tests.system.nodes import at_once, stop_all, up_all, wait_until

pytestmark = pytest.mark.timeout(180)

TOLD_WITHIN_S = 15.0
FIRST_COMMAND_S = 20.0


@contextmanager
def friends(
    lab: Lab, folder: Path, name: str, nats: list[Nat]
) -> Iterator[tuple[list[LabNode], list[Router]]]:
    """Make homes with a node in each that has not been started."""
    routers = [lab.router(f"{name}{number}-nat", nat) for number, nat in enumerate(nats)]
    nodes = [
        LabNode(folder, lab.host(f"{name}{number}", behind=router))
        for number, router in enumerate(routers)
    ]
    try:
        yield nodes, routers
    finally:
        stop_all(nodes)


def test_with_no_way_in_invite_and_doctor_say_so_and_what_to_do(lab: Lab, tmp_path: Path) -> None:
    with friends(lab, tmp_path, "alone", [Nat.PORT_RESTRICTED] * 3) as (nodes, _):
        up_all(nodes)
        at_once([lambda node=node: _is_told(node) for node in nodes])  # type: ignore[misc]


def _is_told(node: LabNode) -> None:
    for command, expected in (("invite", 6), ("doctor", None)):
        began = time.monotonic()
        said = node.p2prc(command, status=expected)
        assert time.monotonic() - began < TOLD_WITHIN_S
        assert said.status != 0
        for choice in ("UPnP", "--public", "--relay", "--lan"):
            assert choice in said.out + said.err, said
    assert node.json("invite", "--lan")["reach"] == "lan"


def test_one_router_that_opens_a_port_is_enough_for_all(lab: Lab, tmp_path: Path) -> None:
    if reason := why_not("miniupnpd"):
        pytest.skip(reason)
    nats = [Nat.PORT_RESTRICTED, Nat.PORT_RESTRICTED, Nat.SYMMETRIC]
    with (
        friends(lab, tmp_path, "upnp", nats) as (nodes, routers),
        mapping_service(routers[0], tmp_path),
    ):
        up_all(nodes)
        join_all(nodes)
        found = commands_between(pairs_of(nodes))
        assert [str(way) for way in found if not way.is_there] == []
        assert {way.path for way in found if nodes[0].name in (way.asker, way.lender)} == {"direct"}
        assert nodes[0].json("status")["public"] is True


@pytest.mark.parametrize("nat", [Nat.PORT_RESTRICTED, Nat.SYMMETRIC])
def test_a_relay_of_iroh_outside_connects_those_who_name_it(
    lab: Lab, tmp_path: Path, nat: Nat
) -> None:
    if not (program := iroh_relay()):
        pytest.skip("no program `iroh-relay` (variable P2PRC_IROH_RELAY)")
    short = "c" if nat is Nat.PORT_RESTRICTED else "s"
    outside = lab.host(f"relay-{short}")
    with ExitStack() as stack:
        relay = stack.enter_context(running_iroh_relay(outside, program))
        nodes, _ = stack.enter_context(friends(lab, tmp_path, f"out-{short}", [nat] * 3))
        # At most three commands a person: `up`, `invite`; and `up --join`, `run`.
        nodes[0].up("--relay", relay.url)
        ticket = nodes[0].p2prc("invite").out.strip()
        began = time.monotonic()
        nodes[1].up("--join", ticket)
        way = command_on(nodes[1], nodes[0])
        assert way.is_there, way
        assert time.monotonic() - began < FIRST_COMMAND_S
        nodes[2].up("--join", ticket)
        for way in commands_between(pairs_of(nodes)):
            assert way.is_there, way


def test_a_relay_that_tells_nodes_how_they_are_seen_lets_them_meet_directly(
    lab: Lab, tmp_path: Path
) -> None:
    if not (program := iroh_relay()):
        pytest.skip("no program `iroh-relay` (variable P2PRC_IROH_RELAY)")
    outside = lab.host("relay-tls")
    authority = authority_for(outside.address, tmp_path)
    if authority is None:
        pytest.skip("no authority of this machine is among those that iroh was built with")
    with ExitStack() as stack:
        relay = stack.enter_context(
            running_iroh_relay(outside, program, settings=authority.settings)
        )
        nats = [Nat.PORT_RESTRICTED] * 2
        (host, guest), _ = stack.enter_context(friends(lab, tmp_path, "tls", nats))
        for node in (host, guest):
            node.variables.update(authority.variables)
        host.up("--relay", relay.url)
        guest.up("--join", host.p2prc("invite").out.strip())
        assert command_on(guest, host).is_there
        wait_until(lambda: path_to(guest, host) == "direct", "a direct path", timeout_s=30)
