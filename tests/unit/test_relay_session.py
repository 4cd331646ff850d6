"""The relay's machine: who is served, what is forwarded, and what a bad client gets."""

from __future__ import annotations

import os
from random import Random

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.model.identity import NodeId
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.relay_events import (
    Admitted,
    Ask,
    Blocked,
    Close,
    Closed,
    Connected,
    Hold,
    NodeBarred,
    NotAdmitted,
    Received,
    RelayConfig,
    RelayEffect,
    RelayEvent,
    RelayTerms,
    Restarting,
    Send,
    Tick,
    Writable,
)
from p2prc.protocol.relay_session import RelaySession

FREE = RelayTerms()


class Client:
    """A key that knows how to answer a challenge."""

    def __init__(self, seed: int) -> None:
        self.secret = Ed25519PrivateKey.from_private_bytes(bytes([seed]) * 32)
        self.key = self.secret.public_key().public_bytes_raw()
        self.node = NodeId(self.key.hex())

    def proof(self, challenge: bytes) -> bytes:
        text = blake3(challenge, derive_key_context=frames.CHALLENGE_CONTEXT).digest()
        return b"\x01" + self.key + b"\x40" + self.secret.sign(text)


ANNA, BEN, CLEO = Client(1), Client(2), Client(3)


class Relay:
    """The machine with a clock, remembering what it said on each line."""

    def __init__(self, config: RelayConfig | None = None) -> None:
        self.machine = RelaySession(rng=Random(7), config=config)
        self.now = 100.0
        self.lines = 0
        self.said: dict[int, list[bytes]] = {}
        self.closed: set[int] = set()
        self.holds: list[Hold] = []
        self.asked: list[Ask] = []

    def feed(self, event: RelayEvent) -> list[RelayEffect]:
        effects = self.machine.handle(event, self.now)
        for effect in effects:
            match effect:
                case Send():
                    assert effect.line not in self.closed
                    self.said.setdefault(effect.line, []).extend(effect.frames)
                case Close():
                    self.closed.add(effect.line)
                case Hold():
                    self.holds.append(effect)
                case Ask():
                    self.asked.append(effect)
        return effects

    def wait(self, seconds: float) -> None:
        until = self.now + seconds
        while (deadline := self.machine.deadline) is not None and deadline <= until:
            assert deadline > self.now - 1e-9
            self.now = max(self.now, deadline)
            self.feed(Tick())
            assert self.machine.deadline is None or self.machine.deadline > self.now
        self.now = until

    def connect(self, version: str = frames.VERSION_2, bearer: str = "") -> tuple[int, bytes]:
        self.lines += 1
        challenge = self.lines.to_bytes(16, "big")
        self.feed(Connected(self.lines, version, bearer, challenge))
        assert self.heard(self.lines) == [b"\x00" + challenge]
        return self.lines, challenge

    def admit(
        self, client: Client, terms: RelayTerms = FREE, version: str = frames.VERSION_2
    ) -> int:
        line, challenge = self.connect(version, bearer="token")
        self.feed(Received(line, [client.proof(challenge)]))
        assert self.asked.pop() == Ask(line, client.node, "token")
        self.feed(Admitted(line, terms))
        assert self.heard(line)[0] == frames.confirm()
        return line

    def send(self, line: int, to: Client, payload: bytes = b"hello") -> None:
        self.feed(Received(line, [b"\x04" + to.key + b"\x00" + payload]))

    def heard(self, line: int) -> list[bytes]:
        return self.said.pop(line, [])

    def refusals(self) -> dict[str, int]:
        return self.machine.stats.refusals


def packet(source: Client, payload: bytes = b"hello") -> bytes:
    return b"\x06" + source.key + b"\x00" + payload


# -- who is served ---------------------------------------------------------------------------


def test_two_clients_exchange_datagrams_and_batches() -> None:
    relay = Relay()
    anna, ben = relay.admit(ANNA), relay.admit(BEN)
    relay.send(anna, BEN)
    relay.feed(Received(ben, [b"\x05" + ANNA.key + b"\x02\x00\x02abab"]))
    assert relay.heard(ben) == [packet(ANNA)]
    assert relay.heard(anna) == [b"\x07" + BEN.key + b"\x02\x00\x02abab"]
    assert relay.machine.stats.forwarded_packets == 2
    assert relay.machine.stats.clients == 2


