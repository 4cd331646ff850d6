"""What `doctor` concludes from facts."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.daemon.doctor import missing_for_blender
from p2prc.protocol.diagnosis import (
    Facts,
    Finding,
    MachineFacts,
    NatKind,
    NetworkFacts,
    PeerFacts,
    ReachFacts,
    RelayFacts,
    diagnose,
)

MACHINE = MachineFacts(
    free_bytes=50 << 30, total_bytes=100 << 30, home="/h", tiers=(("process", "sandboxed"),)
)
REACH = ReachFacts(
    listening=("192.168.1.5:8088",),
    relay_port=8088,
    nat="cone",
    relays=(RelayFacts("http://5.5.5.5:8088/", is_home=True, latency_s=0.02),),
)
HEALTHY = Facts(reach=REACH, machine=MACHINE, network=NetworkFacts(alive=2, linked=2))
ALONE = replace(HEALTHY, reach=replace(REACH, relays=()))


def found(facts: Facts, check: str) -> Finding:
    return next(finding for finding in diagnose(facts) if finding.check == check)


def test_a_healthy_node_needs_nothing() -> None:
    assert [finding for finding in diagnose(HEALTHY) if not finding.is_ok] == []


def test_without_a_way_in_every_choice_is_named() -> None:
    way_in = found(ALONE, "reachability")
    assert not way_in.is_ok
    for choice in ("UPnP", "--public", "--relay URL", "--lan"):
        assert choice in way_in.advice


def test_a_relay_or_a_public_address_is_a_way_in() -> None:
    assert "5.5.5.5" in found(HEALTHY, "reachability").finding
    public = replace(ALONE, reach=replace(REACH, is_public=True, external=("5.1.1.1:8088",)))
    assert found(public, "reachability").is_ok


@pytest.mark.parametrize(
    ("nat", "word"),
    [
        ("symmetric", "another port"),
        ("blocked", "UDP"),
        ("double", "two routers"),
        ("carrier", "provider"),
    ],
)
def test_each_bad_router_has_its_fix(nat: NatKind, word: str) -> None:
    finding = found(replace(HEALTHY, reach=replace(REACH, nat=nat)), "nat")
    assert not finding.is_ok
    assert word in finding.finding


def test_who_is_public_need_not_care_for_the_router() -> None:
    public = replace(REACH, nat="double", is_public=True)
    assert found(replace(HEALTHY, reach=public), "nat").is_ok


def test_a_relay_that_does_not_answer_is_said() -> None:
    dead = RelayFacts("http://6.6.6.6/", trouble="connection refused", is_member=False)
    named = replace(REACH, relays=(dead,), relay_setting=dead.url)
    finding = found(replace(HEALTHY, reach=named), "relay http://6.6.6.6/")
    assert not finding.is_ok
    assert "connection refused" in finding.finding


def test_silent_relays_of_others_are_one_finding_that_needs_doing_only_without_any() -> None:
    dead = [RelayFacts(f"http://6.6.6.{i}/", trouble="no route", is_member=False) for i in range(3)]
    alive = RelayFacts("http://6.6.6.9/", is_home=True, is_member=False, latency_s=0.1)
    none = replace(HEALTHY, reach=replace(REACH, relays=tuple(dead)))
    wrong = [each for each in diagnose(none) if not each.is_ok and "relay" in each.check]
    assert [each.check for each in wrong] == ["outside relays"]
    assert all(each.url in wrong[0].finding for each in dead)
    some = replace(HEALTHY, reach=replace(REACH, relays=(*dead, alive)))
    assert all(each.is_ok for each in diagnose(some))
    assert "6.6.6.1" in found(some, "outside relays").finding


def test_bugs_in_work_for_peers_are_a_finding_only_when_there_were_any() -> None:
    assert not [each for each in diagnose(HEALTHY) if each.check == "errors"]
    ill = replace(HEALTHY, network=replace(HEALTHY.network, unforeseen=3))
    assert "3" in found(ill, "errors").finding
    assert not found(ill, "errors").is_ok


def test_relays_switched_off_are_not_asked_for() -> None:
    off = replace(HEALTHY, reach=replace(REACH, relay_setting="none", is_public=True))
    assert found(off, "relays").is_ok


@pytest.mark.parametrize(
    ("skews", "is_ok"),
    [((), True), ((5.0, -3.0), True), ((90000.0,), False), ((-90000.0, 1.0, 2.0), True)],
)
def test_the_clock_is_compared_with_most_others(skews: tuple[float, ...], is_ok: bool) -> None:
    network = NetworkFacts(alive=3, linked=3, clock_skews_s=skews)
    assert found(replace(HEALTHY, network=network), "clock").is_ok is is_ok


def test_who_is_linked_with_nobody_is_told() -> None:
    assert not found(replace(HEALTHY, network=NetworkFacts(dead=4)), "network").is_ok
    assert found(replace(HEALTHY, network=NetworkFacts()), "network").is_ok


def test_who_was_put_out_is_told_by_whom_and_not_to_look_for_the_others() -> None:
    put_out = found(replace(HEALTHY, network=NetworkFacts(suspect=2, put_out_by="ada")), "network")
    assert not put_out.is_ok
    assert "put out" in put_out.finding
    assert "`p2prc leave`" in put_out.advice


def test_a_full_disk_and_a_missing_sandbox() -> None:
    poor = MachineFacts(free_bytes=5 << 20, total_bytes=1 << 30, missing_packages=("bubblewrap",))
    facts = replace(HEALTHY, machine=poor)
    assert not found(facts, "disk").is_ok
    assert "apt-get install bubblewrap" in found(facts, "runtimes").advice
    forbidden = replace(poor, missing_packages=())
    assert "namespaces" in found(replace(HEALTHY, machine=forbidden), "runtimes").advice


def test_what_blender_lacks_is_named_and_is_no_trouble(tmp_path: Path) -> None:
    assert "rendering" not in [each.check for each in diagnose(HEALTHY)]
    (tmp_path / "libX11.so.6").touch()
    missing = missing_for_blender([tmp_path / "nowhere", tmp_path])
    assert "libx11-6" not in missing
    lacking = replace(HEALTHY, machine=replace(MACHINE, missing_for_blender=missing))
    told = found(lacking, "rendering")
    assert told.is_ok
    assert "apt-get install libxfixes3 libxi6" in told.advice


@pytest.mark.parametrize(
    ("peer", "reach", "is_ok", "said"),
    [
        (PeerFacts("ada", "alive", "direct", 0.01), REACH, True, "direct, 10.0 ms"),
        (PeerFacts("ada", "alive", "relayed", 0.01), REACH, True, "no hole"),
        (PeerFacts("ada", "alive", "relayed"), replace(REACH, nat="blocked"), True, "UDP"),
        (PeerFacts("ada", "alive", "relayed"), replace(REACH, nat="symmetric"), True, "everyone"),
        (PeerFacts("ada", "dead", trouble="x", addresses=1), REACH, False, "nobody hears"),
        (PeerFacts("ada", "left"), REACH, False, "leaves"),
        (PeerFacts("ada", "alive"), REACH, False, "no address"),
        (PeerFacts("ada", "alive", trouble="timed out", addresses=1), REACH, False, "timed out"),
    ],
)
def test_the_path_to_a_peer_is_explained(
    peer: PeerFacts, reach: ReachFacts, is_ok: bool, said: str
) -> None:
    finding = found(replace(HEALTHY, reach=reach, peer=peer), "path to ada")
    assert finding.is_ok is is_ok
    assert said in finding.finding


reaches = st.builds(
    ReachFacts,
    listening=st.sampled_from([(), ("1.2.3.4:5",)]),
    relay_port=st.none() | st.just(8088),
    relay_port_trouble=st.sampled_from(["", "taken"]),
    nat=st.sampled_from(get_args(NatKind)),
    is_public=st.booleans(),
    relay_setting=st.sampled_from(["auto", "none"]),
    relays=st.lists(st.builds(RelayFacts, url=st.just("u")), max_size=2).map(tuple),
)
machines = st.builds(
    MachineFacts,
    free_bytes=st.integers(0, 1 << 40),
    total_bytes=st.integers(0, 1 << 40),
    tiers=st.sampled_from([(), (("process", "none"),), (("process", "sandboxed"),)]),
    missing_packages=st.sampled_from([(), ("bubblewrap",)]),
)
networks = st.builds(
    NetworkFacts, alive=st.integers(0, 3), dead=st.integers(0, 3), linked=st.integers(0, 3)
)


@given(reaches, machines, networks)
def test_whatever_is_wrong_has_an_advice(
    reach: ReachFacts, machine: MachineFacts, network: NetworkFacts
) -> None:
    for finding in diagnose(Facts(reach, machine, network)):
        assert finding.finding
        assert finding.is_ok or finding.advice


def test_a_lower_tier_says_what_it_may_not_stop() -> None:
    fenced = replace(MACHINE, tiers=(("process", "landlock"), ("process", "none")))
    finding = found(replace(HEALTHY, machine=fenced), "runtimes")
    assert finding.is_ok
    assert finding.finding == (
        "process (landlock, which may not stop see-files and signal-processes)"
    )
