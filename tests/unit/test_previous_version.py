"""Claims about peers of protocol version 1, with letters as that version wrote them."""

from __future__ import annotations

from p2prc.protocol.membership import (
    DialFailed,
    Effect,
    Event,
    Membership,
    MembershipConfig,
    MessageReceived,
    NodeState,
    PeerConnected,
    PeerLost,
    Tick,
)
from p2prc.protocol.messages import (
    Delta,
    Digest,
    DigestEntry,
    Gossip,
    Hello,
    letter_codec,
    opening_codec,
)
from p2prc.protocol.peer_choice import ChoiceConfig
from tests.unit.membership_room import (
    ANNA,
    BERT,
    CARL,
    DORA,
    IDS,
    dials,
    heard,
    knowing,
    life,
    record,
    sends,
    signs,
    told,
)

DIGEST = bytes.fromhex(
    "9300c283a474797065a6646967657374a7656e74726965739394d9406133346634346235346466366166"
    "373637336539323064366437353736376637623561393930376431633939613734343661333731643135"
    "36303733383966630411c294d94062303436356661306434373333313832666233373038333765356338"
    "6432383036346137303965653736383565373436383262653533643735363336386261650509c294d940"
    "333538373738613533353936313735666332373830366439336466653738323731363863646363373337"
    "313862643933396664386266336466343331393934630103c3a869735f7265706c79c2"
)
DELTA = bytes.fromhex(
    "9300c282a474797065a564656c7461a77265636f7264739193c420b0465fa0d4733182fb370837e5c8d2"
    "8064a709ee7685e74682be53d756368baec501b5de0015a46e6f6465d940623034363566613064343733"
    "333138326662333730383337653563386432383036346137303965653736383565373436383262653533"
    "64373536333638626165a76e6574776f726bd94033353837373861353335393631373566633237383036"
    "643933646665373832373136386364636337333731386264393339666438626633646634333139393463"
    "a776657273696f6e05a46e616d65a36f6c64aa6d656d62657273686970c40861646d6974746564a96164"
    "6472657373657391ae3139322e302e322e333a38303838a672656c61797390a969735f7075626c6963c2"
    "a86861735f6c656674c2a769735f646f776ec2aa69735f6c656e64696e67c2a8736f667477617265a0a8"
    "706c6174666f726da0a6707974686f6ea0a46370757300ac6d656d6f72795f627974657300a46c656e74"
    "84aa6370755f6d696c6c697300ac6d656d6f72795f627974657300aa6469736b5f627974657300a46770"
    "757300a46672656584aa6370755f6d696c6c697300ac6d656d6f72795f627974657300aa6469736b5f62"
    "7974657300a46770757300a46770757390a872756e74696d657390a86d6574616461746180c4403bf1b2"
    "c122575820499b92b0f7a6cb69f818ccab929b3e09854812df08bf9a70e1b955d9af227db814f344a971"
    "9e9ecfc7be3fde944fbe444b002e1f81c4df03"
)
DOUBT = bytes.fromhex(
    "9300c283a474797065a6646967657374a7656e74726965739194d9406230343635666130643437333331"
    "383266623337303833376535633864323830363461373039656537363835653734363832626535336437"
    "35363336386261650509c3a869735f7265706c79c3"
)
HELLO = bytes.fromhex(
    "85a474797065a568656c6c6fa76e6574776f726bd9403335383737386135333539363137356663323738"
    "303664393364666537383237313638636463633733373138626439333966643862663364663433313939"
    "3463aa6d656d62657273686970c405636861696ea776657273696f6e01b06f627365727665645f616464"
    "72657373a0"
)

CALM = MembershipConfig(gossip_interval_s=0.5, choice=ChoiceConfig(wanted=0))
"""Dials nobody to have company."""


def written(letter: bytes) -> Gossip:
    """What the previous version wrote, read by this one."""
    body = letter_codec.decode(letter).body
    assert isinstance(body, Digest | Delta)
    return body


def with_carl() -> Membership:
    """Anna, connected with Bert, and with Carl, who is of version 1 and told her his record."""
    anna = knowing(record(BERT, 4), config=CALM)
    anna.handle(PeerConnected(CARL, version=1), 0.1)
    anna.handle(MessageReceived(CARL, written(DELTA)), 0.2)
    return anna


def to_carl(effects: list[Effect]) -> list[Gossip]:
    return [send.message for send in sends(effects) if send.peer == CARL]


def entries_about(node: str, messages: list[Gossip]) -> list[DigestEntry]:
    return [
        entry
        for message in messages
        if isinstance(message, Digest)
        for entry in message.entries
        if entry.node == node
    ]


def test_a_greeting_of_version_1_is_understood() -> None:
    hello = opening_codec.decode(HELLO)
    assert isinstance(hello, Hello)
    assert hello.version == 1


