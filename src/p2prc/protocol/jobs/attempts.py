"""Attempt ids: `<job>-<step>-<task>-<attempt>`, readable, and unique for their submitter."""

from __future__ import annotations

from typing import NamedTuple

from p2prc.errors import WireError
from p2prc.model.identity import AttemptId, JobId

_DIGITS = (7, 7, 9)


class TaskKey(NamedTuple):
    """A task: the number of its step, and its own number in it."""

    step: int
    task: int


def attempt_id(job: JobId, task: TaskKey, attempt: int) -> AttemptId:
    """Return the name of one try of one task."""
    return AttemptId(f"{job}-{task.step}-{task.task}-{attempt}")


def parse_attempt_id(attempt: AttemptId) -> tuple[JobId, TaskKey, int]:
    """Return job, task and number of the attempt; raise `WireError` when it is none."""
    parts = attempt.split("-")
    numbers = parts[1:]
    if len(numbers) != 3 or not all(part.isascii() and part.isdigit() for part in numbers):
        raise WireError("not an attempt's id")
    if any(len(part) > limit for part, limit in zip(numbers, _DIGITS, strict=True)):
        raise WireError("not an attempt's id")
    step, task, number = map(int, numbers)
    return JobId(parts[0]), TaskKey(step, task), number