def test_a_claimed_key_without_its_signature_is_denied() -> None:
    relay = Relay()
    line, challenge = relay.connect()
    stolen = b"\x01" + ANNA.key + b"\x40" + BEN.proof(challenge)[34:]
    relay.feed(Received(line, [stolen]))
    assert relay.heard(line) == [frames.deny("the signature does not match the key")]
    assert line in relay.closed
    assert relay.refusals() == {"bad-signature": 1}
    assert not relay.asked


def test_a_replayed_proof_is_denied() -> None:
    relay = Relay()
    _, old = relay.connect()
    line, _ = relay.connect()
    relay.feed(Received(line, [ANNA.proof(old)]))
    assert line in relay.closed
    assert relay.refusals() == {"bad-signature": 1}


def test_a_weak_key_proves_nothing() -> None:
    relay = Relay()
    line, _ = relay.connect()
    # With the neutral point as key, a signature of the neutral point and 0 fits every text.
    neutral = b"\x01" + bytes(31)
    relay.feed(Received(line, [b"\x01" + neutral + b"\x40" + neutral + bytes(32)]))
    assert line in relay.closed
    assert not relay.asked


def test_who_is_not_admitted_hears_why() -> None:
    relay = Relay()
    line, challenge = relay.connect(bearer="nonsense")
    relay.feed(Received(line, [ANNA.proof(challenge)]))
    assert relay.asked == [Ask(line, ANNA.node, "nonsense")]
    relay.feed(NotAdmitted(line, "not-member", "only members are served"))
    assert relay.heard(line) == [frames.deny("only members are served")]
    assert line in relay.closed
    assert relay.refusals() == {"not-member": 1}
    relay.feed(Admitted(line, FREE))
    assert relay.machine.stats.clients == 0


@pytest.mark.parametrize(
    "frame", [b"", b"\x04" + BEN.key + b"\x00hi", b"\x09" + bytes(8), os.urandom(64)]
)
def test_anything_but_a_proof_ends_an_unproven_line(frame: bytes) -> None:
    relay = Relay()
    line, _ = relay.connect()
    relay.feed(Received(line, [frame]))
    assert line in relay.closed
    assert relay.refusals() == {"malformed": 1}


def test_what_follows_a_proof_at_once_is_not_obeyed() -> None:
    relay = Relay()
    ben = relay.admit(BEN)
    line, challenge = relay.connect()
    relay.feed(Received(line, [ANNA.proof(challenge), b"\x04" + BEN.key + b"\x00hi"]))
    assert line in relay.closed
    assert relay.heard(ben) == []
    relay.feed(Admitted(line, FREE))
    assert relay.machine.stats.clients == 1


def test_a_half_handshake_ends() -> None:
    relay = Relay()
    line, _ = relay.connect()
    relay.wait(9.9)
    assert line not in relay.closed
    relay.wait(0.2)
    assert line in relay.closed
    assert relay.refusals() == {"half-handshake": 1}
    assert relay.machine.deadline is None


# -- one id, several lines ---------------------------------------------------------------------


def test_the_newest_line_of_an_id_counts_and_the_one_before_takes_over_again() -> None:
    relay = Relay()
    first, ben = relay.admit(ANNA), relay.admit(BEN)
    second = relay.admit(ANNA)
    assert relay.heard(first) == [b"\x0d\x01"]
    relay.send(ben, ANNA)
    assert (relay.heard(first), relay.heard(second)) == ([], [packet(BEN)])
    relay.feed(Closed(second))
    assert relay.heard(first) == [b"\x0d\x00"]
    relay.send(ben, ANNA)
    assert relay.heard(first) == [packet(BEN)]
    assert relay.machine.stats.clients == 2


def test_an_old_client_is_told_in_words() -> None:
    relay = Relay()
    first = relay.admit(ANNA, version=frames.VERSION_1)
    relay.admit(ANNA)
    assert relay.heard(first)[0].startswith(b"\x0b")


def test_one_id_has_few_lines() -> None:
    relay = Relay()
    lines = [relay.admit(ANNA) for _ in range(6)]
    assert relay.closed == set(lines[:2])
    assert relay.refusals() == {"too-many-lines": 2}


def test_who_was_written_to_hears_that_the_writer_is_gone() -> None:
    relay = Relay()
    anna, ben, cleo = relay.admit(ANNA), relay.admit(BEN), relay.admit(CLEO)
    relay.send(anna, BEN)
    relay.heard(ben)
    relay.feed(Closed(anna))
    assert relay.heard(ben) == [frames.endpoint_gone(ANNA.key)]
    assert relay.heard(cleo) == []


# -- guests ----------------------------------------------------------------------------------


