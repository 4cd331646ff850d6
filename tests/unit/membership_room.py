"""A few membership machines with instant links between them; time is a number."""

from __future__ import annotations

from random import Random
from typing import Any

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, sign_record
from p2prc.model.testimony import Life, testify
from p2prc.protocol.membership import (
    Dial,
    Effect,
    Event,
    HangUp,
    Membership,
    MessageReceived,
    PeerConnected,
    PeerLost,
    Send,
    Tick,
)
from p2prc.protocol.messages import Delta, Rumour
from p2prc.wire.signed import Envelope, public_key_of

SECRETS = [bytes([number % 256, number // 256]) * 16 for number in range(1, 440)]
MANY = [NodeId(public_key_of(secret).hex()) for secret in SECRETS]
IDS = MANY[:39]
NETWORK = IDS[0]
ANNA, BERT, CARL, DORA = IDS[:4]
EVERYBODY = {node: index for index, node in enumerate(MANY)}


def record(node: NodeId, version: int = 1, **fields: Any) -> SignedRecord:
    """A record that its own node signed."""
    told = {
        "network": NETWORK,
        "name": "laptop",
        "membership": b"admitted",
        "addresses": ("192.0.2.1:8088",),
        "protocol": 2,
        **fields,
    }
    return sign_record(NodeRecord(node=node, version=version, **told), SECRETS[EVERYBODY[node]])


def machine(node: NodeId = ANNA, *, version: int = 1, **options: Any) -> Membership:
    options.setdefault("rng", Random(1))
    options.setdefault("now", 0.0)
    return Membership(
        record(node, version),
        is_member=lambda told: told.membership == b"admitted",
        testify=lambda lives: testify(SECRETS[EVERYBODY[node]], lives),
        **options,
    )


def life(node: NodeId, version: int = 1, incarnation: int = 0) -> Life:
    return Life(bytes.fromhex(node), version, incarnation)


def signs(author: NodeId, *lives: Life) -> Envelope:
    """What the author signs: that it is here, or that it doubts others."""
    return testify(SECRETS[EVERYBODY[author]], lives)


def heard(peer: NodeId, *testimonies: Envelope) -> MessageReceived:
    return MessageReceived(peer, Rumour(testimonies))


def told(peer: NodeId, *records: SignedRecord) -> MessageReceived:
    return MessageReceived(peer, Delta(tuple(signed.envelope for signed in records)))


def knowing(*records: SignedRecord, **options: Any) -> Membership:
    """Anna, connected to Bert, who told her these records at second 0."""
    anna = machine(**options)
    anna.handle(PeerConnected(BERT), 0.0)
    anna.handle(told(BERT, *records), 0.0)
    return anna


def rumours(effects: list[Effect]) -> list[Envelope]:
    """All testimonies that are sent to anybody."""
    return [
        envelope
        for effect in sends(effects)
        if isinstance(effect.message, Rumour)
        for envelope in effect.message.testimonies
    ]


def sends(effects: list[Effect]) -> list[Send]:
    return [effect for effect in effects if isinstance(effect, Send)]


def dials(effects: list[Effect]) -> list[NodeId]:
    return [effect.node for effect in effects if isinstance(effect, Dial)]


class Room:
    """Several machines with instant links, so that a whole conversation is one step."""

    def __init__(self, *nodes: NodeId) -> None:
        self.machines = {node: machine(node, rng=Random(index)) for index, node in enumerate(nodes)}
        self.now = 0.0
        self.broken: set[frozenset[NodeId]] = set()

    def feed(self, node: NodeId, event: Event) -> None:
        for effect in self.machines[node].handle(event, self.now):
            match effect:
                case Send() if self.is_linked(node, effect.peer):
                    self.feed(effect.peer, MessageReceived(node, effect.message))
                case HangUp():
                    self.feed(node, PeerLost(effect.peer, on_purpose=True))
                    self.feed(effect.peer, PeerLost(node, on_purpose=True))

    def is_linked(self, one: NodeId, other: NodeId) -> bool:
        return other in self.machines and frozenset((one, other)) not in self.broken

    def connect(self, one: NodeId, other: NodeId) -> None:
        self.feed(one, PeerConnected(other))
        self.feed(other, PeerConnected(one))
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
