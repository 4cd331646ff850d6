"""Who carries a job on, and who keeps it: beats, leases, takeovers, and whether it is safe.

The coordinator is whoever has the highest claim (epoch, node id) in the ledger. It beats: every
holder is told what is in the ledger, with what it lacks. A holder that hears no beat for a lease,
and a while longer for each one in line before it, claims the next epoch and carries on. Nobody is
asked for a vote: in a network that is cut there may be two, who work on; when they hear of each
other the lower claim stands down, and no fact is lost. A restarted coordinator first asks the
others.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from p2prc.model.identity import NodeId
from p2prc.protocol.jobs.facts import EPOCH_LIMIT, KEEPERS_LIMIT
from p2prc.protocol.jobs.holding import (
    CandidatesChanged,
    HandedOver,
    HandOver,
    HandOverFailed,
    Heard,
    HolderSettings,
    SafetyChanged,
    Sync,
    SyncAnswered,
    SyncFailed,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.pages import Logs


@dataclass(slots=True)
class _Peer:
    """Another holder, as far as this one knows."""

    logs: Logs = field(default_factory=Logs)
    heard_at: float | None = None
    covered_at: float | None = None
    asked_at: float | None = None
    is_waited_for: bool = False
    has_failed: bool = False
    has_lost_it: bool = False
    trouble: str = ""


class Custody:
    """One node's view of who holds a job. The holder acts on `wants_claim` and `must_yield`."""

    def __init__(
        self, own: NodeId, ledger: Ledger, logs: Logs, settings: HolderSettings, now: float
    ) -> None:
        self.epoch: int | None = None
        """The epoch in which this node carries the job on."""
        self.has_loose = False
        """Whether there are facts here that no page holds yet."""
        self.is_safe = False
        self.reason = ""
        self._own = own
        self._ledger = ledger
        self._logs = logs
        self._settings = settings
        self._peers: dict[NodeId, _Peer] = {}
        self._offered: dict[NodeId, float] = {}
        self._refusals: dict[NodeId, str] = {}
        self._candidates: tuple[NodeId, ...] = ()
        self._beat_at = now
        self._ended_at: float | None = None
        is_alone = own == ledger.job.submitter and not ledger.keepers
        self._probes_until = now if is_alone else now + settings.probe_s

    # -- what is known

    @property
    def others(self) -> list[NodeId]:
        """The other holders."""
        return [node for node in self._ledger.holders if node != self._own]

    def is_probing(self, now: float) -> bool:
        """Whether this life still asks whether somebody else carries the job on."""
        if self._probes_until <= now:
            return False
        return any(self._peer(node).heard_at is None for node in self.others)

    def _peer(self, node: NodeId) -> _Peer:
        return self._peers.setdefault(node, _Peer())

    def wants_claim(self, now: float) -> tuple[int, bool] | None:
        """Return the epoch to carry on in and whether it has to be claimed; None: leave it."""
        if self.epoch is not None or self.is_probing(now):
            return None
        epoch, coordinator = self._ledger.claim
        if coordinator == self._own:
            # It was ours, and whoever answered has not heard of a later one.
            return epoch, False
        if self._ledger.is_ended or now < self._patient_until():
            return None
        if not self._is_named:
            return None
        return min(epoch + 1, EPOCH_LIMIT), True

    def _patient_until(self) -> float:
        _, coordinator = self._ledger.claim
        line = [node for node in self._ledger.holders if node != coordinator]
        place = line.index(self._own) if self._own in line else len(line)
        return self._beat_at + self._settings.lease_s + place * self._settings.stagger_s

    def must_yield(self) -> bool:
        """Whether somebody has a higher claim."""
        return self.epoch is not None and self._ledger.claim > (self.epoch, self._own)

    def carries_on(self, epoch: int | None, now: float) -> None:
        """Begin to beat, or cease."""
        self.epoch = epoch
        self._beat_at = now

    # -- events

    def heard(self, said: Heard, now: float) -> None:
        """A holder, or somebody who says so, told what it has."""
        if said.node not in self.others:
            return
        peer = self._peer(said.node)
        peer.heard_at = now
        peer.logs = Logs(said.logs)
        if said.epoch is not None and (said.epoch, said.node) >= self._ledger.claim:
            self._beat_at = now
            if self.epoch is None:
                self.is_safe, self.reason = said.is_safe, ""

    def answered(self, event: SyncAnswered, now: float) -> None:
        """A sync came back: what was sent is on the other's disk."""
        peer = self._peer(event.said.node)
        peer.is_waited_for = peer.has_failed = False
        peer.trouble = ""
        self.heard(event.said, now)
        if not self._logs.lacking(peer.logs):
            peer.covered_at = now

    def failed(self, event: SyncFailed) -> None:
        """A sync came to nothing."""
        peer = self._peer(event.node)
        peer.is_waited_for = False
        peer.has_failed = True
        peer.has_lost_it = event.is_unknown
        peer.trouble = event.reason

    def candidates(self, event: CandidatesChanged) -> None:
        """Others may keep the job."""
        self._candidates = event.nodes

    def handed_over(self, event: HandedOver) -> bool:
        """The node has what it needs; return whether it has to be named."""
        self._offered.pop(event.node, None)
        self._refusals.pop(event.node, None)
        peer = self._peer(event.node)
        peer.has_lost_it, peer.logs = False, Logs()
        return event.node not in self._ledger.holders

    def refused(self, event: HandOverFailed, now: float) -> None:
        """Ask that node again only after a while."""
        self._offered[event.node] = now + self._settings.again_s
        self._refusals[event.node] = event.reason

    # -- what follows

    def is_sync_due(self, now: float) -> bool:
        """Whether somebody is about to be told."""
        return self._is_named and any(self._due_at(node, now) <= now for node in self.others)

    @property
    def _is_named(self) -> bool:
        return self._own in self._ledger.holders

    def carry_on(self, now: float) -> Iterator[HandOver | Sync | SafetyChanged]:
        """Yield what is due."""
        if self._ledger.is_ended and self._ended_at is None:
            self._ended_at = now
        elif not self._ledger.is_ended:
            self._ended_at = None
        if not self._is_named:
            return
        for node in self.others:
            if self._due_at(node, now) <= now:
                yield self._sync(node, now)
        if self.epoch is not None:
            yield from self._hand_over(now)
            yield from self._judge_safety(now)

    def wakes(self, now: float) -> Iterator[float]:
        """Yield when something will be due."""
        if self.is_probing(now):
            yield self._probes_until
        for node in self.others:
            if (at := self._due_at(node, now)) < _NEVER:
                yield at
        if self.epoch is None and not self._ledger.is_ended:
            yield self._patient_until()
        if self.epoch is not None and not self._ledger.is_ended:
            yield from self._offered.values()
            for node in self.others:
                peer = self._peer(node)
                if peer.covered_at is not None:
                    yield peer.covered_at + self._settings.lost_s
                yield (peer.heard_at or self._beat_at) + self._settings.replaced_s

    def _due_at(self, node: NodeId, now: float) -> float:
        peer = self._peer(node)
        settings = self._settings
        if peer.is_waited_for:
            return _NEVER
        if peer.asked_at is None:
            return now
        is_behind = self.has_loose or bool(self._logs.lacking(peer.logs))
        if self._ended_at is not None:
            # Whoever is not there any more asks for itself when it is back.
            if not is_behind or now - self._ended_at > 60 * settings.again_s:
                return _NEVER
            return peer.asked_at + (2 * settings.beat_s if peer.has_failed else settings.soon_s)
        if is_behind and not peer.has_failed:
            return peer.asked_at + settings.soon_s
        if self.epoch is not None or is_behind or self.is_probing(now):
            return peer.asked_at + settings.beat_s
        return _NEVER

    def _sync(self, node: NodeId, now: float) -> Sync:
        peer = self._peer(node)
        peer.asked_at = now
        peer.is_waited_for = True
        return Sync(
            node,
            self.epoch,
            self.is_safe,
            self._logs.lengths(),
            tuple(self._logs.lacking(peer.logs)),
        )

    # -- keepers

    def _is_there(self, node: NodeId, now: float) -> bool:
        if node == self._own:
            return True
        peer = self._peer(node)
        if peer.has_lost_it:
            return False
        since = peer.heard_at if peer.heard_at is not None else self._beat_at
        return now - since < self._settings.replaced_s

    def _hand_over(self, now: float) -> Iterator[HandOver]:
        """Look for as many keepers as are lacking."""
        if self._ledger.is_ended or len(self._ledger.keepers) >= KEEPERS_LIMIT:
            return
        for node in self._ledger.keepers:
            if self._peer(node).has_lost_it and self._offered.get(node, now) <= now:
                self._offered[node] = _NEVER
                yield HandOver(node)
        there = sum(self._is_there(node, now) for node in self._ledger.keepers)
        asked = sum(at == _NEVER for at in self._offered.values())
        lacking = self._settings.keepers - there - asked
        holders = self._ledger.holders
        for node in self._candidates:
            if lacking <= 0:
                return
            if node in holders or node == self._own or self._offered.get(node, now) > now:
                continue
            self._offered[node] = _NEVER
            lacking -= 1
            yield HandOver(node)

    def _judge_safety(self, now: float) -> Iterator[SafetyChanged]:
        wanted, count, trouble = self._settings.keepers, 0, ""
        for node in self._ledger.keepers:
            peer = self._peer(node)
            if node == self._own or (
                peer.covered_at is not None and now - peer.covered_at < self._settings.lost_s
            ):
                count += 1
            else:
                trouble = trouble or peer.trouble
        is_safe, reason = count >= wanted, ""
        if not is_safe:
            reason = f"{count} of {wanted} other nodes keep it: {trouble or self._lacking()}"
        if (is_safe, reason) != (self.is_safe, self.reason):
            self.is_safe, self.reason = is_safe, reason
            yield SafetyChanged(is_safe, reason)

    def _lacking(self) -> str:
        if any(at == _NEVER for at in self._offered.values()):
            return "another is being given its description and inputs"
        if self._refusals:
            return next(iter(self._refusals.values()))
        if len(self._ledger.keepers) < self._settings.keepers:
            return "no other node could"
        return "another has not answered yet"


_NEVER = float("inf")