def test_a_guest_reaches_its_one_destination_and_nobody_else_reaches_it() -> None:
    relay = Relay()
    ben, cleo = relay.admit(BEN), relay.admit(CLEO)
    anna = relay.admit(ANNA, RelayTerms(expires_in_s=60.0, only_to=BEN.node))
    for source, target in ((anna, BEN), (anna, CLEO), (ben, ANNA), (cleo, ANNA)):
        relay.send(source, target)
    assert relay.heard(ben) == [packet(ANNA)]
    assert relay.heard(cleo) == []
    assert relay.heard(anna) == [packet(BEN)]
    assert relay.refusals() == {"guest-elsewhere": 1, "not-for-guest": 1}


def test_a_guests_line_that_comes_back_takes_nothing_from_the_member_it_became() -> None:
    relay = Relay()
    ben, cleo, anna = relay.admit(BEN), relay.admit(CLEO), relay.admit(ANNA)
    guest = relay.admit(ANNA, RelayTerms(expires_in_s=60.0, only_to=BEN.node))
    relay.heard(anna), relay.heard(guest)
    relay.send(cleo, ANNA)
    relay.send(anna, CLEO)
    assert relay.heard(anna) == [packet(CLEO)]
    assert relay.heard(cleo) == [packet(ANNA)]
    relay.send(guest, BEN)
    assert relay.heard(ben) == [packet(ANNA)]
    assert relay.refusals() == {}


def test_a_guest_goes_when_its_time_is_over_however_busy() -> None:
    relay = Relay()
    anna = relay.admit(ANNA, RelayTerms(expires_in_s=60.0, only_to=BEN.node))
    for _ in range(59):
        relay.wait(1.0)
        relay.feed(Received(anna, [b"\x09" + bytes(8)]))
    assert anna not in relay.closed
    relay.wait(1.1)
    assert anna in relay.closed


def test_a_barred_node_loses_every_line_at_once() -> None:
    relay = Relay()
    lines = {relay.admit(ANNA), relay.admit(ANNA)}
    ben = relay.admit(BEN)
    relay.feed(NodeBarred(ANNA.node, "barred"))
    assert relay.closed == lines
    relay.send(ben, ANNA)
    assert relay.machine.stats.clients == 1
    assert relay.refusals() == {"barred": 2}


# -- bounds ----------------------------------------------------------------------------------


def test_a_reader_that_stalls_loses_packets_then_its_line() -> None:
    relay = Relay()
    anna, ben = relay.admit(ANNA), relay.admit(BEN)
    relay.feed(Blocked(ben))
    for _ in range(600):
        relay.send(anna, BEN)
    stats = relay.machine.stats
    assert (stats.dropped_packets, stats.forwarded_packets) == (88, 512)
    assert stats.queued_bytes == 512 * len(packet(ANNA))
    relay.wait(10.1)
    assert ben in relay.closed
    assert relay.refusals() == {"never-reads": 1}
    assert relay.machine.stats.queued_bytes == 0


def test_what_waited_is_delivered_in_order() -> None:
    relay = Relay()
    anna, ben = relay.admit(ANNA), relay.admit(BEN)
    relay.feed(Blocked(ben))
    for number in range(5):
        relay.send(anna, BEN, bytes([number]))
    assert relay.heard(ben) == []
    relay.feed(Writable(ben))
    relay.send(anna, BEN, b"\x05")
    assert relay.heard(ben) == [packet(ANNA, bytes([number])) for number in range(6)]
    assert relay.machine.stats.queued_bytes == 0


def test_queues_are_bounded_in_bytes_for_each_and_for_all() -> None:
    relay = Relay(RelayConfig(queue_bytes=3000, queues_bytes=5000))
    anna, ben, cleo = relay.admit(ANNA), relay.admit(BEN), relay.admit(CLEO)
    for line in (ben, cleo):
        relay.feed(Blocked(line))
    for _ in range(10):
        relay.send(anna, BEN, bytes(950))
        relay.send(anna, CLEO, bytes(950))
    stats = relay.machine.stats
    assert stats.queued_bytes <= 5000
    assert stats.forwarded_packets == 5
    assert stats.dropped_packets == 15


def test_a_pong_flood_of_a_blocked_client_does_not_grow() -> None:
    relay = Relay()
    anna = relay.admit(ANNA)
    relay.feed(Blocked(anna))
    for _ in range(100):
        relay.feed(Received(anna, [b"\x09" + bytes(8)] * 100))
    assert relay.machine.stats.queued_bytes == 512 * 9


