"""A simulated node: the shipped membership machine, driven by the virtual clock."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from random import Random
from typing import cast

import msgspec

from p2prc.model.identity import NodeId
from p2prc.model.record import NodeRecord, SignedRecord, sign_record
from p2prc.model.testimony import Testimony, testify
from p2prc.protocol import membership
from p2prc.protocol.membership import Membership, MembershipConfig, NodeState, SharedBase
from p2prc.protocol.messages import PROTOCOL_VERSION, Gossip
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.wire_costs import RECORD_BYTES
from p2prc.wire.signed import Envelope, public_key_of

ADMITTED = b"admitted".ljust(RECORD_BYTES - 552)
"""Stands for a membership chain, and is as long: chains are not what is simulated."""
_NOBODY = SharedBase()


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What all nodes of one simulation share. Records are verified once, not by every node."""

    clock: VirtualClock
    network: SimulatedNetwork
    config: MembershipConfig
    ids: list[NodeId]
    index_of: dict[NodeId, int]
    open_envelope: Callable[[Envelope], SignedRecord]
    open_rumour: Callable[[Envelope], Testimony]
    believes: Callable[[int, int], None]
    says: Callable[[int], None]


@dataclass(frozen=True, slots=True)
class WrongClocks:
    """How a node's clocks differ from the truth: wall by seconds, steady by a factor."""

    wall_s: float = 0.0
    pace: float = 1.0
    start_s: float = 0.0


class SimulatedNode:
    """One node over all its lives; between two of them it is down."""

    def __init__(
        self, index: int, rng: Random, surroundings: Surroundings, clocks: WrongClocks
    ) -> None:
        self.index = index
        self.life = 0
        self.is_up = False
        self.is_lying = False
        self.has_left = False
        self.secret = rng.randbytes(32)
        self.id = NodeId(public_key_of(self.secret).hex())
        self.born_as = 0
        """The version of the record with which this life began."""
        self.own: SignedRecord | None = None
        self._rng = rng
        self._around = surroundings
        self._clocks = clocks
        self._machine: Membership | None = None
        self._alarm_at: float | None = None

    # -- what the judge looks at --

    @property
    def version(self) -> int:
        return self.own.record.version if self.own is not None else -1

    def state_of(self, other: int) -> NodeState | None:
        machine = self._machine
        return machine.state_of(self._around.ids[other]) if machine is not None else None

    def version_of(self, other: int) -> int:
        machine = self._machine
        record = machine.record_of(self._around.ids[other]) if machine is not None else None
        return record.version if record is not None else -1

    @property
    def machine(self) -> Membership:
        """The machine of this life. Raises RuntimeError before the first one."""
        if self._machine is None:
            raise RuntimeError("the node was never started")
        return self._machine

    # -- its fate --

    def say(self, network_id: NodeId, *, clock_back_s: float = 0.0) -> SignedRecord:
        """Sign the record of the life that begins now."""
        now = self._around.clock.now
        wall_ms = int(1_000_000_000_000 + (now + self._clocks.wall_s - clock_back_s) * 1000)
        record = NodeRecord(
            node=self.id,
            network=network_id,
            version=wall_ms,
            name=f"node-{self.index}",
            membership=ADMITTED,
            addresses=(f"simulated:{self.index}",),
            protocol=PROTOCOL_VERSION,
        )
        self.own = sign_record(record, self.secret)
        return self.own

    def start(
        self,
        own: SignedRecord,
        *,
        known: Iterable[SignedRecord] = (),
        base: SharedBase = _NOBODY,
    ) -> None:
        """Begin a life; `known` was on the disk, of `base` all are known to be alive."""
        self.life += 1
        self.born_as = own.record.version
        self.is_up = True
        self._machine = Membership(
            own,
            is_member=_is_admitted,
            testify=partial(testify, self.secret),
            rng=self._rng,
            now=self._local(self._around.clock.now),
            config=self._around.config,
            known=known,
            open_envelope=self._around.open_envelope,
            open_rumour=self._around.open_rumour,
            base=base,
        )
        self._alarm_at = None
        self.feed(membership.Tick())

    def crash(self) -> None:
        """End this life without a word."""
        self.is_up = False
        self._around.network.notice_crash(self.index)

    def leave(self) -> None:
        """Tell the others that we go, and go a second later."""
        self.sign_anew(self.version + 1, has_left=True)
        self.has_left = True
        self._around.clock.call_later(1.0, self.crash)

    def bootstrap(self, host: int) -> None:
        """Knock at a member until it opens: that is how one joins."""
        self._around.network.dial(self.index, host, lambda: self.bootstrap(host))

    # -- the host's side of a link --

    def link_up(self, other: int) -> None:
        self.feed(membership.PeerConnected(self._around.ids[other]))

    def link_down(self, other: int, *, on_purpose: bool = False) -> None:
        self.feed(membership.PeerLost(self._around.ids[other], on_purpose=on_purpose))

    def receive(self, other: int, message: msgspec.Struct) -> None:
        heard = cast("Gossip", message)
        self.feed(membership.MessageReceived(self._around.ids[other], heard))

    # -- driving the machine --

    def feed(self, event: membership.Event) -> None:
        """Give the machine an event and do what it asks."""
        for effect in self.machine.handle(event, self._local(self._around.clock.now)):
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
                    partial(self.feed, membership.DialFailed(node)),
                )
            case membership.HangUp():
                around.network.hang_up(self.index, around.index_of[effect.peer], on_purpose=True)
            case membership.Shun():
                around.network.hang_up(self.index, around.index_of[effect.peer], on_purpose=False)
            case membership.NodeChanged():
                around.believes(self.index, around.index_of[effect.node])
            case membership.OwnVersionBehind():
                self.sign_anew(effect.version + 1)

    def sign_anew(self, version: int, *, has_left: bool = False) -> None:
        """Say something new of ourselves, unless a newer record exists."""
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
            at = deadline / self._clocks.pace - self._clocks.start_s
            # Never short of the deadline by a rounding: the machine would find nothing to do.
            self._around.clock.call_at(at + 1e-9, self._wake, self.life, deadline)

    def _wake(self, life: int, due_at: float) -> None:
        if not self.is_up or self.life != life or self._alarm_at != due_at:
            return
        self._alarm_at = None
        self.feed(membership.Tick())

    def _local(self, now: float) -> float:
        """Return what this node's steady clock shows."""
        return (now + self._clocks.start_s) * self._clocks.pace

    def remembered(self) -> list[SignedRecord]:
        """Return what the last life had on its disk."""
        if self._machine is None:
            return []
        envelopes = (
            self._machine.envelope_of(view.record.node)
            for view in self._machine.nodes(self._around.clock.now)
            if not view.is_self
        )
        return [self._around.open_envelope(found) for found in envelopes if found is not None]


def _is_admitted(record: NodeRecord) -> bool:
    return record.membership == ADMITTED
