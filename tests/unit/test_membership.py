"""Claims about one membership machine and its exchange with a few others; time is a number."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from random import Random
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, sign_record
from p2prc.protocol.membership import (
    Dial,
    DialFailed,
    Effect,
    Event,
    Membership,
    MembershipConfig,
    MessageReceived,
    NodeChanged,
    NodeState,
    OwnRecordChanged,
    OwnVersionBehind,
    PeerConnected,
    PeerLost,
    Send,
    Tick,
)
from p2prc.protocol.messages import Delta, Digest, DigestEntry
from p2prc.protocol.node_table import HEARTBEAT_JUMP_LIMIT
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope, public_key_of

SECRETS = [bytes([number]) * 32 for number in range(1, 40)]
IDS = [NodeId(public_key_of(secret).hex()) for secret in SECRETS]
NETWORK = IDS[0]
ANNA, BERT, CARL, DORA = IDS[:4]
EVERYBODY = {node: index for index, node in enumerate(IDS)}


def record(node: NodeId, version: int = 1, **fields: Any) -> SignedRecord:
    """A record that its own node signed."""
    told = {
        "network": NETWORK,
        "name": "laptop",
        "membership": b"admitted",
        "addresses": ("192.0.2.1:8088",),
        **fields,
    }
    return sign_record(NodeRecord(node=node, version=version, **told), SECRETS[EVERYBODY[node]])


def machine(node: NodeId = ANNA, *, version: int = 1, **options: Any) -> Membership:
    options.setdefault("rng", Random(1))
    options.setdefault("now", 0.0)
    return Membership(
        record(node, version), is_member=lambda told: told.membership == b"admitted", **options
    )


def told(peer: NodeId, *records: SignedRecord) -> MessageReceived:
    return MessageReceived(peer, Delta(tuple(signed.envelope for signed in records)))


def said(peer: NodeId, *entries: DigestEntry, is_reply: bool = True) -> MessageReceived:
    return MessageReceived(peer, Digest(tuple(entries), is_reply=is_reply))


def knowing(*records: SignedRecord, **options: Any) -> Membership:
    """Anna, connected to Bert, who told her these records at second 0."""
    anna = machine(**options)
    anna.handle(PeerConnected(BERT), 0.0)
    anna.handle(told(BERT, *records), 0.0)
    return anna


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def dials(effects: list[Effect]) -> list[NodeId]:
    return [effect.node for effect in effects if isinstance(effect, Dial)]


def entries_about(node: NodeId, effects: list[Effect]) -> list[DigestEntry]:
    return [
        entry
        for effect in sends(effects)
        if isinstance(effect.message, Digest)
        for entry in effect.message.entries
        if entry.node == node
    ]


class Room:
    """Several machines with instant links, so that a whole conversation is one step."""

    def __init__(self, *nodes: NodeId) -> None:
        self.machines = {node: machine(node, rng=Random(index)) for index, node in enumerate(nodes)}
        self.now = 0.0
        self.broken: set[frozenset[NodeId]] = set()

    def feed(self, node: NodeId, event: Event) -> None:
        for effect in self.machines[node].handle(event, self.now):
            if isinstance(effect, Send) and frozenset((node, effect.peer)) not in self.broken:
                self.feed(effect.peer, MessageReceived(node, effect.message))

    def connect(self, one: NodeId, other: NodeId) -> None:
        self.feed(one, PeerConnected(other))
        self.feed(other, PeerConnected(one))
        # The first summary was sent before the other side knew of the link.
        self.let_pass(1.2)

    def break_link(self, one: NodeId, other: NodeId) -> None:
        self.broken.add(frozenset((one, other)))
        self.feed(one, PeerLost(other))
        self.feed(other, PeerLost(one))

    def kill(self, node: NodeId) -> None:
        """Its machine stops; the others notice."""
        del self.machines[node]
        self.broken |= {frozenset((node, other)) for other in self.machines}
        for other in list(self.machines):
            self.feed(other, PeerLost(node))

    def let_pass(self, seconds: float) -> None:
        end = self.now + seconds
        while (due := min(self.machines, key=lambda node: self.machines[node].deadline)) and (
            self.machines[due].deadline <= end
        ):
            self.now = self.machines[due].deadline
            self.feed(due, Tick())
        self.now = end

    def picture(self, node: NodeId) -> dict[NodeId, str]:
        return {
            view.record.node: view.state
            for view in self.machines[node].nodes(self.now)
            if not view.is_self
        }


def room_of_three() -> Room:
    """Anna - Bert - Carl, and Anna - Carl."""
    room = Room(ANNA, BERT, CARL)
    room.connect(ANNA, BERT)
    room.connect(BERT, CARL)
    room.connect(ANNA, CARL)
    return room


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


def test_two_nodes_may_have_one_name() -> None:
    anna = knowing(record(BERT), record(CARL))
    assert [view.record.name for view in anna.nodes(0)] == ["laptop"] * 3


def test_an_old_record_replayed_changes_nothing() -> None:
    anna = knowing(record(BERT), record(CARL, 5, name="new"))
    effects = anna.handle(told(BERT, record(CARL, 4, name="old")), 0.1)
    assert NodeChanged(CARL) not in effects
    assert anna.record_of(CARL) == record(CARL, 5, name="new").record
    assert anna.refusals == {"old": 1}


def test_news_is_passed_on_at_once_but_not_a_whole_table() -> None:
    anna = knowing(record(BERT))
    for peer in (CARL, DORA):
        anna.handle(PeerConnected(peer), 0.0)
    news = record(IDS[4])
    effects = anna.handle(told(BERT, news), 0.01)
    passed_on = [send for send in sends(effects) if isinstance(send.message, Delta)]
    assert passed_on == [Send(peer, Delta((news.envelope,))) for peer in (CARL, DORA)]
    effects = anna.handle(told(BERT, *(record(node) for node in IDS[5:])), 0.02)
    assert not any(isinstance(send.message, Delta) for send in sends(effects))


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
    effects = anna.handle(said(BERT, DigestEntry(ANNA, 9, 0), is_reply=False), 0.1)
    asked = [entry for entry in entries_about(ANNA, effects) if entry.version == 1]
    assert asked
    assert OwnVersionBehind(9) in anna.handle(told(BERT, record(ANNA, 9)), 0.2)
    twin = record(ANNA, 1, name="twin")
    assert OwnVersionBehind(1) in anna.handle(told(BERT, twin), 0.3)
    anna.handle(OwnRecordChanged(record(ANNA, 10)), 0.4)
    assert anna.handle(told(BERT, record(ANNA, 9)), 0.5) == []


def test_nobody_else_can_make_us_think_that_we_are_behind() -> None:
    anna = knowing(record(BERT))
    forged = sign_record(record(ANNA, 9).record, SECRETS[1]).envelope
    as_anna = msgspec.structs.replace(forged, author=bytes.fromhex(ANNA))
    effects = anna.handle(MessageReceived(BERT, Delta((forged, as_anna))), 0.1)
    assert not any(isinstance(effect, OwnVersionBehind) for effect in effects)


# -- who is there -----------------------------------------------------------------------------


def test_a_lost_peer_is_suspect_at_once_and_dead_soon() -> None:
    anna = knowing(record(BERT))
    assert NodeChanged(BERT) in anna.handle(PeerLost(BERT), 10.0)
    assert anna.state_of(BERT) is NodeState.SUSPECT
    anna.handle(Tick(), 11.4)
    assert anna.state_of(BERT) is NodeState.SUSPECT
    assert anna.deadline <= 11.5
    assert NodeChanged(BERT) in anna.handle(Tick(), 11.5)
    assert anna.state_of(BERT) is NodeState.DEAD


def test_a_peer_that_somebody_else_hears_does_not_die_with_our_link() -> None:
    room = room_of_three()
    room.break_link(ANNA, BERT)
    room.let_pass(5)
    assert room.picture(ANNA) == {BERT: "alive", CARL: "alive"}
    assert room.picture(BERT) == {ANNA: "alive", CARL: "alive"}


def test_a_death_is_known_to_all_before_two_seconds_have_passed() -> None:
    room = room_of_three()
    room.kill(CARL)
    assert room.picture(ANNA)[CARL] == "suspect"
    room.let_pass(1.6)
    assert room.picture(ANNA) == {BERT: "alive", CARL: "dead"}
    assert room.picture(BERT) == {ANNA: "alive", CARL: "dead"}


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


def test_a_newer_heartbeat_brings_a_dead_node_back() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(said(BERT, DigestEntry(CARL, 1, 5, is_suspect=True)), 1.0)
    anna.handle(Tick(), 3.0)
    assert anna.state_of(CARL) is NodeState.DEAD
    anna.handle(said(BERT, DigestEntry(CARL, 1, 5)), 3.1)
    assert anna.state_of(CARL) is NodeState.DEAD
    effects = anna.handle(said(BERT, DigestEntry(CARL, 1, 6)), 3.2)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert NodeChanged(CARL) in effects


def test_a_restarted_node_counts_its_heartbeats_anew() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(said(BERT, DigestEntry(CARL, 1, 500)), 0.1)
    anna.handle(told(BERT, record(CARL, 2)), 0.2)
    for second in range(1, 60):
        anna.handle(said(BERT, DigestEntry(CARL, 2, second)), second)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_silence_by_hearsay_is_death_in_the_end() -> None:
    anna = knowing(record(BERT), record(CARL))
    for second in range(1, 20):
        anna.handle(Tick(), second)
    assert anna.state_of(CARL) is NodeState.ALIVE
    for second in range(20, 25):
        anna.handle(Tick(), second)
    assert anna.state_of(CARL) is NodeState.DEAD
    assert anna.state_of(BERT) is NodeState.ALIVE


def test_heartbeats_by_hearsay_keep_a_node_alive() -> None:
    anna = knowing(record(BERT), record(CARL))
    for second in range(1, 60):
        anna.handle(said(BERT, DigestEntry(CARL, 1, second)), second)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_an_hour_without_our_own_attention_is_nobodys_fault() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(Tick(), 1.0)
    anna.handle(Tick(), 3600.0)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_who_says_that_it_leaves_has_left_and_is_not_missed() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 1.0)
    anna.handle(told(CARL, record(CARL, 2, has_left=True)), 2.0)
    assert anna.state_of(CARL) is NodeState.LEFT
    assert CARL not in dials(anna.handle(PeerLost(CARL), 3.0))
    for second in range(4, 60):
        assert CARL not in dials(anna.handle(Tick(), second))
    assert anna.state_of(CARL) is NodeState.LEFT
    anna.handle(said(BERT, DigestEntry(CARL, 2, 500)), 60.0)
    assert anna.state_of(CARL) is NodeState.LEFT
    anna.handle(told(BERT, record(CARL, 3)), 61.0)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_nothing_more_is_said_of_who_has_left() -> None:
    anna = knowing(record(BERT), record(CARL, 2, has_left=True))
    for heartbeat, is_suspect in ((0, True), (9, True), (0, False), (9, False)):
        entry = DigestEntry(CARL, 2, heartbeat, is_suspect)
        effects = anna.handle(said(BERT, entry, is_reply=False), 0.1)
        assert entries_about(CARL, effects) == []


def test_many_doubts_at_once_are_answered_once() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 0.0)
    to_carl = [
        send
        for doubt in range(20)
        for send in sends(
            anna.handle(said(BERT, DigestEntry(ANNA, 1, doubt, is_suspect=True)), 0.05)
        )
        if send.peer == CARL
    ]
    assert len(to_carl) == 1


def test_one_peers_doubts_are_passed_on_with_measure() -> None:
    config = MembershipConfig(doubts_burst=5)
    anna = knowing(record(BERT), *(record(node) for node in IDS[2:]), config=config)
    doubts = [DigestEntry(node, 1, 1, is_suspect=True) for node in IDS[2:]]
    anna.handle(said(BERT, *doubts), 0.05)
    states = [view.state for view in anna.nodes(0.05)]
    assert states.count(NodeState.SUSPECT) == 5
    assert anna.refusals["too-many"] == len(doubts) - 5


def test_who_is_doubted_says_that_it_is_here() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 0.5)
    effects = anna.handle(said(BERT, DigestEntry(ANNA, 1, 7, is_suspect=True)), 0.6)
    answers = entries_about(ANNA, effects)
    assert {send.peer for send in sends(effects)} >= {BERT, CARL}
    assert all(answer.heartbeat > 7 and not answer.is_suspect for answer in answers)


def test_a_doubt_older_than_what_we_heard_is_answered_and_not_believed() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(said(BERT, DigestEntry(CARL, 1, 9)), 0.1)
    effects = anna.handle(said(BERT, DigestEntry(CARL, 1, 8, is_suspect=True)), 0.2)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert entries_about(CARL, effects) == [DigestEntry(CARL, 1, 9)]


def test_a_doubt_about_a_node_that_we_hear_is_passed_to_it() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 0.1)
    doubt = DigestEntry(CARL, 1, 3, is_suspect=True)
    effects = anna.handle(said(BERT, doubt), 0.2)
    assert Send(CARL, Digest((doubt,), is_reply=True)) in effects
    assert anna.state_of(CARL) is NodeState.ALIVE
    # Its answer goes back to those that doubted.
    effects = anna.handle(said(CARL, DigestEntry(CARL, 1, 4)), 0.3)
    assert DigestEntry(CARL, 1, 4) in entries_about(CARL, effects)


def test_the_dead_are_forgotten_after_a_day_and_not_brought_back_by_others() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(said(BERT, DigestEntry(CARL, 1, 5, is_suspect=True)), 1.0)
    now, forgotten_at = 3.0, None
    while forgotten_at is None and now < 2 * 86_400:
        if NodeChanged(CARL) in anna.handle(Tick(), now) and anna.state_of(CARL) is None:
            forgotten_at = now
        now += 2.0
    assert forgotten_at is not None
    assert 86_400 <= forgotten_at < 86_410
    dead = DigestEntry(CARL, 1, 5, is_suspect=True)
    effects = anna.handle(said(BERT, dead, is_reply=False), now)
    assert entries_about(CARL, effects) == []


def test_the_dead_are_not_told_to_those_who_never_knew_them() -> None:
    anna = knowing(record(BERT), record(CARL), record(DORA))
    anna.handle(said(BERT, DigestEntry(CARL, 1, 5, is_suspect=True)), 1.0)
    anna.handle(Tick(), 3.0)
    effects = anna.handle(said(BERT, DigestEntry(BERT, 1, 1), is_reply=False), 4.0)
    (delta,) = [send.message for send in sends(effects) if isinstance(send.message, Delta)]
    authors = {NodeId(envelope.author.hex()) for envelope in delta.records}
    assert authors == {ANNA, DORA}


# -- bounds -----------------------------------------------------------------------------------


def test_the_table_is_bounded_and_the_dead_make_room() -> None:
    anna = knowing(record(BERT), record(CARL), config=MembershipConfig(table_limit=2))
    anna.handle(told(BERT, record(DORA)), 0.1)
    assert anna.record_of(DORA) is None
    assert anna.refusals == {"table-full": 1}
    anna.handle(said(BERT, DigestEntry(CARL, 1, 5, is_suspect=True)), 1.0)
    anna.handle(Tick(), 3.0)
    anna.handle(told(BERT, record(DORA)), 3.1)
    assert anna.state_of(CARL) is None
    assert anna.state_of(DORA) is NodeState.ALIVE


def test_a_greedy_peer_gets_no_more_than_its_share() -> None:
    config = MembershipConfig()
    anna = knowing(*(record(node, metadata={"note": "x" * 150}) for node in IDS[1:]))
    sent = 0
    for question in range(5_000):
        effects = anna.handle(said(BERT, is_reply=False), 1.0 + question / 1_000)
        sent += sum(len(encode(send.message)) for send in sends(effects) if send.peer == BERT)
    assert sent < 1.2 * (config.answer_burst_bytes + 6 * config.answer_bytes_per_s)
    assert anna.refusals["too-many"] > 0


def test_a_peer_that_can_have_little_at_once_gets_everything_in_the_end() -> None:
    config = MembershipConfig(answer_burst_bytes=2_000, answer_bytes_per_s=2_000, silence_s=1e6)
    anna = knowing(*many(), config=config)
    received = set()
    for second in range(1, 300):
        for send in sends(anna.handle(said(BERT, is_reply=False), second)):
            if isinstance(send.message, Delta):
                received |= {envelope.author.hex() for envelope in send.message.records}
    assert received == set(IDS)


def test_a_flood_of_forged_records_is_not_even_checked() -> None:
    opened = []

    def open_envelope(envelope: Envelope) -> SignedRecord:
        opened.append(envelope)
        return record(CARL)

    anna = machine(open_envelope=open_envelope, config=MembershipConfig(records_burst=10))
    anna.handle(PeerConnected(BERT), 0.0)
    forged = tuple(Envelope(bytes([number]), b"", b"") for number in range(200))
    anna.handle(MessageReceived(BERT, Delta(forged)), 0.0)
    assert len(opened) == 10


def test_a_lie_about_a_heartbeat_cannot_silence_a_node() -> None:
    anna = knowing(record(BERT), record(CARL))
    for heartbeat in (1 << 62, -1):
        anna.handle(said(BERT, DigestEntry(CARL, 1, heartbeat)), 0.1)
    anna.handle(said(BERT, DigestEntry(CARL, 1, 1 << 49)), 0.2)
    effects = anna.handle(said(BERT, DigestEntry(CARL, 1, 0), is_reply=False), 0.3)
    (answer,) = entries_about(CARL, effects)
    assert answer.heartbeat <= HEARTBEAT_JUMP_LIMIT
    assert anna.refusals["too-many"] == 2


def test_one_digest_about_us_moves_our_own_counter_by_little() -> None:
    anna = knowing(record(BERT))
    effects = anna.handle(said(BERT, DigestEntry(ANNA, 1, 1 << 62)), 0.5)
    assert entries_about(ANNA, effects)[0].heartbeat <= HEARTBEAT_JUMP_LIMIT + 2


# -- whom to be connected with ----------------------------------------------------------------


def many() -> list[SignedRecord]:
    return [record(node) for node in IDS[1:]]


def test_at_most_eight_connections_are_asked_for() -> None:
    anna = machine(known=many())
    effects = anna.handle(Tick(), 2.0)
    assert len(set(dials(effects))) == 8
    for node in dials(effects):
        anna.handle(PeerConnected(node), 2.1)
    assert [dials(anna.handle(Tick(), second)) for second in range(3, 9)] == [[]] * 6


def test_a_lost_connection_is_replaced_at_once_by_another() -> None:
    anna = machine(known=many())
    chosen = dials(anna.handle(Tick(), 2.0))
    for node in chosen:
        anna.handle(PeerConnected(node), 2.1)
    (replacement,) = dials(anna.handle(PeerLost(chosen[0]), 2.2))
    assert replacement not in chosen


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


def test_the_dead_are_probed_also_when_connections_are_enough() -> None:
    anna = knowing(*many())
    for node in IDS[1:9]:
        anna.handle(PeerConnected(node), 0.1)
    anna.handle(said(BERT, DigestEntry(IDS[20], 1, 5, is_suspect=True)), 0.2)
    probed = [node for second in range(1, 15) for node in dials(anna.handle(Tick(), second))]
    assert probed == [IDS[20]]


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
    st.builds(MessageReceived, _ids, st.one_of(_digests, _deltas)),
    st.builds(MessageReceived, st.just(BERT), st.one_of(_digests, _deltas)),
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