def test_a_flood_is_read_at_its_rate() -> None:
    relay = Relay()
    relay.admit(BEN)
    anna = relay.admit(ANNA, RelayTerms(bytes_per_s=10_000.0))
    began, carried = relay.now, 0
    while relay.now < began + 10.0:
        relay.send(anna, BEN, bytes(1000))
        carried += 1000
        if relay.holds:
            relay.wait(relay.holds.pop().for_s)
    assert 75_000 < carried < 105_000
    assert relay.refusals() == {"rate-limited": 1}
    assert anna not in relay.closed
    assert b"\x0d\x02" in relay.heard(anna)


def test_many_small_frames_are_not_free() -> None:
    relay = Relay()
    anna = relay.admit(ANNA, RelayTerms(bytes_per_s=10_000.0))
    relay.feed(Received(anna, [b"\x0a" + bytes(8)] * 1000))
    assert relay.holds[0].for_s > 6.0


def test_a_long_hold_is_not_taken_for_silence() -> None:
    relay = Relay()
    anna = relay.admit(ANNA, RelayTerms(bytes_per_s=1000.0))
    relay.feed(Received(anna, [b"\x04" + BEN.key + b"\x00" + bytes(60_000)]))
    assert relay.holds[0].for_s > 50.0
    relay.wait(relay.holds[0].for_s + 14.0)
    assert anna not in relay.closed


def test_a_silent_client_is_pinged_then_given_up() -> None:
    relay = Relay()
    anna = relay.admit(ANNA)
    relay.wait(15.9)
    assert relay.heard(anna) == []
    relay.wait(4.2)
    (ping,) = relay.heard(anna)
    assert ping[:1] == b"\x09"
    relay.feed(Received(anna, [b"\x0a" + ping[1:]]))
    relay.wait(14.0)
    assert relay.heard(anna) == []
    relay.wait(16.1)
    assert anna in relay.closed
    assert relay.refusals() == {"silent": 1}


def test_a_client_that_talks_is_never_pinged() -> None:
    relay = Relay()
    anna, ben = relay.admit(ANNA), relay.admit(BEN)
    for _ in range(60):
        relay.send(anna, BEN)
        relay.send(ben, ANNA)
        relay.wait(5.0)
    assert not relay.closed
    assert not any(frame[:1] == b"\x09" for frame in relay.heard(anna) + relay.heard(ben))


def test_an_end_is_announced() -> None:
    relay = Relay()
    anna = relay.admit(ANNA)
    half, _ = relay.connect()
    relay.feed(Restarting(1.0, 10.0))
    assert relay.heard(anna) == [frames.restarting(reconnect_in_s=1.0, try_for_s=10.0)]
    assert relay.heard(half) == []
    assert relay.closed == {anna, half}


_LINES = st.integers(1, 4)
_CLIENTS = st.sampled_from([ANNA, BEN, CLEO])
_EVENTS = st.one_of(
    st.builds(lambda line, data: Received(line, [data]), _LINES, st.binary(max_size=80)),
    st.builds(
        lambda line, to, kind, data: Received(line, [bytes([kind]) + to.key + data]),
        _LINES,
        _CLIENTS,
        st.integers(4, 5),
        st.binary(max_size=80),
    ),
    st.builds(Blocked, _LINES),
    st.builds(Writable, _LINES),
    st.builds(Closed, _LINES),
    st.builds(Admitted, _LINES, st.just(FREE)),
    st.builds(NotAdmitted, _LINES, st.just("not-member"), st.text(max_size=5)),
    st.builds(NodeBarred, _CLIENTS.map(lambda client: client.node), st.just("barred")),
    st.just(Tick()),
)


@settings(max_examples=200)
@given(st.lists(st.tuples(_EVENTS, st.floats(0.0, 30.0)), max_size=40))
def test_whatever_happens_nothing_is_said_on_a_closed_line_and_the_books_balance(
    history: list[tuple[RelayEvent, float]],
) -> None:
    relay = Relay()
    for client in (ANNA, BEN, CLEO, ANNA):
        relay.admit(client)
    for event, pause in history:
        if isinstance(event, Closed):
            relay.closed.add(event.line)
        relay.feed(event)
        relay.wait(pause)
    for line in range(1, 5):
        relay.feed(Closed(line))
    stats = relay.machine.stats
    assert stats.clients == 0
    assert stats.queued_bytes == 0
    assert relay.machine.deadline is None or relay.machine.deadline >= relay.now
