"""What goes into the child that reads a template, and what comes out of it."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from p2prc.model.identity import ShortText
from p2prc.model.job import Step
from p2prc.wire.codec import Codec

TEMPLATE_LIMIT_BYTES = 1 << 20
ORDER_LIMIT_BYTES = 16 << 20
ANSWER_LIMIT_BYTES = 64 << 20

Path = Annotated[str, Meta(max_length=4096)]


class Order(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A template to read: its text, and what its parameters are to be.

    `name` is for messages. Relative paths in the template are relative to `folder`, those among
    the values to `current`. `values_text` is a document of values; `values` override it.
    """

    text: Annotated[str, Meta(max_length=TEMPLATE_LIMIT_BYTES)]
    name: ShortText
    folder: Path
    current: Path
    values: dict[str, str] = {}
    values_text: Annotated[str, Meta(max_length=TEMPLATE_LIMIT_BYTES)] = ""


class Amounts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a step asks of its host at least."""

    cpu_millis: Annotated[int, Meta(ge=0)] = 0
    memory_bytes: Annotated[int, Meta(ge=0)] = 0
    disk_bytes: Annotated[int, Meta(ge=0)] = 0
    gpus: Annotated[int, Meta(ge=0)] = 0


class PathUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A path on the submitter's disk, and where it is in the working folder."""

    name: ShortText
    outside: Path
    inside: Path
    flow: Literal["IN", "OUT", "INOUT"]
    is_folder: bool


class PlannedStep(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of the job, but for its inputs and its place."""

    step: Step
    amounts: Amounts = Amounts()


class Plan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="plan"):
    """A template with all its values in place, its steps in an order that they can run in."""

    name: ShortText
    steps: Annotated[tuple[PlannedStep, ...], Meta(min_length=1, max_length=100)]
    paths: Annotated[tuple[PathUse, ...], Meta(max_length=100)] = ()
    notices: Annotated[tuple[Annotated[str, Meta(max_length=1000)], ...], Meta(max_length=20)] = ()


class Fault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="fault"):
    """Why there is no plan, with the place in the template."""

    message: Annotated[str, Meta(max_length=2000)]
    hint: Annotated[str, Meta(max_length=1000)] = ""


order_codec: Codec[Order] = Codec(Order, limit_bytes=ORDER_LIMIT_BYTES)
answer_codec: Codec[Plan | Fault] = Codec(Plan | Fault, limit_bytes=ANSWER_LIMIT_BYTES)