def test_its_record_reaches_us_and_those_who_know_us() -> None:
    anna = knowing(record(BERT, 4))
    anna.handle(PeerConnected(CARL, version=1), 0.1)
    effects = anna.handle(MessageReceived(CARL, written(DELTA)), 0.2)
    assert anna.state_of(CARL) is NodeState.ALIVE
    found = anna.record_of(CARL)
    assert found is not None
    assert found.protocol == 1
    # A crowd may come behind it: who is there is told after a moment.
    effects += anna.handle(Tick(), anna.deadline)
    assert [send.peer for send in sends(effects) if isinstance(send.message, Delta)] == [BERT]


def test_it_is_told_what_it_does_not_list() -> None:
    anna = knowing(record(BERT, 4), record(DORA))
    anna.handle(PeerConnected(CARL, version=1), 0.1)
    effects = anna.handle(MessageReceived(CARL, written(DIGEST)), 0.2)
    authors = {
        envelope.author.hex()
        for message in to_carl(effects)
        if isinstance(message, Delta)
        for envelope in message.records
    }
    assert authors == {DORA}
    assert entries_about(CARL, to_carl(effects)) == [DigestEntry(CARL, -1, 0)]


def test_its_doubt_about_us_is_answered_with_a_newer_heartbeat() -> None:
    effects = with_carl().handle(MessageReceived(CARL, written(DIGEST)), 0.3)
    (answer,) = entries_about(ANNA, to_carl(effects))
    assert answer.heartbeat > 3
    assert not answer.is_suspect


def test_the_heartbeats_of_all_who_are_alive_rise_above_what_it_knows() -> None:
    anna = with_carl()
    anna.handle(MessageReceived(CARL, written(DIGEST)), 0.3)
    beats = []
    for step in range(1, 80):
        effects = anna.handle(Tick(), step / 2)
        beats += [entry.heartbeat for entry in entries_about(BERT, to_carl(effects))]
    # It holds a node dead after twenty seconds of the same counter.
    assert len(beats) >= 7
    assert beats[0] > 17
    assert beats == sorted(set(beats))


def test_a_death_is_told_as_a_doubt_that_it_believes() -> None:
    anna = with_carl()
    anna.handle(MessageReceived(CARL, written(DIGEST)), 0.3)
    anna.handle(PeerLost(BERT), 1.0)
    told_of = []
    for step in range(3, 12):
        told_of += entries_about(BERT, to_carl(anna.handle(Tick(), step / 2)))
    assert anna.state_of(BERT) is NodeState.DEAD
    assert told_of[-1].is_suspect
    assert told_of[-1].heartbeat >= 17


def test_nobody_believes_a_doubt_about_a_node_that_cannot_answer() -> None:
    anna = knowing(record(BERT, 4), record(CARL, 5, protocol=1), config=CALM)
    effects = anna.handle(heard(BERT, signs(BERT, life(CARL, 5))), 1.0)
    assert anna.state_of(CARL) is NodeState.ALIVE
    assert dials(effects) == [CARL]
    anna.handle(DialFailed(CARL), 2.0)
    assert anna.state_of(CARL) is NodeState.SUSPECT
    for step in range(5, 15):
        anna.handle(Tick(), step / 2)
    assert anna.state_of(CARL) is NodeState.DEAD
    anna.handle(PeerConnected(CARL, version=1), 8.0)
    assert anna.state_of(CARL) is NodeState.ALIVE


def test_its_doubt_makes_us_look_for_ourselves() -> None:
    anna = with_carl()
    anna.handle(told(BERT, record(DORA)), 0.3)
    doubt = Digest((DigestEntry(DORA, 1, 9, is_suspect=True),), is_reply=True)
    effects = anna.handle(MessageReceived(CARL, doubt), 0.4)
    assert dials(effects) == [DORA]
    assert anna.state_of(DORA) is NodeState.ALIVE


def test_a_heartbeat_of_version_1_keeps_nobody_alive() -> None:
    anna = with_carl()
    anna.handle(told(BERT, record(DORA)), 0.3)
    anna.handle(heard(BERT, signs(BERT, life(DORA))), 0.4)
    for step in range(1, 20):
        alive = Digest((DigestEntry(DORA, 1, 100 * step),))
        anna.handle(MessageReceived(CARL, alive), 0.4 + step / 2)
    assert anna.state_of(DORA) is NodeState.DEAD


def test_it_is_never_sent_what_it_cannot_read() -> None:
    anna = with_carl()
    happenings: list[Event] = [
        told(BERT, record(BERT, 5), *(record(node) for node in IDS[3:9])),
        heard(BERT, signs(BERT, life(IDS[5]))),
        MessageReceived(CARL, written(DOUBT)),
        MessageReceived(CARL, written(DIGEST)),
        PeerConnected(IDS[6]),
        PeerLost(IDS[6]),
        PeerLost(BERT),
        *[Tick()] * 40,
    ]
    sent = [
        message
        for step, event in enumerate(happenings)
        for message in to_carl(anna.handle(event, 1.0 + step / 4))
    ]
    assert len(sent) > 5
    assert all(isinstance(message, Digest | Delta) for message in sent)
