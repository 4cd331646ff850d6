"""Claims about who is there: doubts, answers, deaths, and lies about them; time is a number."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from p2prc.model.testimony import Life
from p2prc.protocol.membership import (
    DialFailed,
    HangUp,
    Membership,
    MembershipConfig,
    MessageReceived,
    NodeChanged,
    NodeState,
    OwnVersionBehind,
    PeerConnected,
    PeerLost,
    Send,
    Tick,
)
from p2prc.protocol.messages import Call, Entries, Rumour, Want
from tests.unit.membership_room import (
    ANNA,
    BERT,
    CARL,
    DORA,
    IDS,
    Room,
    dials,
    heard,
    knowing,
    life,
    machine,
    record,
    room_of_three,
    rumours,
    sends,
    signs,
    told,
)


def let_pass(anna: Membership, start: float, end: float) -> None:
    """Wake the machine every quarter of a second, as its deadlines would."""
    now = start
    while now <= end:
        anna.handle(Tick(), now)
        now += 0.25


def test_a_lost_peer_is_suspect_at_once_and_dead_soon() -> None:
    anna = knowing(record(BERT))
    let_pass(anna, 0.1, 10.0)
    assert NodeChanged(BERT) in anna.handle(PeerLost(BERT), 10.0)
    assert anna.state_of(BERT) is NodeState.SUSPECT
    let_pass(anna, 10.25, 12.0)
    assert anna.state_of(BERT) is NodeState.SUSPECT
    assert anna.deadline <= 13.0
    assert NodeChanged(BERT) in anna.handle(Tick(), 13.0)
    assert anna.state_of(BERT) is NodeState.DEAD


def test_a_peer_that_hung_up_on_purpose_is_not_doubted() -> None:
    anna = knowing(record(BERT))
    anna.handle(PeerLost(BERT, on_purpose=True), 1.0)
    let_pass(anna, 1.0, 5.0)
    assert anna.state_of(BERT) is NodeState.ALIVE


def test_a_death_is_known_to_all_within_four_seconds() -> None:
    room = room_of_three()
    room.kill(CARL)
    assert room.picture(ANNA)[CARL] == "suspect"
    room.let_pass(4)
    assert room.picture(ANNA) == {BERT: "alive", CARL: "dead"}
    assert room.picture(BERT) == {ANNA: "alive", CARL: "dead"}


def test_the_death_of_a_node_that_only_one_hears_is_known_to_all() -> None:
    room = Room(ANNA, BERT, CARL)
    room.connect(ANNA, BERT)
    room.connect(BERT, CARL)
    room.let_pass(2)
    assert room.picture(ANNA)[CARL] == "alive"
    room.kill(CARL)
    room.let_pass(4)
    assert room.picture(ANNA)[CARL] == "dead"


def test_who_is_doubted_says_that_it_is_here_in_a_later_life() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 0.5)
    effects = anna.handle(heard(BERT, signs(DORA, life(ANNA))), 0.6)
    effects += anna.handle(heard(BERT, signs(BERT, life(ANNA))), 0.6)
    assert {send.peer for send in sends(effects)} >= {BERT, CARL}
    assert signs(ANNA, life(ANNA, 1, 1)) in rumours(effects)


def test_nobody_but_the_node_itself_can_say_that_it_is_alive() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    let_pass(anna, 1.25, 5.0)
    assert anna.state_of(CARL) is NodeState.DEAD
    anna.handle(heard(BERT, signs(BERT, life(CARL, 1, 5))), 5.1)
    anna.handle(MessageReceived(BERT, Entries((), (life(CARL),), is_reply=True)), 5.2)
    anna.handle(told(BERT, record(CARL)), 5.3)
    assert anna.state_of(CARL) is NodeState.DEAD
    assert NodeChanged(CARL) in anna.handle(heard(BERT, signs(CARL, life(CARL, 1, 1))), 5.4)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_an_old_statement_replayed_keeps_nobody_alive() -> None:
    anna = knowing(record(BERT), record(CARL))
    statement = signs(CARL, life(CARL, 1, 1))
    anna.handle(heard(BERT, statement), 0.1)
    anna.handle(heard(BERT, signs(BERT, life(CARL, 1, 1))), 1.0)
    for second in range(2, 8):
        anna.handle(heard(BERT, statement), second)
        anna.handle(told(BERT, record(CARL)), second)
        anna.handle(Tick(), second + 0.5)
    assert anna.state_of(CARL) is NodeState.DEAD


def test_a_statement_that_another_signed_is_forged() -> None:
    anna = knowing(record(BERT), record(CARL))
    genuine = signs(BERT, life(BERT, 1, 1))
    forged = type(genuine)(bytes.fromhex(CARL), genuine.payload, genuine.signature)
    anna.handle(heard(BERT, forged), 0.1)
    assert anna.refusals == {"forged": 1}


def test_a_doubt_about_an_earlier_life_is_answered_and_not_believed() -> None:
    anna = knowing(record(BERT), record(CARL))
    statement = signs(CARL, life(CARL, 1, 2))
    anna.handle(heard(BERT, statement), 0.1)
    effects = anna.handle(heard(BERT, signs(BERT, life(CARL, 1, 1))), 0.2)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert Send(BERT, Rumour((statement,))) in effects


def test_a_doubt_about_a_node_that_we_hear_is_passed_to_it() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(PeerConnected(CARL), 0.1)
    doubt = signs(BERT, life(CARL))
    effects = anna.handle(heard(BERT, doubt), 0.2)
    assert Send(CARL, Rumour((doubt,))) in effects
    assert anna.state_of(CARL) is NodeState.ALIVE
    # Its answer goes back to those that doubted.
    answer = signs(CARL, life(CARL, 1, 1))
    effects = anna.handle(heard(CARL, answer), 0.3)
    assert Send(BERT, Rumour((answer,))) in effects


def test_a_doubt_is_passed_on_once() -> None:
    anna = knowing(record(BERT), record(CARL))
    for peer in IDS[3:7]:
        anna.handle(PeerConnected(peer), 0.1)
    doubt = signs(BERT, life(CARL))
    passed = anna.handle(heard(BERT, doubt), 0.5)
    assert {send.peer for send in sends(passed)} == set(IDS[3:7])
    again = anna.handle(heard(DORA, doubt), 0.8) + anna.handle(Tick(), 0.9)
    assert doubt not in rumours(again)


def test_one_authors_doubts_are_passed_on_with_measure() -> None:
    config = MembershipConfig(doubts_burst=5, doubts_per_s=0.0, checks_burst=1e9)
    known = [record(node) for node in IDS[2:]]
    anna = knowing(record(BERT), *known, config=config)
    restated = 0
    for incarnation in range(10):
        doubts = [life(node, 1, incarnation) for node in IDS[2:]]
        anna.handle(heard(BERT, signs(BERT, *doubts)), 0.1 + incarnation / 100)
        states = [view.state for view in anna.nodes(0.0)]
        restated += states.count(NodeState.SUSPECT)
        answers = [signs(node, life(node, 1, incarnation + 1)) for node in IDS[2:]]
        anna.handle(heard(BERT, *answers), 0.105 + incarnation / 100)
    assert restated <= 5 + len(IDS) + 1
    assert anna.refusals["too-many-doubts"] >= 10 * len(known) - restated
    assert all(view.state is NodeState.ALIVE for view in anna.nodes(1.0))


def test_a_doubt_about_a_life_that_we_never_led_is_a_lie() -> None:
    anna = knowing(record(BERT))
    effects = anna.handle(heard(BERT, signs(BERT, life(ANNA, 1, 1 << 39))), 0.5)
    assert rumours(effects) == []
    assert anna.refusals == {"false-claim": 1}


def test_a_doubt_about_a_later_life_must_be_proved() -> None:
    anna = knowing(record(BERT), record(CARL))
    effects = anna.handle(heard(BERT, signs(BERT, life(CARL, 7))), 0.5)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert Send(BERT, Want((life(CARL),))) in effects


def test_a_statement_of_ours_that_we_forgot_makes_us_sign_above_it() -> None:
    anna = knowing(record(BERT))
    effects = anna.handle(heard(BERT, signs(ANNA, life(ANNA, 9, 3))), 0.5)
    assert OwnVersionBehind(9) in effects
    effects = anna.handle(heard(BERT, signs(ANNA, life(ANNA, 1, 3))), 0.6)
    assert signs(ANNA, life(ANNA, 1, 4)) in rumours(effects)


def test_before_a_suspect_is_held_dead_somebody_else_is_asked() -> None:
    room = room_of_three()
    carl = room.machines[CARL]
    answer = signs(CARL, life(CARL, 1, 1))
    room.machines[BERT].handle(heard(CARL, answer), room.now)
    # Anna missed the answer.
    anna = room.machines[ANNA]
    room.broken.add(frozenset((ANNA, CARL)))
    anna.handle(PeerLost(CARL), room.now)
    assert carl is not None
    room.let_pass(5)
    assert room.picture(ANNA)[CARL] == "alive"


def test_who_holds_a_node_alive_that_died_here_is_told() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    let_pass(anna, 1.25, 5.0)
    effects = anna.handle(MessageReceived(BERT, Entries((), (life(CARL), life(BERT)))), 6.0)
    assert signs(ANNA, life(CARL)) in rumours(effects)


def test_two_halves_that_meet_again_know_each_other_within_two_seconds() -> None:
    room = Room(*IDS[:8])
    for one, other in pairwise(IDS[:8]):
        room.connect(one, other)
    room.let_pass(3)
    room.break_link(IDS[3], IDS[4])
    room.let_pass(30)
    assert list(room.picture(IDS[0]).values()).count("dead") >= 1
    for effect_to, node in ((IDS[4], IDS[3]), (IDS[3], IDS[4])):
        assert room.picture(node)[effect_to] == "dead"
    room.broken.clear()
    room.connect(IDS[3], IDS[4])
    room.let_pass(2)
    for node in IDS[:8]:
        assert set(room.picture(node).values()) == {"alive"}


def test_a_node_cut_off_from_all_doubts_nobody_before_others() -> None:
    anna = knowing(record(BERT), *(record(node) for node in IDS[2:]))
    effects = anna.handle(PeerLost(BERT), 1.0)
    assert rumours(effects) == []
    let_pass(anna, 1.25, 60.0)
    assert anna.state_of(CARL) is NodeState.DEAD
    # What was held dead out of ignorance is alive as soon as somebody lists it.
    anna.handle(PeerConnected(DORA), 61.0)
    lives = tuple(life(node) for node in IDS[2:])
    effects = anna.handle(MessageReceived(DORA, Entries((), lives)), 61.1)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert not any(
        isinstance(send.message, Rumour) and send.peer == DORA for send in sends(effects)
    )


def test_an_hour_without_our_own_attention_is_nobodys_fault() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(Tick(), 1.0)
    anna.handle(Tick(), 3600.0)
    assert anna.state_of(BERT) is NodeState.ALIVE
    assert anna.state_of(CARL) is NodeState.SUSPECT
    anna.handle(MessageReceived(BERT, Entries((), (life(CARL),), is_reply=True)), 3601.0)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_a_node_that_nobody_watches_is_called_on_and_found_dead() -> None:
    anna = knowing(record(BERT), *(record(node) for node in IDS[2:]))
    for peer in IDS[3:10]:
        anna.handle(PeerConnected(peer), 0.1)
    called = [node for second in range(1, 400) for node in dials(anna.handle(Tick(), second / 2))]
    assert called
    assert not set(called) & set(IDS[3:10])
    effects = anna.handle(DialFailed(called[-1]), 100.0)
    (call,) = [send for send in sends(effects) if isinstance(send.message, Call)]
    assert call.message == Call(life(called[-1]), 1)
    assert anna.state_of(called[-1]) is NodeState.ALIVE
    # The last one that is asked to look doubts it.
    unlucky = next(node for node in IDS[10:] if node not in called)
    effects = anna.handle(MessageReceived(call.peer, Call(life(unlucky), 0)), 100.1)
    assert dials(effects) == [unlucky]
    anna.handle(DialFailed(unlucky), 110.0)
    assert anna.state_of(unlucky) is NodeState.SUSPECT


def test_a_call_that_gets_through_is_ended_after_a_while() -> None:
    anna = knowing(record(BERT), *(record(node) for node in IDS[2:]))
    for peer in IDS[3:10]:
        anna.handle(PeerConnected(peer), 0.1)
    effects = anna.handle(MessageReceived(BERT, Call(life(CARL), 0)), 0.2)
    assert dials(effects) == [CARL]
    anna.handle(PeerConnected(CARL), 0.3)
    ended = [second for second in range(1, 10) if HangUp(CARL) in anna.handle(Tick(), second)]
    assert ended
    assert ended[0] <= 5


def test_the_dead_are_called_on_so_that_two_halves_meet_again() -> None:
    anna = knowing(record(BERT), *(record(node) for node in IDS[2:]))
    for peer in IDS[3:10]:
        anna.handle(PeerConnected(peer), 0.1)
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    called = []
    for step in range(8, 100):
        called += dials(anna.handle(Tick(), step / 4))
    assert CARL in called


def test_the_dead_are_forgotten_after_a_day_and_not_brought_back_by_the_dead() -> None:
    anna = knowing(record(BERT), record(CARL))
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    now, forgotten_at = 1.5, None
    while forgotten_at is None and now < 2 * 86_400:
        if NodeChanged(CARL) in anna.handle(Tick(), now) and anna.state_of(CARL) is None:
            forgotten_at = now
        now += 0.9 if now < 10 else 1.5
    assert forgotten_at is not None
    assert 86_400 <= forgotten_at < 86_410
    anna.handle(heard(BERT, signs(BERT, life(CARL))), now)
    assert anna.state_of(CARL) is None


def test_the_dead_are_not_told_to_those_who_never_knew_them() -> None:
    anna = knowing(record(BERT), record(CARL), record(DORA))
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    let_pass(anna, 1.25, 5.0)
    effects = anna.handle(MessageReceived(BERT, Entries((), (life(BERT),))), 6.0)
    (reply,) = [send.message for send in sends(effects) if isinstance(send.message, Entries)]
    assert {one.node for one in reply.lives} == {ANNA, DORA}


def test_a_node_that_comes_back_with_another_key_and_the_same_name_is_another_node() -> None:
    room = room_of_three()
    room.kill(CARL)
    room.let_pass(5)
    room.machines[DORA] = machine(DORA, now=room.now, rng=Random(9))
    room.connect(DORA, ANNA)
    room.let_pass(3)
    assert room.picture(BERT) == {ANNA: "alive", CARL: "dead", DORA: "alive"}
    names = [view.record.name for view in room.machines[BERT].nodes(room.now)]
    assert names == ["laptop"] * 4


def test_a_clock_a_day_ahead_and_then_corrected_does_no_harm() -> None:
    day = 86_400_000
    anna = knowing(record(BERT), record(CARL, 1_000 + day, addresses=("192.0.2.9:1",)))
    # It starts again with the right clock, and hears what the network holds of it.
    carl = machine(CARL, version=2_000)
    carl.handle(PeerConnected(ANNA), 1.0)
    effects = carl.handle(told(ANNA, record(CARL, 1_000 + day, addresses=("192.0.2.9:1",))), 1.1)
    assert OwnVersionBehind(1_000 + day) in effects
    anna.handle(told(BERT, record(CARL, 1_001 + day)), 2.0)
    found = anna.record_of(CARL)
    assert found is not None
    assert found.addresses == ("192.0.2.1:8088",)


def test_a_testimony_of_a_stranger_is_not_passed_on() -> None:
    anna = knowing(record(BERT), record(CARL))
    effects = anna.handle(heard(BERT, signs(DORA, life(CARL))), 1.0)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert Send(BERT, Want((Life(bytes.fromhex(DORA), -1),))) in effects
    assert rumours(effects) == []
