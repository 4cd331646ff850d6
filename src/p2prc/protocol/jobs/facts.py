"""Facts about a job's tasks: only ever added, each complete by itself, in any order.

Instants are seconds since 1970 in UTC, because facts are stored and read by others.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.model.identity import BlobIdField, LeaseIdField, NodeIdField, ShortText
from p2prc.model.resources import Bytes
from p2prc.wire.codec import Codec, encode

FACT_LIMIT_BYTES = 1 << 20
TASKS_RETRIED_LIMIT = 10_000

StepNumber = Annotated[int, Meta(ge=0, le=99)]
TaskNumber = Annotated[int, Meta(ge=0, le=999_999)]
AttemptNumber = Annotated[int, Meta(ge=0, le=999_999_999)]
EPOCH_LIMIT = 999_000
Epoch = Annotated[int, Meta(ge=0, le=EPOCH_LIMIT)]
KEEPERS_LIMIT = 16
Seconds = Annotated[float, Meta(ge=0)]


class TaskAssigned(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="assigned"):
    """A node was given the task; written before the node is told."""

    step: StepNumber
    task: TaskNumber
    attempt: AttemptNumber
    node: NodeIdField
    lease: LeaseIdField
    at: Seconds


class AttemptFailed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="failed"):
    """An attempt came to nothing.

    `counts_against_retries` is true where the work failed, false where its node or lease did.
    """

    step: StepNumber
    task: TaskNumber
    attempt: AttemptNumber
    node: NodeIdField
    code: ShortText
    reason: Annotated[str, Meta(max_length=2000)]
    at: Seconds
    counts_against_retries: bool
    log_tail: Annotated[bytes, Meta(max_length=16 * 1024)] = b""


class TaskSucceeded(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="succeeded"):
    """An attempt ended well and its outputs are with whoever says so.

    `is_collected`: with the submitter, who alone may say that.
    """

    step: StepNumber
    task: TaskNumber
    attempt: AttemptNumber
    node: NodeIdField
    at: Seconds
    duration_s: Seconds = 0.0
    outputs: BlobIdField | None = None
    output_bytes: Bytes = 0
    is_collected: bool = True


class JobCancelled(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="cancelled"):
    """The submitter stopped the job; there is no way back."""

    at: Seconds


class Retried(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One failed task that may be tried again: attempts below `attempt` are forgiven."""

    step: StepNumber
    task: TaskNumber
    attempt: AttemptNumber


class TasksRetried(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="retried"):
    """A person asked for failed tasks to be tried again."""

    tasks: Annotated[tuple[Retried, ...], Meta(max_length=TASKS_RETRIED_LIMIT)]
    at: Seconds


class KeepersNamed(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="keepers"):
    """These nodes hold the job too, and may carry it on when its coordinator is gone."""

    keepers: Annotated[tuple[NodeIdField, ...], Meta(min_length=1, max_length=KEEPERS_LIMIT)]
    at: Seconds


class CoordinatorTook(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="took"):
    """This node carries the job on; the highest (epoch, node) is its coordinator."""

    epoch: Epoch
    node: NodeIdField
    at: Seconds


class NodeCaught(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="caught"):
    """The node gave a result that was not what others made of the same task: none of its counts."""

    node: NodeIdField
    step: StepNumber
    task: TaskNumber
    reason: Annotated[str, Meta(max_length=2000)]
    at: Seconds


class TaskChecked(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="checked"):
    """The task's result was compared with others'; where `reason` is given it could not be."""

    step: StepNumber
    task: TaskNumber
    at: Seconds
    reason: Annotated[str, Meta(max_length=2000)] = ""


Fact = (
    TaskAssigned
    | AttemptFailed
    | TaskSucceeded
    | JobCancelled
    | TasksRetried
    | KeepersNamed
    | CoordinatorTook
    | NodeCaught
    | TaskChecked
)
_codec: Codec[Fact] = Codec(Fact, limit_bytes=FACT_LIMIT_BYTES)


def encode_fact(fact: Fact) -> bytes:
    """Return the fact's canonical bytes."""
    return encode(fact)


def decode_fact(stored: bytes) -> Fact:
    """Return the fact; raise `WireError`."""
    return _codec.decode(stored)
