"""What is known about the tasks of one step, small enough for a million of them.

Untouched and succeeded tasks are numbers in arrays; only tasks that run, failed or were retried
have an object. The state of a task follows from its facts alone, whatever their order: a task
that succeeded stays so, and one result counts: one that the submitter has, else the one of the
lowest attempt. Results of a node that was caught lying never count: the task goes on as if they
had not been. Attempts are numbered within the epoch of their coordinator.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum

from blake3 import blake3

from p2prc.protocol.jobs.facts import AttemptFailed, Fact, TaskAssigned, TaskSucceeded, encode_fact

LOSSES_LIMIT = 50
"""How often a task may lose its node or lease before it counts as failed."""
HOPELESS = frozenset({"output-conflict", "results-differ"})
"""Failures that trying again cannot mend."""
ATTEMPTS_PER_EPOCH = 1000
_NOTHING_ACCEPTED = -1


class TaskState(IntEnum):
    """Where a task is; the values are bytes of an array."""

    QUEUED = 0
    RUNNING = 1
    SUCCEEDED = 2
    FAILED = 3


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that came to nothing."""

    step: int
    task: int
    attempt: int
    node: str
    code: str
    reason: str
    at: float
    counts_against_retries: bool
    digest: int = field(repr=False, default=0)


@dataclass(frozen=True, slots=True)
class Accepted:
    """The result that counts: one for each succeeded task."""

    attempt: int
    digest: int
    node: int
    output_bytes: int
    duration_us: int
    is_collected: bool = True

    @property
    def rank(self) -> tuple[bool, int, int]:
        """The lowest of several counts."""
        return not self.is_collected, self.attempt, self.digest


@dataclass(frozen=True, slots=True)
class Change:
    """Which result of a task counted, and which does now."""

    task: int
    before: Accepted | None
    after: Accepted | None


@dataclass(slots=True)
class _Detail:
    open: dict[int, TaskAssigned] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)
    forgiven: int = 0


