"""The ledger of a job: its state as a pure function of the set of facts about it.

Facts may come twice and in any order; whoever has the same facts sees the same state. A
cancellation dominates everything; an accepted result is taken back only where its node was caught
giving false ones.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from typing import assert_never

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.model.job import Job
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.facts import (
    TASKS_RETRIED_LIMIT,
    AttemptFailed,
    CoordinatorTook,
    Fact,
    JobCancelled,
    KeepersNamed,
    NodeCaught,
    Retried,
    TaskAssigned,
    TaskChecked,
    TasksRetried,
    TaskSucceeded,
    encode_fact,
)
from p2prc.protocol.jobs.parameters import task_count
from p2prc.protocol.jobs.step_ledger import Accepted, Change, Failure, StepLedger, TaskState

FAILURES_SHOWN = 1000
_RECENT = 64
_RECENT_S = 600.0


@dataclass(frozen=True, slots=True)
class TaskCounts:
    """How many tasks are where; the last four add up to the first."""

    total: int
    queued: int
    running: int
    succeeded: int
    failed: int


@dataclass(slots=True)
class NodeCounts:
    """What a node did for the job: tasks that it finished, attempts that failed, what runs."""

    succeeded: int = 0
    failed: int = 0
    running: int = 0


class Ledger:
    """Everything known about one job; only ever grows."""

    def __init__(
        self, job: Job, facts: Iterable[Fact] = (), *, remembers_collected: bool = False
    ) -> None:
        self.job = job
        self.job_id = job.id
        self.results: dict[TaskKey, TaskSucceeded] = {}
        """The results that count and that the submitter has not collected; where
        `remembers_collected`, all that count."""
        self._remembers_collected = remembers_collected
        # Results that would count if another did not.
        self._spare: dict[TaskKey, dict[tuple[int, NodeId], TaskSucceeded]] = {}
        self.caught: dict[NodeId, NodeCaught] = {}
        """The nodes whose results do not count, and what gave them away."""
        self._checked: dict[TaskKey, str] = {}
        self._uncollected = 0
        self._named: dict[NodeId, float] = {}
        self._claim = (0, job.submitter)
        self.steps = [
            StepLedger(total=task_count(step), retries=step.retries) for step in job.steps
        ]
        self._node_names: list[NodeId] = []
        self._node_numbers: dict[NodeId, int] = {}
        self._nodes: list[NodeCounts] = []
        self._reasons: dict[str, str] = {}
        self._cancelled_at: float | None = None
        self._first_at: float | None = None
        self._last_at: float | None = None
        self._output_bytes = 0
        self._duration_us = 0
        # The newest results, to tell the present rate: (at, step, task, attempt), sorted.
        self._recent: list[tuple[float, int, int, int]] = []
        for fact in facts:
            self.apply(fact)

    # -- facts

    def apply(self, fact: Fact) -> None:
        """Take one fact in; twice is once. Raises `WireError` when it is not about this job."""
        match fact:
            case TaskAssigned():
                self._assign(fact)
            case AttemptFailed():
                self._fail(fact)
            case TaskSucceeded():
                self._succeed(fact)
            case JobCancelled():
                self._cancelled_at = _earliest(self._cancelled_at, fact.at)
            case TasksRetried():
                for retried in fact.tasks:
                    self._step_of(retried.step, retried.task).forgive(retried.task, retried.attempt)
            case NodeCaught():
                self._catch(fact)
            case TaskChecked():
                self._step_of(fact.step, fact.task)
                key = TaskKey(fact.step, fact.task)
                # Of two words the one that it was compared counts.
                self._checked[key] = min(self._checked.get(key, fact.reason), fact.reason)
            case KeepersNamed():
                for node in fact.keepers:
                    self._named[node] = _earliest(self._named.get(node), fact.at)
                return
            case CoordinatorTook():
                self._claim = max(self._claim, (fact.epoch, fact.node))
                return
            case _:
                assert_never(fact)
        self._first_at = _earliest(self._first_at, fact.at)
        self._last_at = fact.at if self._last_at is None else max(self._last_at, fact.at)

    def _assign(self, fact: TaskAssigned) -> None:
        self._step_of(fact.step, fact.task).assign(fact)
        self._number_of(fact.node)

    def _fail(self, fact: AttemptFailed) -> None:
        reason = self._reasons.setdefault(fact.reason, fact.reason)
        change = self._step_of(fact.step, fact.task).fail(fact, reason)
        node = self._counts_of(fact.node)
        if change is None:
            return
        _, replaced = change
        node.failed += 1
        if replaced is not None:
            self._counts_of(NodeId(replaced.node)).failed -= 1

    def _succeed(self, fact: TaskSucceeded) -> None:
        step = self._step_of(fact.step, fact.task)
        change = step.succeed(fact, self._number_of(fact.node))
        self._remember(fact)
        key = TaskKey(fact.step, fact.task)
        if change.after == change.before:
            # It does not count, or is known.
            if change.after is not None and (self._remembers_collected or not fact.is_collected):
                self._spare.setdefault(key, {})[_place(fact)] = fact
            return
        held = self.results.get(key)
        if held is not None and _place(held) != _place(fact):
            self._spare.setdefault(key, {})[_place(held)] = held
        self._account_change(change)
        self._show(key, None if fact.is_collected and not self._remembers_collected else fact)

    def _catch(self, fact: NodeCaught) -> None:
        self._step_of(fact.step, fact.task)
        held = self.caught.get(fact.node)
        if held is None or encode_fact(fact) < encode_fact(held):
            self.caught[fact.node] = fact
        if held is not None:
            return
        number = self._number_of(fact.node)
        for step_number, step in enumerate(self.steps):
            for change in step.refuse(number):
                key, after = TaskKey(step_number, change.task), change.after
                self._account_change(change)
                place = None if after is None else (after.attempt, self._node_names[after.node])
                self._show(key, self._spare.get(key, {}).get(place) if place else None)

    def _account_change(self, change: Change) -> None:
        if change.before is not None:
            self._account(change.before, -1)
        if change.after is not None:
            self._account(change.after, 1)

    def _show(self, key: TaskKey, fact: TaskSucceeded | None) -> None:
        if fact is None:
            self.results.pop(key, None)
        else:
            self.results[key] = fact

    def _account(self, accepted: Accepted, sign: int) -> None:
        self._nodes[accepted.node].succeeded += sign
        self._output_bytes += sign * accepted.output_bytes
        self._uncollected += sign * (not accepted.is_collected)
        self._duration_us += sign * accepted.duration_us

    def _remember(self, fact: TaskSucceeded) -> None:
        entry = (fact.at, fact.step, fact.task, fact.attempt)
        if entry in self._recent:
            return
        insort(self._recent, entry)
        if len(self._recent) > _RECENT:
            del self._recent[0]

    def check(self, fact: Fact) -> None:
        """Raise `WireError` when a fact is about a task that this job has not."""
        match fact:
            case TaskAssigned() | AttemptFailed() | TaskSucceeded() | NodeCaught() | TaskChecked():
                self._step_of(fact.step, fact.task)
            case TasksRetried():
                for retried in fact.tasks:
                    self._step_of(retried.step, retried.task)
            case _:
                pass

    def _step_of(self, step: int, task: int) -> StepLedger:
        if not (0 <= step < len(self.steps) and 0 <= task < self.steps[step].total):
            raise WireError(f"a fact about a task that does not exist: {step}/{task}")
        return self.steps[step]

    def _number_of(self, node: NodeId) -> int:
        number = self._node_numbers.get(node)
        if number is None:
            number = self._node_numbers[node] = len(self._nodes)
            self._node_names.append(node)
            self._nodes.append(NodeCounts())
        return number

    def _counts_of(self, node: NodeId) -> NodeCounts:
        return self._nodes[self._number_of(node)]

    # -- who carries the job on

    @property
    def keepers(self) -> list[NodeId]:
        """Who holds the job beside its submitter, in the order in which they were named."""
        named = sorted((at, node) for node, at in self._named.items())
        return [node for _, node in named if node != self.job.submitter]

    @property
    def holders(self) -> list[NodeId]:
        """Who may add facts: the submitter, then the keepers."""
        return [self.job.submitter, *self.keepers]

    @property
    def claim(self) -> tuple[int, NodeId]:
        """The epoch of the coordinator, and who it is."""
        return self._claim

    @property
    def is_all_collected(self) -> bool:
        """Whether the submitter has every result that counts."""
        return self._uncollected == 0

    # -- the state

    @property
    def is_cancelled(self) -> bool:
        """Whether the submitter stopped the job."""
        return self._cancelled_at is not None

    @property
    def current_step(self) -> int | None:
        """Return the first step with a task that has not succeeded; steps run one after another."""
        for number, step in enumerate(self.steps):
            if step.count(TaskState.SUCCEEDED) < step.total:
                return number
        return None

    @property
    def state(self) -> str:
        """Return queued, running, succeeded, failed or cancelled."""
        if self.is_cancelled:
            return "cancelled"
        current = self.current_step
        if current is None:
            return "succeeded"
        step = self.steps[current]
        if not step.count(TaskState.QUEUED) and not step.count(TaskState.RUNNING):
            return "failed"
        return "queued" if self._first_at is None else "running"

    @property
    def is_ended(self) -> bool:
        """Whether nothing more happens by itself."""
        return self.state in ("succeeded", "failed", "cancelled")

    @property
    def counts(self) -> TaskCounts:
        """How many tasks are where; nothing runs once the job is cancelled."""
        total = sum(step.total for step in self.steps)
        running = 0 if self.is_cancelled else self._sum(TaskState.RUNNING)
        succeeded, failed = self._sum(TaskState.SUCCEEDED), self._sum(TaskState.FAILED)
        return TaskCounts(total, total - running - succeeded - failed, running, succeeded, failed)

    def _sum(self, state: TaskState) -> int:
        return sum(step.count(state) for step in self.steps)

    @property
    def nodes(self) -> dict[NodeId, NodeCounts]:
        """What each node did, by id."""
        found = {}
        for name in sorted(self._node_names):
            counts = self._counts_of(name)
            found[name] = NodeCounts(counts.succeeded, counts.failed)
        for step in () if self.is_cancelled else self.steps:
            for task in step.tasks_in(TaskState.RUNNING):
                for attempt in step.open_attempts(task):
                    found[attempt.node].running += 1
        return found

    @property
    def checks(self) -> tuple[int, int]:
        """How many tasks were compared with another attempt, and how many could not be."""
        unverified = sum(1 for reason in self._checked.values() if reason)
        return len(self._checked) - unverified, unverified

    @property
    def unverified_reason(self) -> str:
        """Why tasks could not be compared: the reason of the first of them."""
        keys = sorted(key for key, reason in self._checked.items() if reason)
        return self._checked[keys[0]] if keys else ""

    def failures(self, limit: int = FAILURES_SHOWN) -> list[Failure]:
        """Return failed attempts, by task and number; those of tasks that later succeeded too."""
        every = (
            failure
            for step in self.steps
            for task in step.tasks_with_failures()
            for failure in step.failures(task)
        )
        return list(islice(every, limit))

    def node_of(self, key: TaskKey) -> NodeId | None:
        """Return whose result was accepted for the task."""
        accepted = self.steps[key.step].accepted(key.task)
        return None if accepted is None else self._node_names[accepted.node]

    @property
    def output_bytes(self) -> int:
        """How large all accepted outputs are together."""
        return self._output_bytes

    @property
    def started_at(self) -> float | None:
        """When the first fact was written, in UTC."""
        return self._first_at

    @property
    def finished_at(self) -> float | None:
        """When the job ended, in UTC; None while it goes on."""
        if self._cancelled_at is not None:
            return self._cancelled_at
        return self._last_at if self.is_ended else None

    @property
    def mean_duration_s(self) -> float | None:
        """How long a task took on its node, on average."""
        succeeded = self._sum(TaskState.SUCCEEDED)
        return self._duration_us / 1e6 / succeeded if succeeded else None

    def rate_per_s(self, now_at: float) -> float | None:
        """Return how many tasks succeed in a second at present, or None when nobody can tell."""
        recent = [entry[0] for entry in self._recent if entry[0] > now_at - _RECENT_S]
        if len(recent) >= 2 and recent[-1] > recent[0]:
            return (len(recent) - 1) / (max(now_at, recent[-1]) - recent[0])
        mean_s = self.mean_duration_s
        return self.counts.running / mean_s if mean_s else None

    def node_rates_per_s(self, now_at: float) -> dict[NodeId, float]:
        """Return how much of the present rate is whose; nothing when nobody can tell."""
        rate = self.rate_per_s(now_at)
        recent = [entry for entry in self._recent if entry[0] > now_at - _RECENT_S]
        if rate is None or len(recent) < 2:
            return {}
        nodes = [self.node_of(TaskKey(step, task)) for _, step, task, _ in recent]
        counts = Counter(node for node in nodes if node is not None)
        return {node: rate * count / counts.total() for node, count in counts.items()}

    def eta_s(self, now_at: float) -> float | None:
        """Return how many seconds are left, or None when nobody can tell."""
        if self.is_ended:
            return None
        rate = self.rate_per_s(now_at)
        counts = self.counts
        return (counts.queued + counts.running) / rate if rate else None

    def retry(self, at: float) -> list[TasksRetried]:
        """Return the facts that put every failed task back into the queue; applies nothing."""
        tasks = [
            Retried(number, task, step.next_attempt(task))
            for number, step in enumerate(self.steps)
            for task in step.tasks_in(TaskState.FAILED)
        ]
        pieces = range(0, len(tasks), TASKS_RETRIED_LIMIT)
        return [TasksRetried(tuple(tasks[i : i + TASKS_RETRIED_LIMIT]), at) for i in pieces]


def _place(fact: TaskSucceeded) -> tuple[int, NodeId]:
    return fact.attempt, fact.node


def _earliest(held: float | None, at: float) -> float:
    return at if held is None else min(held, at)
