"""A job: steps, each a command over a parameter space; each point of the space is a task.

The shape is Open Job Description's (job, steps, parameter space, tasks, host requirements), so
that a template translates one to one. `map` and `render` write a job with one step.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import UNSET, Meta, UnsetType

from p2prc.model.identity import JobId, NodeIdField, ShortText
from p2prc.model.workload import Command, Workload
from p2prc.wire.codec import encode

TASKS_LIMIT = 1_000_000
SPANS_LIMIT = 10_000
INTEGER_LIMIT = 10**15
Integer = Annotated[int, Meta(ge=-INTEGER_LIMIT, le=INTEGER_LIMIT)]
TEXT_LIMIT = 1000
ParameterName = Annotated[str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,63}$(?!\n)")]


class IntegerSpan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Integers from `start` by `step` up to at most `end`: `1-10`, `1-250:5`, or one alone."""

    start: Integer
    end: Integer
    step: Annotated[int, Meta(ge=1, le=INTEGER_LIMIT)] = 1

    @property
    def count(self) -> int:
        """How many integers there are; 0 when `end` lies before `start`."""
        return max(0, (self.end - self.start) // self.step + 1)


class IntegerRange(
    msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag="int"
):
    """Spans of integers, one after another; `chunk` joins that many of a span into one task.

    With `is_interval` a task's value is always written like `1-1`, also when it is one integer.
    """

    name: ParameterName
    spans: Annotated[tuple[IntegerSpan, ...], Meta(min_length=1, max_length=SPANS_LIMIT)]
    chunk: Annotated[int, Meta(ge=1, le=TASKS_LIMIT)] = 1
    is_interval: bool = False


class TextList(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="text"):
    """Listed values."""

    name: ParameterName
    values: Annotated[
        tuple[Annotated[str, Meta(max_length=TEXT_LIMIT)], ...],
        Meta(min_length=1, max_length=TASKS_LIMIT),
    ]


Product = Annotated[tuple[IntegerRange | TextList, ...], Meta(min_length=1, max_length=16)]


class Association(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="together"):
    """Parameters that move together: the first values of all, then the second, and so on.

    Each member is one parameter, or the product of several.
    """

    members: Annotated[tuple[Product, ...], Meta(min_length=2, max_length=16)]


Parameter = IntegerRange | TextList | Association


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One command for every point of the product of its parameters.

    `{NAME}` and `{NAME:04d}` in the command, its variables and outputs stand for the task's
    values; only names in `parameters` are replaced. With `is_template` it is `{{Task.Param.NAME}}`
    that stands for them, in the command's files too. With `is_isolated` each task has a sandbox of
    its own. `needs` are the numbers of earlier steps whose outputs its tasks find. That share of
    its results that `verify` says is compared with another node's before it counts: by their bytes,
    or, where `pictures_within` is more than 0, as pictures that differ by at most so many levels of
    255 in the mean of any small part.
    """

    name: ShortText
    command: Command
    workload: Workload = Workload()
    parameters: Annotated[tuple[Parameter, ...], Meta(max_length=16)] = ()
    retries: Annotated[int, Meta(ge=0, le=100)] = 2
    is_isolated: bool = False
    is_template: bool = False
    needs: Annotated[tuple[Annotated[int, Meta(ge=0, le=99)], ...], Meta(max_length=100)] = ()
    verify: Annotated[float, Meta(ge=0, le=1)] = 0.0
    pictures_within: Annotated[float, Meta(ge=0, le=255)] = 0.0


class Job(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An immutable description, named by its hash; `salt` tells two equal submissions apart.

    Of several jobs that one node carries on, higher `priority` gets slots first; UNSET is 0.
    """

    name: ShortText
    submitter: NodeIdField
    salt: Annotated[str, Meta(max_length=40)]
    steps: Annotated[tuple[Step, ...], Meta(min_length=1, max_length=100)]
    nodes: Annotated[tuple[NodeIdField, ...], Meta(max_length=1000)] = ()
    # Not a plain default: what is not given must not change the names of older jobs.
    priority: Annotated[int, Meta(ge=-100, le=100)] | UnsetType = UNSET

    @property
    def id(self) -> JobId:
        """The hash of the description, cut to 20 digits."""
        return JobId(blake3(encode(self)).hexdigest()[:20])
