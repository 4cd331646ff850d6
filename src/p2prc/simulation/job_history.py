"""What happened to a simulated job, and the promises that must hold at every moment of it."""

from __future__ import annotations

from collections.abc import Callable

from p2prc.model.identity import LeaseId, NodeId
from p2prc.protocol.jobs import events as job
from p2prc.protocol.jobs.attempts import TaskKey, parse_attempt_id
from p2prc.protocol.jobs.facts import (
    AttemptFailed,
    Fact,
    JobCancelled,
    NodeCaught,
    TaskSucceeded,
)


class PromiseBroken(AssertionError):
    """The history shows something that must never happen."""


class JobHistory:
    """Sees each durable fact and each effect that is really performed, and objects at once."""

    def __init__(self, slots_offered: Callable[[NodeId], int]) -> None:
        self.facts: list[Fact] = []
        self.starts = 0
        self.accepted: dict[TaskKey, NodeId] = {}
        self.is_cancelled = False
        self.ends: list[str] = []
        self._caught: dict[NodeId, None] = {}
        self._failed: dict[tuple[TaskKey, int], None] = {}
        self._slots_offered = slots_offered
        self._slots: dict[LeaseId, NodeId] = {}

    def written(self, fact: Fact) -> None:
        """A fact became durable."""
        self.facts.append(fact)
        if isinstance(fact, TaskSucceeded):
            key = TaskKey(fact.step, fact.task)
            if key in self.accepted:
                raise PromiseBroken(f"accepted twice: {key}")
            self.accepted[key] = fact.node
        if isinstance(fact, NodeCaught):
            self._caught[fact.node] = None
            theirs = [key for key, node in self.accepted.items() if node == fact.node]
            for key in theirs:
                del self.accepted[key]
        if isinstance(fact, AttemptFailed):
            self._failed[TaskKey(fact.step, fact.task), fact.attempt] = None
        if isinstance(fact, JobCancelled):
            self.is_cancelled = True

    def performed(self, effect: job.Effect) -> None:
        """The submitter's driver carried an effect out."""
        match effect:
            case job.StartAttempt():
                self._started(effect)
            case job.OpenSlot():
                self._opened(effect)
            case job.Acknowledge():
                self._acknowledged(effect)
            case job.CloseSlot():
                self._slots.pop(effect.lease, None)
            case job.JobEnded():
                self.ends.append(effect.state)
            case _:
                pass

    def slot_gone(self, lease: LeaseId) -> None:
        """The submitter heard that a slot is not there."""
        self._slots.pop(lease, None)

    def node_gone(self, node: NodeId) -> None:
        """The submitter heard that all slots of a node may be gone."""
        for lease in [lease for lease, owner in self._slots.items() if owner == node]:
            del self._slots[lease]

    def submitter_gone(self) -> None:
        """A new life counts its slots anew."""
        self._slots.clear()

    def _started(self, effect: job.StartAttempt) -> None:
        self.starts += 1
        _, key, _ = parse_attempt_id(effect.attempt)
        if self.is_cancelled:
            raise PromiseBroken(f"started after the cancellation: {effect.attempt}")
        if key in self.accepted:
            raise PromiseBroken(f"a finished task was run again: {effect.attempt}")

    def _acknowledged(self, effect: job.Acknowledge) -> None:
        _, key, number = parse_attempt_id(effect.attempt)
        if effect.node in self._caught:
            return
        is_known = key in self.accepted or (key, number) in self._failed or self.is_cancelled
        if not is_known:
            raise PromiseBroken(f"forgotten before its end was durable: {effect.attempt}")

    def _opened(self, effect: job.OpenSlot) -> None:
        if self.is_cancelled:
            raise PromiseBroken("a slot was opened after the cancellation")
        self._slots[effect.lease] = effect.node
        held = sum(owner == effect.node for owner in self._slots.values())
        if held > self._slots_offered(effect.node):
            raise PromiseBroken(f"{held} slots on a node that offers fewer")
