"""A simulated node: the shipped membership machine, driven by the virtual clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

import msgspec

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, sign_record
from p2prc.model.testimony import Testimony, testify
from p2prc.protocol import membership
from p2prc.protocol.membership import Membership, MembershipConfig, NodeState
from p2prc.protocol.messages import PROTOCOL_VERSION, Gossip
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.network import SimulatedNetwork
from p2prc.wire.signed import Envelope, public_key_of

ADMITTED = b"admitted"
"""Stands for a membership chain: chains are not what is simulated."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all nodes of one simulation share. Records are verified once, not by every node."""

    clock: VirtualClock
    network: SimulatedNetwork
    config: MembershipConfig
    index_of: dict[NodeId, int]
    open_envelope: Callable[[Envelope], SignedRecord]
    open_rumour: Callable[[Envelope], Testimony]
    believes: Callable[[int, int], None]
    says: Callable[[int], None]


class SimulatedNode:
    """One node over all its lives; between two of them it is down."""

    def __init__(self, index: int, rng: Random, surroundings: Surroundings) -> None:
        self.index = index
        self.life = 0
        self.is_up = False
        self.is_lying = False
        self.has_left = False
        self.secret = rng.randbytes(32)
        self.id = NodeId(public_key_of(self.secret).hex())
        self.own: SignedRecord | None = None
        self._rng = rng
        self._around = surroundings
        self._machine: Membership | None = None
        self._alarm_at: float | None = None

    # -- what the judge looks at --

    @property
    def version(self) -> int:
        return self.own.record.version if self.own is not None else -1

    def state_of(self, other: int) -> NodeState | None:
        machine = self._machine
        return machine.state_of(self._id_of(other)) if machine is not None else None

    def version_of(self, other: int) -> int:
        machine = self._machine
        record = machine.record_of(self._id_of(other)) if machine is not None else None
        return record.version if record is not None else -1

    @property
    def machine(self) -> Membership:
        """The machine of this life. Raises RuntimeError before the first one."""
        if self._machine is None:
            raise RuntimeError("the node was never started")
        return self._machine

    # -- its fate --

    def start(
        self, network_id: NodeId, *, keeps_disk: bool = True, clock_back_s: float = 0.0
    ) -> None:
        """Begin a life."""
        known = self._remembered() if keeps_disk else []
        now = self._around.clock.now
        record = NodeRecord(
            node=self.id,
            network=network_id,
            version=int(1_000_000_000 + (now - clock_back_s) * 1000),
            name=f"node-{self.index}",
            membership=ADMITTED,
            addresses=(f"simulated:{self.index}",),
            protocol=PROTOCOL_VERSION,
        )
        self.own = sign_record(record, self.secret)
        self.life += 1
        self.is_up = True
        self._machine = Membership(
            self.own,
            is_member=lambda record: record.membership == ADMITTED,
            testify=lambda lives: testify(self.secret, lives),
            rng=self._rng,
            now=now,
            config=self._around.config,
            known=known,
            open_envelope=self._around.open_envelope,
            open_rumour=self._around.open_rumour,
        )
        self._alarm_at = None
        self.feed(membership.Tick())

    def crash(self) -> None:
        """End this life without a word."""
        self.is_up = False
        self._around.network.notice_crash(self.index)

    def leave(self) -> None:
        """Tell the others that we go, and go a second later."""
        self._sign_anew(self.version + 1, has_left=True)
        self.has_left = True
        self._around.clock.call_later(1.0, self.crash)

    def bootstrap(self, host: int) -> None:
        """Knock at a member until it opens: that is how one joins."""
        self._around.network.dial(self.index, host, lambda: self.bootstrap(host))

    # -- the host's side of a link --

    def link_up(self, other: int) -> None:
        self.feed(membership.PeerConnected(self._id_of(other)))

    def link_down(self, other: int, *, on_purpose: bool = False) -> None:
        self.feed(membership.PeerLost(self._id_of(other), on_purpose=on_purpose))

    def receive(self, other: int, message: Gossip) -> None:
        self.feed(membership.MessageReceived(self._id_of(other), message))

    # -- driving the machine --

    def feed(self, event: membership.Event) -> None:
        """Give the machine an event and do what it asks."""
        for effect in self.machine.handle(event, self._around.clock.now):
            self._perform(effect)
        self._arm()

    def _perform(self, effect: membership.Effect) -> None:
        around = self._around
        match effect:
            case membership.Send():
                around.network.send(self.index, around.index_of[effect.peer], effect.message)
            case membership.Dial():
                node = effect.node
                around.network.dial(
                    self.index,
                    around.index_of[node],
                    lambda: self.feed(membership.DialFailed(node)),
                )
            case membership.HangUp():
                around.network.hang_up(self.index, around.index_of[effect.peer], on_purpose=True)
            case membership.Shun():
                around.network.hang_up(self.index, around.index_of[effect.peer], on_purpose=False)
            case membership.NodeChanged():
                around.believes(self.index, around.index_of[effect.node])
            case membership.OwnVersionBehind():
                self._sign_anew(effect.version + 1)

    def _sign_anew(self, version: int, *, has_left: bool = False) -> None:
        if self.own is None or version <= self.version:
            return
        record = msgspec.structs.replace(self.own.record, version=version, has_left=has_left)
        self.own = sign_record(record, self.secret)
        self._around.says(self.index)
        self.feed(membership.OwnRecordChanged(self.own))

    def _arm(self) -> None:
        deadline = self.machine.deadline
        if self._alarm_at is None or deadline < self._alarm_at:
            self._alarm_at = deadline
            life = self.life
            self._around.clock.call_at(deadline, lambda: self._wake(life, deadline))

    def _wake(self, life: int, due_at: float) -> None:
        if not self.is_up or self.life != life or self._alarm_at != due_at:
            return
        self._alarm_at = None
        self.feed(membership.Tick())

    def _remembered(self) -> list[SignedRecord]:
        if self._machine is None:
            return []
        envelopes = (
            self._machine.envelope_of(view.record.node)
            for view in self._machine.nodes(self._around.clock.now)
            if not view.is_self
        )
        return [self._around.open_envelope(found) for found in envelopes if found is not None]

    def _id_of(self, index: int) -> NodeId:
        host = self._around.network.hosts[index]
        if not isinstance(host, SimulatedNode):
            raise TypeError("only simulated nodes have an id")
        return host.id
