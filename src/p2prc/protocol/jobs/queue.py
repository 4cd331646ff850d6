"""Which task comes next: new ones in order, tried ones on a node where they did not fail yet."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from p2prc.model.identity import NodeId
from p2prc.protocol.jobs.step_ledger import StepLedger, TaskState

ELSEWHERE_S = 10.0
"""How long a failed task waits for a node that it has not failed on."""
_LOOKED_AT = 64


class TaskQueue:
    """The queued tasks of one step. The ledger says which they are; this only orders them."""

    def __init__(self, step: StepLedger, *, is_flying: Callable[[int], bool]) -> None:
        self._step = step
        self._is_flying = is_flying
        self._cursor = 0
        # Tasks that the cursor has passed, and from when on any node will do.
        self._again: dict[int, float] = {}

    @property
    def count(self) -> int:
        """How many tasks are queued."""
        return self._step.count(TaskState.QUEUED)

    def next_wake(self, now: float) -> float | None:
        """Return when the next task stops being choosy."""
        return next((at for at in self._again.values() if at > now), None)

    def put_back(self, task: int, now: float) -> None:
        """Let a task be tried again, if it still may be."""
        if self._step.state(task) is TaskState.QUEUED and task < self._cursor:
            self._again.setdefault(task, now + ELSEWHERE_S)

    def rewind(self) -> None:
        """Look at every task again: facts were added that put some back."""
        self._cursor = 0
        self._again.clear()

    def take(self, node: NodeId, now: float, *, has_others: Callable[[], bool]) -> int | None:
        """Return the next task for this node, and count it as taken; None when there is none."""
        found = self._take_again(node, now, has_others=has_others)
        return self._take_new(node, now, has_others=has_others) if found is None else found

    def _take_again(
        self, node: NodeId, now: float, *, has_others: Callable[[], bool]
    ) -> int | None:
        for task, anywhere_at in list(islice(self._again.items(), _LOOKED_AT)):
            if not self._is_free(task):
                del self._again[task]
            elif now >= anywhere_at or not self.has_failed_on(task, node) or not has_others():
                del self._again[task]
                return task
        return None

    def _take_new(self, node: NodeId, now: float, *, has_others: Callable[[], bool]) -> int | None:
        while (task := self._step.find_queued(self._cursor)) >= 0:
            self._cursor = task + 1
            if self._is_flying(task):
                continue
            if self.has_failed_on(task, node) and has_others():
                self._again[task] = now + ELSEWHERE_S
                continue
            return task
        return None

    def _is_free(self, task: int) -> bool:
        return self._step.state(task) is TaskState.QUEUED and not self._is_flying(task)

    def has_failed_on(self, task: int, node: NodeId) -> bool:
        """Say whether an attempt of the task failed on the node."""
        return any(failure.node == node for failure in self._step.failures(task))