class StepLedger:
    """The tasks of one step. Every method may be called twice and in any order."""

    def __init__(self, *, total: int, retries: int) -> None:
        self.total = total
        self._retries = retries
        self._states = bytearray(total)
        self._counts = [total, 0, 0, 0]
        self._accepted_attempt = array("i", [_NOTHING_ACCEPTED]) * total
        self._accepted_digest = array("Q", [0]) * total
        self._accepted_node = array("I", [0]) * total
        self._output_bytes = array("Q", [0]) * total
        self._duration_us = array("Q", [0]) * total
        self._collected = bytearray(total)
        self._details: dict[int, _Detail] = {}
        # Results beside the best one, by attempt and node: few tasks ever have any.
        self._rivals: dict[int, dict[tuple[int, int], Accepted]] = {}
        self._refused: dict[int, None] = {}

    # -- what is known

    def count(self, state: TaskState) -> int:
        """Return how many tasks are in this state."""
        return self._counts[state]

    def state(self, task: int) -> TaskState:
        """Return where the task is."""
        return TaskState(self._states[task])

    def find_queued(self, start: int) -> int:
        """Return the first queued task from `start` on, or -1."""
        return self._states.find(TaskState.QUEUED, start)

    def tasks_in(self, state: TaskState) -> Iterator[int]:
        """Yield the tasks in this state, in order."""
        task = self._states.find(state)
        while task >= 0:
            yield task
            task = self._states.find(state, task + 1)

    def next_attempt(self, task: int, epoch: int = 0) -> int:
        """Return a number that no attempt of the task has had, in this epoch or a later one."""
        detail = self._details.get(task)
        known = max(self._accepted_attempt[task], epoch * ATTEMPTS_PER_EPOCH - 1)
        known = max([known, *(attempt for attempt, _ in self._rivals.get(task, ()))])
        if detail is None:
            return known + 1
        return max(known, *detail.open, *detail.failures, detail.forgiven - 1) + 1

    def open_attempts(self, task: int) -> list[TaskAssigned]:
        """Return the attempts that were given to a node and whose end the task waits for."""
        detail = self._details.get(task)
        if detail is None or self._states[task] == TaskState.SUCCEEDED:
            return []
        return list(detail.open.values())

    def failures(self, task: int) -> list[Failure]:
        """Return the attempts that failed, oldest first."""
        detail = self._details.get(task)
        return [detail.failures[number] for number in sorted(detail.failures)] if detail else []

    def tasks_with_failures(self) -> Iterator[int]:
        """Yield the tasks of which an attempt failed, in order."""
        return iter(sorted(task for task, detail in self._details.items() if detail.failures))

    def accepted(self, task: int) -> Accepted | None:
        """Return the result that counts."""
        held = self._held(task)
        return None if held is None or held.node in self._refused else held

    def _held(self, task: int) -> Accepted | None:
        attempt = self._accepted_attempt[task]
        if attempt == _NOTHING_ACCEPTED:
            return None
        return Accepted(
            attempt,
            self._accepted_digest[task],
            self._accepted_node[task],
            self._output_bytes[task],
            self._duration_us[task],
            bool(self._collected[task]),
        )

    # -- facts; each returns what it added or replaced, None when nothing is new

    def assign(self, fact: TaskAssigned) -> None:
        """Take it in."""
        if self._has_result(fact.task, fact.attempt):
            return
        detail = self._details.setdefault(fact.task, _Detail())
        held = detail.open.get(fact.attempt)
        if fact.attempt in detail.failures or held == fact:
            return
        if held is not None and encode_fact(held) < encode_fact(fact):
            return
        detail.open[fact.attempt] = fact
        self._settle(fact.task)

    def _has_result(self, task: int, attempt: int) -> bool:
        if self._accepted_attempt[task] == attempt:
            return True
        return any(number == attempt for number, _ in self._rivals.get(task, ()))

    def fail(self, fact: AttemptFailed, reason: str) -> tuple[Failure, Failure | None] | None:
        """Take it in; return it and the one that it replaces."""
        failure = Failure(
            fact.step,
            fact.task,
            fact.attempt,
            fact.node,
            fact.code,
            reason,
            fact.at,
            fact.counts_against_retries,
            digest_of(fact),
        )
        detail = self._details.setdefault(fact.task, _Detail())
        held = detail.failures.get(fact.attempt)
        if held is not None and held.digest <= failure.digest:
            return None
        detail.failures[fact.attempt] = failure
        detail.open.pop(fact.attempt, None)
        self._settle(fact.task)
        return failure, held

    def succeed(self, fact: TaskSucceeded, node: int) -> Change:
        """Take it in; return the result that counted before and the one that counts now."""
        task = fact.task
        accepted = Accepted(
            fact.attempt,
            digest_of(fact),
            node,
            fact.output_bytes,
            min(int(fact.duration_s * 1e6), 1 << 60),
            fact.is_collected,
        )
        before = self.accepted(task)
        self._compare(task, accepted)
        if (detail := self._details.get(task)) is not None:
            detail.open.pop(fact.attempt, None)
        self._settle(task)
        return Change(task, before, self.accepted(task))

    def refuse(self, node: int) -> list[Change]:
        """Let no result of the node count, also none that comes later; return what changed."""
        if node in self._refused:
            return []
        theirs = [
            (task, held)
            for task in range(self.total)
            if (held := self._held(task)) is not None and held.node == node
        ]
        self._refused[node] = None
        found = []
        for task, held in theirs:
            rivals = self._rivals.get(task, {})
            if rivals:
                self._compare(task, min(rivals.values(), key=self._rank))
            self._settle(task)
            found.append(Change(task, held, self.accepted(task)))
        return found

    def _rank(self, result: Accepted) -> tuple[bool, tuple[bool, int, int]]:
        return result.node in self._refused, result.rank

    def _compare(self, task: int, one: Accepted) -> None:
        """Hold the better of this result and the one held; remember the other."""
        held = self._held(task)
        if held is None:
            self._hold(task, one)
            return
        best, other = sorted((one, held), key=self._rank)
        rivals = self._rivals.setdefault(task, {})
        place = other.attempt, other.node
        rivals[place] = min(other, rivals.get(place, other), key=self._rank)
        rivals.pop((best.attempt, best.node), None)
        if not rivals:
            del self._rivals[task]
        self._hold(task, best)

    def _hold(self, task: int, accepted: Accepted) -> None:
        self._accepted_attempt[task] = accepted.attempt
        self._accepted_digest[task] = accepted.digest
        self._accepted_node[task] = accepted.node
        self._output_bytes[task] = accepted.output_bytes
        self._duration_us[task] = accepted.duration_us
        self._collected[task] = accepted.is_collected

    def forgive(self, task: int, attempt: int) -> bool:
        """Let the task be tried again as if attempts below this one had not failed."""
        detail = self._details.setdefault(task, _Detail())
        if attempt <= detail.forgiven:
            return False
        detail.forgiven = attempt
        self._settle(task)
        return True

    def _settle(self, task: int) -> None:
        detail = self._details.get(task)
        if self.accepted(task) is not None:
            if detail is not None and not (detail.open or detail.failures or detail.forgiven):
                del self._details[task]
            self._enter(task, TaskState.SUCCEEDED)
        elif detail is None:
            self._enter(task, TaskState.QUEUED)
        elif detail.open:
            self._enter(task, TaskState.RUNNING)
        elif self._has_failed(detail):
            self._enter(task, TaskState.FAILED)
        else:
            self._enter(task, TaskState.QUEUED)

    def _has_failed(self, detail: _Detail) -> bool:
        failures = losses = 0
        for attempt, failure in detail.failures.items():
            if attempt < detail.forgiven:
                continue
            if failure.code in HOPELESS:
                return True
            failures += failure.counts_against_retries
            losses += not failure.counts_against_retries
        return failures > self._retries or losses > LOSSES_LIMIT

    def _enter(self, task: int, state: TaskState) -> None:
        self._counts[self._states[task]] -= 1
        self._counts[state] += 1
        self._states[task] = state


def digest_of(fact: Fact) -> int:
    """Return a number that orders facts the same everywhere."""
    return int.from_bytes(blake3(encode_fact(fact)).digest(length=8), "big")
