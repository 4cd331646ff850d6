"""Claims about one membership machine: records, links, bounds; time is a number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord, sign_record
from p2prc.model.testimony import Life
from p2prc.protocol.fingerprint import leaf_of
from p2prc.protocol.membership import (
    DialFailed,
    Event,
    HangUp,
    MembershipConfig,
    MessageReceived,
    NodeChanged,
    NodeState,
    OwnRecordChanged,
    OwnVersionBehind,
    PeerConnected,
    PeerLost,
    Send,
    Shun,
    Tick,
)
from p2prc.protocol.messages import (
    Announce,
    Branches,
    Call,
    Delta,
    Digest,
    DigestEntry,
    Entries,
    Leaves,
    Rumour,
    Summary,
    Want,
)
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope
from tests.unit.membership_room import (
    ANNA,
    BERT,
    CARL,
    DORA,
    IDS,
    MANY,
    SECRETS,
    Room,
    dials,
    heard,
    knowing,
    life,
    machine,
    record,
    room_of_three,
    sends,
    signs,
    told,
)

# -- records ----------------------------------------------------------------------------------


def test_two_that_meet_know_each_other() -> None:
    room = Room(ANNA, BERT)
    room.connect(ANNA, BERT)
    assert room.picture(ANNA) == {BERT: "alive"}
    assert room.picture(BERT) == {ANNA: "alive"}


def test_what_one_knows_reaches_those_it_knows() -> None:
    room = Room(ANNA, BERT, CARL)
    room.connect(ANNA, BERT)
    room.connect(BERT, CARL)
    room.let_pass(3)
    assert room.picture(ANNA) == {BERT: "alive", CARL: "alive"}
    assert room.picture(CARL) == {BERT: "alive", ANNA: "alive"}


def test_a_changed_record_is_told_at_once() -> None:
    room = room_of_three()
    room.feed(ANNA, OwnRecordChanged(record(ANNA, 2, name="renamed")))
    for other in (BERT, CARL):
        found = room.machines[other].record_of(ANNA)
        assert found is not None
        assert found.name == "renamed"


def test_news_is_pushed_to_some_and_announced_to_the_rest() -> None:
    anna = knowing(record(BERT))
    for peer in IDS[2:10]:
        anna.handle(PeerConnected(peer), 0.0)
    effects = anna.handle(told(BERT, record(IDS[20])), 0.5)
    pushed = [send.peer for send in sends(effects) if isinstance(send.message, Delta)]
    announced = [send.peer for send in sends(effects) if isinstance(send.message, Announce)]
    assert len(pushed) == 3
    assert {*pushed, *announced} == set(IDS[2:10])


def test_a_whole_table_is_no_news() -> None:
    anna = knowing(record(BERT))
    anna.handle(PeerConnected(CARL), 0.0)
    effects = anna.handle(told(BERT, *(record(node) for node in IDS[2:])), 0.5)
    assert not any(isinstance(send.message, Delta | Announce) for send in sends(effects))


def test_who_hears_nothing_of_what_was_announced_asks_for_it() -> None:
    anna = knowing(record(BERT))
    announced = Life(bytes.fromhex(CARL), 1)
    anna.handle(MessageReceived(BERT, Announce((announced,))), 0.1)
    assert anna.deadline <= 0.26
    asked = [send for send in sends(anna.handle(Tick(), 0.26)) if isinstance(send.message, Want)]
    assert asked == [Send(BERT, Want((Life(bytes.fromhex(CARL), -1),)))]
    anna.handle(MessageReceived(BERT, Announce((announced,))), 0.3)
    anna.handle(told(BERT, record(CARL)), 0.4)
    effects = anna.handle(Tick(), 0.5)
    assert not any(isinstance(send.message, Want) for send in sends(effects))


def test_equal_tables_cost_one_small_message() -> None:
    room = room_of_three()
    room.let_pass(5)
    summary = next(
        send.message
        for now in range(10)
        for send in sends(room.machines[ANNA].handle(Tick(), room.now + now))
        if isinstance(send.message, Summary)
    )
    assert len(encode(summary)) < 60
    assert sends(room.machines[BERT].handle(MessageReceived(ANNA, summary), room.now)) == []


def test_a_newcomer_is_sent_the_whole_table() -> None:
    room = Room(ANNA, BERT)
    everybody = IDS[2:]
    room.feed(ANNA, PeerConnected(CARL))
    room.feed(ANNA, told(CARL, *(record(node) for node in everybody)))
    room.connect(ANNA, BERT)
    assert set(room.picture(BERT)) == {ANNA, *everybody}


def test_two_large_tables_become_one() -> None:
    room = Room(ANNA, BERT)
    base = [record(node) for node in MANY[3:]]
    for node, half in ((ANNA, base[:220]), (BERT, base[180:])):
        room.feed(node, PeerConnected(CARL))
        for at in range(0, len(half), 100):
            room.feed(node, told(CARL, *half[at : at + 100]))
    room.connect(ANNA, BERT)
    room.let_pass(3)
    assert len(room.picture(ANNA)) == len(room.picture(BERT)) == len(MANY) - 2


def test_two_nodes_may_have_one_name() -> None:
    anna = knowing(record(BERT), record(CARL))
    assert [view.record.name for view in anna.nodes(0)] == ["laptop"] * 3


def test_an_old_record_replayed_changes_nothing() -> None:
    anna = knowing(record(BERT), record(CARL, 5, name="new"))
    effects = anna.handle(told(BERT, record(CARL, 4, name="old")), 0.1)
    assert NodeChanged(CARL) not in effects
    assert anna.record_of(CARL) == record(CARL, 5, name="new").record
    assert anna.refusals == {"old": 1}


def test_a_record_that_we_hold_is_not_news() -> None:
    anna = knowing(record(BERT), record(CARL))
    assert anna.handle(told(BERT, record(CARL)), 0.1) == []
    assert anna.refusals == {}


def test_a_record_signed_by_another_key_is_refused() -> None:
    by_dora = sign_record(record(CARL).record, SECRETS[3]).envelope
    as_carl = msgspec.structs.replace(by_dora, author=bytes.fromhex(CARL))
    anna = knowing(record(BERT))
    anna.handle(MessageReceived(BERT, Delta((by_dora, as_carl))), 0.1)
    assert anna.refusals == {"forged": 2}
    assert anna.record_of(CARL) is None


def test_a_record_that_is_no_record_is_refused() -> None:
    anna = knowing(record(BERT))
    anna.handle(MessageReceived(BERT, Delta((Envelope(b"", b"", b""),))), 0.1)
    assert anna.refusals == {"forged": 1}


def test_strangers_and_other_networks_are_refused() -> None:
    anna = knowing(record(BERT))
    anna.handle(told(BERT, record(CARL, membership=b""), record(DORA, network=DORA)), 0.1)
    assert anna.refusals == {"not-member": 1, "foreign-network": 1}
    assert len(anna.nodes(0)) == 2


def test_of_two_records_with_one_version_everybody_keeps_the_same() -> None:
    one, other = record(CARL, 3, name="one"), record(CARL, 3, name="other")
    first = knowing(record(BERT), one)
    first.handle(told(BERT, other), 0.1)
    second = knowing(record(BERT), other)
    second.handle(told(BERT, one), 0.1)
    assert first.record_of(CARL) == second.record_of(CARL)
    assert first.refusals == second.refusals == {"clash": 1}


def test_a_peer_that_was_never_connected_is_not_listened_to() -> None:
    anna = knowing(record(BERT))
    assert anna.handle(told(DORA, record(CARL)), 0.1) == []
    assert anna.record_of(CARL) is None


def test_a_node_that_lost_its_disk_learns_which_version_it_must_exceed() -> None:
    anna = knowing(record(BERT))
    listed = Entries((), (Life(bytes.fromhex(ANNA), 9),), is_reply=True)
    effects = anna.handle(MessageReceived(BERT, listed), 0.1)
    assert Send(BERT, Want((Life(bytes.fromhex(ANNA), 1),))) in effects
    assert OwnVersionBehind(9) in anna.handle(told(BERT, record(ANNA, 9)), 0.2)
    twin = record(ANNA, 1, name="twin")
    assert OwnVersionBehind(1) in anna.handle(told(BERT, twin), 0.3)
    anna.handle(OwnRecordChanged(record(ANNA, 10)), 0.4)
    assert not any(
        isinstance(effect, OwnVersionBehind)
        for effect in anna.handle(told(BERT, record(ANNA, 9)), 0.5)
    )


def test_nobody_else_can_make_us_think_that_we_are_behind() -> None:
    anna = knowing(record(BERT))
    forged = sign_record(record(ANNA, 9).record, SECRETS[1]).envelope
    as_anna = msgspec.structs.replace(forged, author=bytes.fromhex(ANNA))
    effects = anna.handle(MessageReceived(BERT, Delta((forged, as_anna))), 0.1)
    assert not any(isinstance(effect, OwnVersionBehind) for effect in effects)


# -- who is there -----------------------------------------------------------------------------


def test_a_peer_that_somebody_else_hears_does_not_die_with_our_link() -> None:
    room = room_of_three()
    room.break_link(ANNA, BERT)
    room.let_pass(5)
    assert room.picture(ANNA) == {BERT: "alive", CARL: "alive"}
    assert room.picture(BERT) == {ANNA: "alive", CARL: "alive"}


def test_a_dead_node_that_comes_back_is_alive_for_all() -> None:
    room = room_of_three()
    room.kill(CARL)
    room.let_pass(5)
    room.broken.clear()
    room.machines[CARL] = machine(CARL, version=2, now=room.now)
    room.connect(CARL, ANNA)
    assert room.picture(ANNA)[CARL] == "alive"
    assert room.picture(BERT)[CARL] == "alive"
    assert room.picture(CARL) == {ANNA: "alive", BERT: "alive"}


def test_who_says_that_it_leaves_has_left_and_is_not_missed() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 1.0)
    anna.handle(told(CARL, record(CARL, 2, has_left=True)), 2.0)
    assert anna.state_of(CARL) is NodeState.LEFT
    assert CARL not in dials(anna.handle(PeerLost(CARL), 3.0))
    for second in range(4, 60):
        assert CARL not in dials(anna.handle(Tick(), second))
    assert anna.state_of(CARL) is NodeState.LEFT
    anna.handle(heard(BERT, signs(CARL, life(CARL, 2, 1))), 60.0)
    assert anna.state_of(CARL) is NodeState.LEFT
    anna.handle(told(BERT, record(CARL, 3)), 61.0)
    assert anna.state_of(CARL) is NodeState.ALIVE


@pytest.mark.parametrize("way", ["has_left", "is_down"])
def test_who_leaves_says_so_to_everybody_before_it_is_gone(way: str) -> None:
    peers = IDS[1:7]
    anna = knowing(*(record(node) for node in peers))
    for node in peers[1:]:
        anna.handle(PeerConnected(node), 1.0)
    # What has just been said would keep the next record waiting.
    anna.handle(OwnRecordChanged(record(ANNA, 2)), 5.0)
    last = record(ANNA, 3, **{way: True})
    farewells = sends(anna.handle(OwnRecordChanged(last), 5.0))
    told_whole = {
        effect.peer
        for effect in farewells
        if isinstance(effect.message, Delta) and last.envelope in effect.message.records
    }
    assert told_whole == set(peers)


# -- bounds -----------------------------------------------------------------------------------


def test_the_table_is_bounded_and_the_dead_make_room() -> None:
    anna = knowing(record(BERT), record(CARL), config=MembershipConfig(table_limit=3))
    anna.handle(told(BERT, record(DORA)), 0.1)
    assert anna.record_of(DORA) is None
    assert anna.refusals == {"table-full": 1}
    anna.handle(PeerConnected(CARL), 0.2)
    anna.handle(PeerLost(CARL), 1.0)
    anna.handle(Tick(), 1.5)
    anna.handle(Tick(), 2.5)
    anna.handle(Tick(), 4.1)
    anna.handle(told(BERT, record(DORA)), 4.2)
    assert anna.state_of(CARL) is None
    assert anna.state_of(DORA) is NodeState.ALIVE


def test_those_whom_one_member_brought_in_cannot_fill_the_table() -> None:
    config = MembershipConfig(sponsor_limit=5)
    anna = knowing(
        record(BERT),
        *(record(node, name="fake") for node in IDS[2:30]),
        *(record(node) for node in IDS[30:]),
        config=config,
        sponsor_of=lambda told: DORA if told.name == "fake" else None,
    )
    names = [view.record.name for view in anna.nodes(0.0)]
    assert names.count("fake") == 5
    assert names.count("laptop") == 2 + len(IDS[30:])
    assert anna.refusals == {"too-many-by-one-sponsor": 23}


@pytest.mark.parametrize("turn", range(3))
def test_of_too_many_by_one_sponsor_every_table_keeps_the_same(turn: int) -> None:
    fakes = [record(node, name="fake") for node in IDS[4:39]]
    found = []
    for seed in range(2):
        Random(seed * 7 + turn).shuffle(fakes)
        anna = knowing(
            *fakes,
            config=MembershipConfig(sponsor_limit=5),
            sponsor_of=lambda told: DORA if told.name == "fake" else None,
        )
        found.append({view.record.node for view in anna.nodes(0.0)} - {ANNA})
        assert anna.refusals == {"too-many-by-one-sponsor": 30}
    assert found[0] == found[1] == set(sorted(IDS[4:39])[:5])


def test_who_is_dead_makes_room_for_others_of_its_sponsor() -> None:
    low, high = sorted(IDS[4:6])
    anna = knowing(
        record(BERT),
        record(low, name="fake"),
        config=MembershipConfig(sponsor_limit=1),
        sponsor_of=lambda told: DORA if told.name == "fake" else None,
    )
    anna.handle(heard(BERT, signs(BERT, life(low))), 0.1)
    for tenth in range(10, 40):
        anna.handle(Tick(), tenth / 10)
    assert anna.state_of(low) is NodeState.DEAD
    effects = anna.handle(told(BERT, record(high, name="fake")), 4.0)
    assert anna.state_of(low) is None
    assert anna.state_of(high) is NodeState.ALIVE
    assert NodeChanged(low) in effects


def test_a_leaf_that_is_named_a_thousand_times_is_looked_at_once() -> None:
    anna = knowing(record(BERT), record(CARL))
    leaf = leaf_of(CARL)
    effects = anna.handle(MessageReceived(BERT, Entries((leaf,) * 1024, ())), 0.1)
    (answer,) = [each.message for each in sends(effects) if isinstance(each.message, Entries)]
    assert [one.node for one in answer.lives] == [CARL]


def test_a_greedy_peer_gets_no_more_than_its_share() -> None:
    config = MembershipConfig(answer_burst_bytes=50_000, answer_bytes_per_s=1_000)
    anna = knowing(*(record(node, metadata={"note": "x" * 150}) for node in IDS[1:]), config=config)
    greed = Want(tuple(Life(bytes.fromhex(node), -1) for node in IDS))
    sent = 0
    for question in range(500):
        effects = anna.handle(MessageReceived(BERT, greed), 1.0 + question / 100)
        sent += sum(len(encode(send.message)) for send in sends(effects) if send.peer == BERT)
    assert 40_000 < sent < 1.3 * (50_000 + 6 * 1_000)
    assert anna.refusals["too-many"] > 0


def test_a_flood_of_forged_records_is_not_even_checked() -> None:
    opened = []

    def open_envelope(envelope: Envelope) -> SignedRecord:
        opened.append(envelope)
        return record(CARL)

    anna = machine(open_envelope=open_envelope, config=MembershipConfig(checks_burst=10))
    anna.handle(PeerConnected(BERT), 0.0)
    forged = tuple(Envelope(bytes([number]), b"", b"") for number in range(200))
    anna.handle(MessageReceived(BERT, Delta(forged)), 0.0)
    assert len(opened) == 10


def test_a_peer_that_keeps_forging_is_shunned_for_a_while() -> None:
    anna = knowing(record(BERT), record(CARL))
    forged = sign_record(record(CARL, 2).record, SECRETS[3]).envelope
    effects = [
        effect
        for _ in range(50)
        for effect in anna.handle(MessageReceived(BERT, Delta((forged,))), 1.0)
    ]
    assert [effect.peer for effect in effects if isinstance(effect, Shun)] == [BERT]
    anna.handle(PeerLost(BERT), 1.1)
    assert anna.state_of(BERT) is NodeState.ALIVE
    assert BERT not in [node for now in range(2, 60) for node in dials(anna.handle(Tick(), now))]
    assert isinstance(anna.handle(PeerConnected(BERT), 100.0)[-1], Shun)
    assert sends(anna.handle(PeerConnected(BERT), 700.0))


def test_a_flood_of_messages_is_dropped() -> None:
    anna = knowing(record(BERT), config=MembershipConfig(messages_burst=20))
    effects = [
        effect
        for _ in range(50)
        for effect in anna.handle(MessageReceived(BERT, Summary(b"12345678", 1)), 0.01)
    ]
    assert len([send for send in sends(effects) if isinstance(send.message, Entries)]) <= 20
    assert anna.refusals["too-many"] > 20


# -- whom to be connected with ----------------------------------------------------------------


def many() -> list[SignedRecord]:
    return [record(node) for node in IDS[1:]]


def test_five_connections_are_asked_for() -> None:
    anna = machine(known=many())
    asked_for = dials(anna.handle(Tick(), 2.0))
    assert len(set(asked_for)) == 2
    for second in range(3, 15):
        more = dials(anna.handle(Tick(), float(second)))
        assert len(more) <= 1
        asked_for += more
    assert len(set(asked_for)) == 5
    for node in set(asked_for):
        anna.handle(PeerConnected(node), 15.1)
    assert [dials(anna.handle(Tick(), second)) for second in range(16, 22)] == [[]] * 6


def test_above_eight_connections_one_is_hung_up_that_nobody_needs() -> None:
    anna = machine(known=many())
    anna.handle(Tick(), 1.0)
    for node in IDS[1:10]:
        anna.handle(PeerConnected(node), 1.0)
    hung_up = [
        effect.peer
        for second in range(2, 30)
        for effect in anna.handle(Tick(), second)
        if isinstance(effect, HangUp)
    ]
    assert hung_up
    anna.handle(PeerLost(hung_up[0], on_purpose=True), 30.0)
    assert anna.state_of(hung_up[0]) is NodeState.ALIVE
    assert not any(isinstance(effect, HangUp) for effect in anna.handle(Tick(), 40.0))


def test_a_lost_connection_is_replaced_at_once_by_another() -> None:
    anna = machine(known=many())
    chosen = dials(anna.handle(Tick(), 2.0))
    for node in chosen:
        anna.handle(PeerConnected(node), 2.1)
    anna.handle(Tick(), 2.2)
    replacements = dials(anna.handle(PeerLost(chosen[0]), 6.5))
    assert replacements
    assert not set(replacements) & set(chosen)


def test_different_nodes_choose_different_peers() -> None:
    choices = {
        tuple(dials(machine(known=many(), rng=Random(seed)).handle(Tick(), 2.0)))
        for seed in range(5)
    }
    assert len(choices) == 5


def test_a_node_that_cannot_be_reached_is_tried_ever_more_rarely() -> None:
    anna = machine(known=[record(BERT)])
    tried_at: list[float] = []
    for step in range(1, 3000):
        now = step * 0.1
        if dials(anna.handle(Tick(), now)):
            tried_at.append(now)
            anna.handle(DialFailed(BERT), now)
    waits = [later - earlier for earlier, later in pairwise(tried_at)]
    assert waits[0] < 2.5
    assert 7 < waits[-1] < 17
    assert len(waits) < 45


def test_a_dial_that_nobody_answers_for_is_given_up() -> None:
    anna = machine(known=[record(BERT)])
    assert dials(anna.handle(Tick(), 2.0)) == [BERT]
    tried_again = [now for now in range(3, 60) if dials(anna.handle(Tick(), now))]
    assert 30 < tried_again[0] < 40


def test_a_node_without_an_address_is_not_dialled() -> None:
    anna = machine(known=[record(BERT, addresses=())])
    assert dials(anna.handle(Tick(), 2.0)) == []


def test_the_table_of_the_last_run_is_doubted_until_heard_of() -> None:
    stale = [record(BERT), record(CARL, network=CARL), record(DORA, membership=b""), record(ANNA)]
    anna = machine(known=stale)
    assert anna.state_of(BERT) is NodeState.SUSPECT
    assert len(anna.nodes(0)) == 2
    anna.handle(PeerConnected(BERT), 1.0)
    assert anna.state_of(BERT) is NodeState.ALIVE


# -- anything at all --------------------------------------------------------------------------

_ids = st.sampled_from(IDS[:6])
_versions = st.one_of(st.integers(-2, 4), st.sampled_from([1 << 62, -(1 << 63)]))
_lives = st.builds(
    lambda node, version, incarnation: Life(bytes.fromhex(node), version, incarnation),
    _ids,
    st.one_of(st.integers(-1, 4), st.just(1 << 62)),
    st.sampled_from([0, 1, 2, 1 << 40]),
)
_many_lives = st.lists(_lives, min_size=1, max_size=6).map(tuple)
_testimonies = st.builds(lambda author, lives: signs(author, *lives), _ids, _many_lives)
_marks = st.binary(min_size=256, max_size=256)
_gossip = st.one_of(
    st.builds(Rumour, st.lists(_testimonies, max_size=3).map(tuple)),
    st.builds(Announce, _many_lives),
    st.builds(Want, _many_lives),
    st.builds(Entries, st.sampled_from([(), (1, 2)]), _many_lives, st.booleans()),
    st.builds(Summary, st.binary(min_size=8, max_size=8), st.sampled_from([0, 1, 1 << 32])),
    st.builds(Branches, _marks),
    st.builds(Leaves, st.sampled_from([(), (3,), (0, 1)]), _marks, st.sampled_from([0, 1 << 32])),
    st.builds(Call, _lives, st.integers(0, 3)),
)
_entries = st.builds(DigestEntry, _ids, _versions, _versions, st.booleans())
_digests = st.builds(Digest, st.lists(_entries, max_size=6).map(tuple), st.booleans())
_genuine = [
    record(node, version, name=name, has_left=version == 3)
    for node in IDS[:6]
    for version in (1, 2, 3)
    for name in ("one", "two")
]
_envelopes = st.one_of(
    st.sampled_from([signed.envelope for signed in _genuine]),
    st.sampled_from([sign_record(signed.record, SECRETS[8]).envelope for signed in _genuine[:6]]),
    st.builds(Envelope, st.binary(max_size=33), st.binary(max_size=9), st.binary(max_size=65)),
)
_deltas = st.builds(Delta, st.lists(_envelopes, max_size=5).map(tuple))
_to_peers: list[Callable[[NodeId], Event]] = [PeerConnected, PeerLost, DialFailed]
_events: st.SearchStrategy[Event] = st.one_of(
    st.builds(lambda kind, node: kind(node), st.sampled_from(_to_peers), _ids),
    st.builds(MessageReceived, _ids, st.one_of(_gossip, _digests, _deltas)),
    st.builds(MessageReceived, st.just(BERT), st.one_of(_gossip, _digests, _deltas)),
    st.builds(PeerConnected, _ids, st.just(1)),
    st.just(Tick()),
)


@settings(max_examples=150)
@given(st.lists(st.tuples(_events, st.floats(0, 5)), max_size=30))
def test_whatever_peers_send_only_genuine_newest_records_are_held(
    story: list[tuple[Event, float]],
) -> None:
    anna, now = machine(), 0.0
    anna.handle(PeerConnected(BERT), now)
    versions: dict[NodeId, int] = {}
    for event, later_s in story:
        now += later_s
        for effect in anna.handle(event, now):
            assert not isinstance(effect, Send) or effect.peer != ANNA
        assert anna.deadline > now - 1e-9
        for view in anna.nodes(now)[1:]:
            assert any(view.record == signed.record for signed in _genuine)
            assert view.record.version >= versions.get(view.record.node, 0)
            assert (view.state == "left") == view.record.has_left
            assert not (view.is_connected and view.state == "dead")
            versions[view.record.node] = view.record.version


def test_a_newcomer_leaves_it_at_its_first_link_for_some_seconds() -> None:
    anna = machine(known=many())
    asked_for = dials(anna.handle(Tick(), 2.0))
    anna.handle(PeerConnected(asked_for[0]), 2.1)
    anna.handle(PeerConnected(asked_for[1]), 2.1)
    early = [dials(anna.handle(Tick(), second)) for second in (2.5, 3.0, 3.5, 4.0)]
    assert early == [[]] * 4
    late = [node for second in range(5, 12) for node in dials(anna.handle(Tick(), float(second)))]
    assert len(set(late)) == 3


def test_a_newcomer_that_loses_its_only_link_dials_at_once() -> None:
    anna = machine(known=many())
    first, second = dials(anna.handle(Tick(), 2.0))
    anna.handle(DialFailed(second), 2.1)
    anna.handle(PeerConnected(first), 2.1)
    assert dials(anna.handle(PeerLost(first), 2.5))
