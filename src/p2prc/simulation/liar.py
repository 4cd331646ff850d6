"""What a member can do to the others with messages alone: every lie that we could think of."""

from __future__ import annotations

from random import Random

import msgspec

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, sign_record
from p2prc.model.testimony import Life, testify
from p2prc.protocol.exchange import in_batches
from p2prc.protocol.messages import (
    Announce,
    Call,
    Delta,
    Digest,
    DigestEntry,
    Entries,
    Gossip,
    Rumour,
    Summary,
    Want,
)
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import ADMITTED, SimulatedNode
from p2prc.wire.signed import Envelope, public_key_of

_INTERVAL_S = 0.25


class Liar:
    """Sends lies on all links of a node, whose own machine goes on honestly besides."""

    def __init__(
        self, node: SimulatedNode, network: SimulatedNetwork, clock: VirtualClock, rng: Random
    ) -> None:
        self._node = node
        self._network = network
        self._clock = clock
        self._rng = rng
        self._seen: dict[NodeId, Envelope] = {}

    def start(self) -> None:
        """Lie from now on, four times a second, to everybody."""
        self._remember()
        self._lie()

    def _lie(self) -> None:
        if not self._node.is_up:
            return
        lies = (
            self._forged_records,
            self._records_of_strangers,
            self._old_records,
            self._previous_digests,
            self._doubts,
            self._absurd_doubts,
            self._forged_statements,
            self._resurrections,
            self._unknown_versions,
            self._unknown_nodes,
            self._calls,
            self._greed,
        )
        for peer in self._network.links_of(self._node.index):
            for message in self._rng.choice(lies)():
                self._network.send(self._node.index, peer, message)
        self._clock.call_later(_INTERVAL_S, self._lie)

    def _others(self) -> list[NodeRecord]:
        views = self._node.machine.nodes(self._clock.now)
        return [view.record for view in views if not view.is_self]

    def _remember(self) -> None:
        for record in self._others():
            if (envelope := self._node.machine.envelope_of(record.node)) is not None:
                self._seen.setdefault(record.node, envelope)

    def _forged_records(self) -> list[Gossip]:
        forged = []
        for record in self._others()[:50]:
            changed = msgspec.structs.replace(record, version=record.version + 1, name="owned")
            envelope = sign_record(changed, self._node.secret).envelope
            author = bytes.fromhex(record.node)
            forged += [msgspec.structs.replace(envelope, author=author), envelope]
        return [Delta(tuple(forged))]

    def _records_of_strangers(self) -> list[Gossip]:
        if self._node.own is None:
            return []
        secret = self._rng.randbytes(32)
        stranger = NodeId(public_key_of(secret).hex())
        outsider = msgspec.structs.replace(
            self._node.own.record, node=stranger, membership=b"self-made"
        )
        foreigner = msgspec.structs.replace(outsider, network=stranger, membership=ADMITTED)
        records = (sign_record(outsider, secret), sign_record(foreigner, secret))
        return [Delta(tuple(signed.envelope for signed in records))]

    def _old_records(self) -> list[Gossip]:
        return [Delta(tuple(self._seen.values())[:500])]

    def _previous_digests(self) -> list[Gossip]:
        size = self._rng.choice((1 << 40, 1 << 62, -5))
        entries = (DigestEntry(record.node, record.version, size) for record in self._others())
        return [Digest(tuple(entries))]

    def _doubts(self) -> list[Gossip]:
        machine = self._node.machine
        lives = [life for record in self._others() if (life := machine.life_of(record.node))]
        return [Rumour(tuple(map(self._sign, in_batches(lives))))]

    def _absurd_doubts(self) -> list[Gossip]:
        lives = [
            Life(bytes.fromhex(record.node), record.version, 1 << 40) for record in self._others()
        ]
        return [Rumour(tuple(map(self._sign, in_batches(lives))))]

    def _forged_statements(self) -> list[Gossip]:
        found = []
        for record in self._others()[:50]:
            key = bytes.fromhex(record.node)
            envelope = self._sign((Life(key, record.version, 7),))
            found.append(msgspec.structs.replace(envelope, author=key))
        return [Rumour(tuple(found))]

    def _resurrections(self) -> list[Gossip]:
        """Everybody is alive, it says; also who is not."""
        lives = tuple(Life(bytes.fromhex(node), 1 << 61) for node in self._seen)
        return [Entries((), lives, is_reply=True), Delta(tuple(self._seen.values())[:500])]

    def _unknown_versions(self) -> list[Gossip]:
        lives = (Life(bytes.fromhex(record.node), 1 << 61) for record in self._others())
        return [Announce(tuple(lives))]

    def _unknown_nodes(self) -> list[Gossip]:
        lives = tuple(Life(self._rng.randbytes(32), 1) for _ in range(200))
        return [Announce(lives), Entries((), lives), Want(lives)]

    def _calls(self) -> list[Gossip]:
        lives = [Life(bytes.fromhex(one.node), one.version) for one in self._others()]
        return [Call(life, 3) for life in lives[:30]]

    def _greed(self) -> list[Gossip]:
        everything = tuple(Life(bytes.fromhex(record.node), -1) for record in self._others())
        return [Summary(b"12345678", 0), Want(everything)] * 20

    def _sign(self, lives: tuple[Life, ...]) -> Envelope:
        return testify(self._node.secret, lives)
