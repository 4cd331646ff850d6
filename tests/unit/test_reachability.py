"""Where we can be reached, as peers and interfaces tell it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.model.identity import NodeId
from p2prc.protocol import reachability as machine
from p2prc.protocol.diagnosis import NatKind
from p2prc.protocol.reachability import Reachability
from p2prc.protocol.reachability_events import (
    AddExternal,
    AskProbe,
    LocalChanged,
    Mapped,
    Moved,
    Observed,
    ObservedBeside,
    PathSeen,
    PeerGone,
    ProbeEnded,
    ProbeFailed,
    ReachEffect,
    ReachEvent,
    RemoveExternal,
    Tick,
)

ADA, BOB, EVE = NodeId("a" * 64), NodeId("b" * 64), NodeId("e" * 64)
HOME = LocalChanged(("192.168.1.5:8088", "127.0.0.1:8088"))
SEEN = "203.0.113.7:8088"


def seen_by(reach: Reachability, peer: NodeId, address: str, remote: str) -> list[ReachEffect]:
    effects = reach.handle(PathSeen(peer, is_direct=True, remote=remote), 0.0)
    return effects + reach.handle(Observed(peer, address), 0.0)


def at_home() -> Reachability:
    reach = Reachability()
    reach.handle(HOME, 0.0)
    return reach


def wake(reach: Reachability) -> tuple[float, list[ReachEffect]]:
    """Let the time come that the machine waits for."""
    assert reach.deadline is not None
    return reach.deadline, reach.handle(Tick(), reach.deadline)


def test_what_a_peer_sees_is_told_to_the_transport_and_published_behind_no_claim() -> None:
    reach = at_home()
    effects = seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    assert AddExternal("203.0.113.7:40001") in effects
    assert Moved() in effects
    assert reach.addresses == ("203.0.113.7:40001", "192.168.1.5:8088", "127.0.0.1:8088")
    assert not reach.is_public
    assert reach.nat == "unknown"


def test_an_address_of_our_own_is_nothing_new() -> None:
    reach = at_home()
    effects = seen_by(reach, ADA, "192.168.1.5:8088", "192.168.1.9:8088")
    assert not [effect for effect in effects if isinstance(effect, AddExternal)]
    assert reach.nat == "unknown", "a peer on the same wire knows nothing of a router"


def test_two_peers_that_see_one_port_are_behind_a_cone() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    seen_by(reach, BOB, "203.0.113.7:40001", "198.51.100.2:8088")
    assert reach.nat == "cone"
    assert reach.external == ("203.0.113.7:40001",)


@pytest.mark.parametrize(
    ("beside", "nat"), [("203.0.113.7:40001", "cone"), ("203.0.113.7:40002", "symmetric")]
)
def test_one_peer_tells_what_the_nat_is_from_two_ports_of_its_own(
    beside: str, nat: NatKind
) -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    assert reach.wants_second_look() == [(ADA, "198.51.100.1:8088")]
    reach.handle(ObservedBeside(ADA, beside), 0.0)
    assert reach.nat == nat
    assert reach.external == (("203.0.113.7:40001",) if nat == "cone" else ())
    assert reach.wants_second_look() == []
    # Another address is another way through the NAT: it is looked at again.
    reach.handle(Observed(ADA, "203.0.113.7:41000"), 1.0)
    assert reach.nat == "unknown"
    assert reach.wants_second_look() == [(ADA, "198.51.100.1:8088")]


def test_what_two_peers_see_outweighs_what_one_saw_from_its_second_port() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    reach.handle(ObservedBeside(ADA, "203.0.113.7:40002"), 0.0)
    seen_by(reach, BOB, "203.0.113.7:40001", "198.51.100.2:8088")
    assert reach.nat == "cone"


@pytest.mark.parametrize("remote", ["127.0.0.1:9", "[2a0b::5]:9", "203.0.113.5:9"])
def test_another_node_of_this_machine_tries_nothing_out(remote: str) -> None:
    reach = Reachability()
    reach.handle(LocalChanged(("203.0.113.5:8088", "[2a0b::5]:8088")), 0.0)
    seen_by(reach, ADA, "203.0.113.5:8088", remote)
    seen_by(reach, ADA, "[2a0b::5]:8088", remote)
    _, effects = wake(reach)
    assert not [each for each in effects if isinstance(each, AskProbe)]
    assert not reach.is_public


def test_two_peers_that_see_two_ports_are_a_symmetric_nat_and_nothing_is_published() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    effects = seen_by(reach, BOB, "203.0.113.7:40002", "198.51.100.2:8088")
    assert reach.nat == "symmetric"
    assert RemoveExternal("203.0.113.7:40001") in effects
    assert reach.external == ()


def test_who_is_seen_under_its_own_public_address_has_no_nat() -> None:
    reach = Reachability()
    reach.handle(LocalChanged((SEEN,)), 0.0)
    seen_by(reach, ADA, SEEN, "198.51.100.1:8088")
    assert reach.nat == "none"


def test_public_is_only_what_a_fresh_dial_reached_by_tcp_and_udp() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    now, effects = wake(reach)
    assert effects == [AskProbe(ADA, SEEN)], "at our own port: a forwarded one keeps it"
    reach.handle(ProbeEnded(BOB, SEEN, by_tcp=True, by_udp=True), now)
    assert not reach.is_public, "BOB was not asked"
    reach.handle(ProbeEnded(ADA, SEEN, by_tcp=False, by_udp=True), now)
    assert not reach.is_public
    now, effects = wake(reach)
    assert effects == [AskProbe(ADA, SEEN)], "it is tried again later"
    assert Moved() in reach.handle(ProbeEnded(ADA, SEEN, by_tcp=True, by_udp=True), now)
    assert reach.is_public
    assert reach.addresses[0] == SEEN


def test_one_failure_is_asked_about_elsewhere_and_two_end_it() -> None:
    reach = at_home()
    seen_by(reach, ADA, SEEN, "198.51.100.1:8088")
    seen_by(reach, BOB, SEEN, "198.51.100.2:8088")
    now, _ = wake(reach)
    reach.handle(ProbeEnded(ADA, SEEN, by_tcp=True, by_udp=True), now)
    now, effects = wake(reach)
    assert effects == [AskProbe(ADA, SEEN)]
    reach.handle(ProbeEnded(ADA, SEEN, by_tcp=False, by_udp=False), now)
    assert reach.is_public, "one peer alone does not unmake it"
    now, effects = wake(reach)
    assert effects == [AskProbe(BOB, SEEN)]
    reach.handle(ProbeFailed(BOB, SEEN), now)
    assert not reach.is_public


def test_a_peer_that_never_answers_is_not_waited_for() -> None:
    reach = at_home()
    seen_by(reach, ADA, SEEN, "198.51.100.1:8088")
    seen_by(reach, BOB, SEEN, "198.51.100.2:8088")
    wake(reach)
    wake(reach)
    _, effects = wake(reach)
    assert effects == [AskProbe(BOB, SEEN)]


def test_a_peer_behind_the_same_router_is_not_asked() -> None:
    reach = at_home()
    seen_by(reach, ADA, SEEN, "203.0.113.7:8089")
    _, effects = wake(reach)
    assert effects == []


def test_whoever_comes_is_asked_at_once_when_nobody_was_there_before() -> None:
    reach = at_home()
    reach.handle(Observed(ADA, SEEN), 0.0)
    now, effects = wake(reach)
    assert effects == []
    path = PathSeen(ADA, is_direct=True, remote="198.51.100.1:8088")
    assert reach.handle(path, now + 0.1) == [AskProbe(ADA, SEEN)]


def test_an_address_given_by_hand_is_believed() -> None:
    reach = Reachability(given=["home.example:8088"])
    reach.handle(HOME, 0.0)
    assert reach.is_public
    assert reach.addresses[0] == "home.example:8088"


def test_a_new_network_forgets_what_was_seen_from_the_old_one() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    effects = reach.handle(LocalChanged(("10.0.0.9:8088",)), 5.0)
    assert RemoveExternal("203.0.113.7:40001") in effects
    assert reach.addresses == ("10.0.0.9:8088",)


def test_who_sees_us_at_another_address_than_before_is_the_first_of_all_to_see_it() -> None:
    reach = at_home()
    before, after = "203.0.113.7:40001", "203.0.113.99:40001"
    for peer, remote in ((ADA, "198.51.100.1:8088"), (BOB, "198.51.100.2:8088")):
        seen_by(reach, peer, before, remote)
    effects = seen_by(reach, ADA, after, "198.51.100.1:8088")
    assert {RemoveExternal(before), AddExternal(after)} <= set(effects)
    assert reach.external == (after,)


def test_only_those_who_see_us_through_a_nat_are_asked_for_another_look() -> None:
    reach = at_home()
    seen_by(reach, ADA, "192.168.1.5:8088", "192.168.1.9:8088")
    assert reach.onlookers() == []
    seen_by(reach, BOB, SEEN, "198.51.100.2:8088")
    seen_by(reach, EVE, SEEN, "198.51.100.3:8088")
    assert [peer for peer, _ in reach.onlookers()] == [BOB, EVE]
    reach.handle(PathSeen(EVE, True, "198.51.100.3:8088", is_public=True), 0.0)
    assert reach.onlookers() == [(EVE, "198.51.100.3:8088")], "whoever is public hears us anyhow"
    reach.handle(PeerGone(BOB), 1.0)
    reach.handle(PathSeen(EVE, is_direct=False, is_public=True), 1.0)
    assert reach.onlookers() == []


def test_what_a_lost_peer_saw_is_remembered_for_a_while() -> None:
    reach = at_home()
    seen_by(reach, ADA, "192.0.2.7:40001", "198.51.100.1:8088")
    reach.handle(PeerGone(ADA), 10.0)
    assert reach.external
    assert RemoveExternal("192.0.2.7:40001") in reach.handle(Tick(), 10.0 + machine.MEMORY_S)


def test_udp_is_blocked_when_a_public_peer_stays_relayed() -> None:
    reach = at_home()
    reach.handle(PathSeen(ADA, is_direct=False, is_public=True), 0.0)
    assert not reach.is_udp_blocked(1.0)
    assert reach.deadline is not None
    assert Moved() in reach.handle(Tick(), machine.BLOCKED_AFTER_S)
    reach.handle(PathSeen(ADA, is_direct=True, remote="198.51.100.1:1"), 20.0)
    assert not reach.is_udp_blocked(40.0)


def test_a_mapping_of_the_router_is_published_and_tried() -> None:
    reach = at_home()
    seen_by(reach, ADA, "203.0.113.7:40001", "198.51.100.1:8088")
    reach.handle(Mapped("203.0.113.7:9000", "upnp"), 0.0)
    assert reach.addresses[0] == "203.0.113.7:9000"
    _, effects = wake(reach)
    assert AskProbe(ADA, "203.0.113.7:9000") in effects
    reach.handle(Mapped("", "", "none found", "double"), 1.0)
    assert reach.nat == "double"


_peers = st.sampled_from([NodeId(f"{number:064x}") for number in range(100)])
_address_texts = st.one_of(
    st.sampled_from(["203.0.113.7:1", "203.0.113.7:2", "[2001:db8::1]:8088", "10.1.1.1:5", ""]),
    st.text(max_size=60),
)
_events: st.SearchStrategy[ReachEvent] = st.one_of(
    st.builds(Observed, _peers, _address_texts),
    st.builds(PathSeen, _peers, st.booleans(), _address_texts, st.booleans()),
    st.builds(PeerGone, _peers),
    st.builds(ObservedBeside, _peers, _address_texts),
    st.builds(ProbeEnded, _peers, _address_texts, st.booleans(), st.booleans()),
    st.builds(ProbeFailed, _peers, _address_texts),
    st.builds(Mapped, _address_texts),
    st.builds(LocalChanged, st.lists(_address_texts, max_size=3).map(tuple)),
    st.just(Tick()),
)


@given(st.lists(st.tuples(_events, st.floats(0, 60)), max_size=60))
def test_whatever_peers_say_is_bounded_and_asked_for_sparingly(
    told: list[tuple[ReachEvent, float]],
) -> None:
    reach, now, external = Reachability(), 0.0, set[str]()
    for event, pause_s in told:
        now += pause_s
        for effect in reach.handle(event, now):
            match effect:
                case AddExternal():
                    assert effect.address not in external
                    external.add(effect.address)
                case RemoveExternal():
                    external.remove(effect.address)
                case _:
                    pass
        assert external == set(reach.external)
        assert len(reach.addresses) <= machine.ADDRESSES_LIMIT
        assert len(external) <= machine.EXTERNAL_LIMIT
        assert reach.deadline is None or reach.deadline > now


def test_a_peer_on_this_machine_sees_nothing_that_others_could_use() -> None:
    reach = Reachability()
    reach.handle(LocalChanged(("192.168.1.5:8088",)), 0.0)
    assert AddExternal("127.0.0.1:8088") not in seen_by(reach, ADA, "127.0.0.1:8088", "127.0.0.1:9")
    assert reach.addresses == ("192.168.1.5:8088",)
