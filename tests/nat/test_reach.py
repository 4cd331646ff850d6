"""Where nodes are reached, as it changes: an address outside, a relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nat.lab import Lab
from tests.nat.nodes import LabNode, command_on, commands_between, join_all, pairs_of, path_to
from tests.nat.rules import Nat
from tests.nat.services import iroh_relay, running_iroh_relay
from tests.system.nodes import stop_all, up_all, wait_until

pytestmark = pytest.mark.timeout(180)

SEEN_WITHIN_S = 15.0


def test_who_gets_another_outside_address_is_known_there_soon(lab: Lab, tmp_path: Path) -> None:
    router = lab.router("moves", Nat.PORT_RESTRICTED)
    hosts = [
        lab.host("moves-pub"),
        lab.host("moves-ada", behind=router),
        lab.host("moves-bob", behind=lab.router("stays", Nat.PORT_RESTRICTED)),
    ]
    nodes = _, ada, bob = [LabNode(tmp_path, host) for host in hosts]
    try:
        up_all(nodes)
        join_all(nodes)
        wait_until(lambda: f"{router.address}:8088" in ada.addresses, "she is seen", timeout_s=30)
        before, after = router.address, router.address.rpartition(".")[0] + ".77"
        router.change_address(after)
        wait_until(
            lambda: f"{after}:8088" in ada.addresses and f"{before}:8088" not in ada.addresses,
            "she tells her new address and no other",
            timeout_s=SEEN_WITHIN_S,
        )
        way = command_on(bob, ada)
        assert way.is_there, way
        wait_until(lambda: path_to(bob, ada) == "direct", "they meet again", timeout_s=30)
    finally:
        stop_all(nodes)


def test_a_network_of_two_families_of_addresses_is_one(lab: Lab, tmp_path: Path) -> None:
    hosts = [
        lab.host("six-pub", ipv6=True),
        lab.host("six-only", ipv6=True),
        lab.host("six-none", behind=lab.router("six-nat", Nat.PORT_RESTRICTED)),
    ]
    hosts[1].ip(f"addr del {hosts[1].address}/24 dev eth0")
    nodes = [LabNode(tmp_path, host) for host in hosts]
    try:
        up_all(nodes)
        join_all(nodes)
        wait_until(lambda: all(node.json("status")["relays"] for node in nodes), "all have a way")
        # She that has IPv6 alone and he that has IPv4 alone meet by a relay that has both.
        assert [str(way) for way in commands_between(pairs_of(nodes)) if not way.is_there] == []
    finally:
        stop_all(nodes)


def test_whoever_has_no_udp_meets_by_a_relay_and_hears_its_farewell(
    lab: Lab, tmp_path: Path
) -> None:
    hosts = [lab.host("bye-pub")] + [
        lab.host(name, behind=lab.router(f"{name}-nat", Nat.PORT_RESTRICTED, blocks_udp=True))
        for name in ("bye-ada", "bye-bob")
    ]
    nodes = relay, ada, bob = [LabNode(tmp_path, host) for host in hosts]
    try:
        up_all(nodes)
        join_all(nodes)
        # Nobody here could try the relay's UDP port: it serves all the same.
        way = command_on(ada, bob)
        assert (way.is_there, way.path) == (True, "relayed"), way
        relay.p2prc("down")
        wait_until(
            lambda: {node.states()[relay.name] for node in (ada, bob)} == {"left"},
            "they heard it",
        )
    finally:
        stop_all(nodes)


def test_the_public_relays_that_are_set_serve_who_has_nothing_else(
    lab: Lab, tmp_path: Path
) -> None:
    if not (program := iroh_relay()):
        pytest.skip("no program `iroh-relay` (variable P2PRC_IROH_RELAY)")
    with running_iroh_relay(lab.host("set-relay"), program) as relay:
        nodes = ada, bob = [
            LabNode(tmp_path, lab.host(name, behind=lab.router(f"{name}-nat", Nat.SYMMETRIC)))
            for name in ("set-ada", "set-bob")
        ]
        ada.variables["P2PRC_RELAY_PUBLIC"] = relay.url
        try:
            up_all(nodes)
            assert ada.json("invite")["reach"] == "relay"
            assert any("--relay none" in notice for notice in ada.json("status")["notices"])
            join_all(nodes)
            assert bob.states() == {ada.name: "alive", bob.name: "alive"}
            # What the ticket named lasts, whoever is started first.
            for node in nodes:
                node.p2prc("down")
            up_all([bob])
            wait_until(lambda: bob.json("status")["relays"], "he is at the relay again")
            up_all([ada])
            wait_until(lambda: command_on(bob, ada).is_there, "they meet again")
            assert ada.log.count("--relay none") == 2, "it is said once in each of two lives"
        finally:
            stop_all(nodes)


def test_a_relay_of_another_network_is_told_apart(lab: Lab, tmp_path: Path) -> None:
    ada = LabNode(tmp_path, lab.host("apart", behind=lab.router("apart-nat", Nat.SYMMETRIC)))
    host = lab.host("apart-other")
    other = LabNode(tmp_path, host)
    try:
        other.up("--no-lend")
        ada.up("--relay", f"http://{host.address}:8088")
        ada.p2prc("invite", status=6)
        checks = {row["check"]: row for row in ada.p2prc("--json", "doctor", status=6).data}
        (found,) = [row for check, row in checks.items() if check.startswith("relay http")]
        assert "another network" in found["finding"]
        ada.p2prc("join", other.p2prc("invite", "--admin").out.strip())
        assert ada.json("invite")["reach"] == "relay"
    finally:
        stop_all([ada, other])


def test_one_member_outside_is_enough_to_tell_what_a_nat_is(lab: Lab, tmp_path: Path) -> None:
    told = {Nat.SYMMETRIC: "another port to everyone", Nat.PORT_RESTRICTED: "keeps one port for us"}
    hosts = [lab.host("kind-pub")] + [
        lab.host(f"kind-{nat.name[:4].lower()}", behind=lab.router(f"nat-{nat.name[:4]}", nat))
        for nat in told
    ]
    nodes = [LabNode(tmp_path, host) for host in hosts]
    try:
        up_all(nodes)
        join_all(nodes)
        for node, words in zip(nodes[1:], told.values(), strict=True):
            wait_until(
                lambda node=node, words=words: words in node.p2prc("doctor", status=None).out,  # type: ignore[misc]
                f"{node.name} is told",
                timeout_s=30,
            )
    finally:
        stop_all(nodes)
