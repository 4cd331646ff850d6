"""Parameter spaces: `--over i=1-250` as data, and which values task number n has.

Everything is counted by arithmetic before anything is listed, so that `1-1000000000` is refused
and not expanded.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import msgspec

from p2prc.errors import JobInvalid
from p2prc.model.job import (
    INTEGER_LIMIT,
    SPANS_LIMIT,
    TASKS_LIMIT,
    TEXT_LIMIT,
    Association,
    IntegerRange,
    IntegerSpan,
    Parameter,
    Step,
    TextList,
)

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}", re.ASCII)
_SPAN = re.compile(r"(-?[0-9]+)(?:-(-?[0-9]+)(?::([0-9]+))?)?", re.ASCII)
_HINT = "write it like `--over i=1-250`, `i=0,3,9-12` or `scene=day,night`"


@dataclass(frozen=True, slots=True)
class Chunk:
    """Several integers that one task works on: `1-10`, or `1-46:5` when they are apart."""

    first: int
    last: int
    step: int = 1
    is_interval: bool = False

    def __str__(self) -> str:
        return self.text("")

    def text(self, spec: str) -> str:
        """Return it with both ends in this format."""
        if self.first == self.last and not self.is_interval:
            return format(self.first, spec)
        apart = f":{self.step}" if self.step > 1 else ""
        return f"{self.first:{spec}}-{self.last:{spec}}{apart}"


Value = int | str | Chunk


# -- reading what people type -----------------------------------------------------------------


def parse_over(text: str) -> Parameter:
    """Return the parameter that `NAME=RANGE` describes; raise `JobInvalid`."""
    name, equals, listed = text.partition("=")
    if not equals or not _NAME.fullmatch(name):
        raise JobInvalid(f"not a parameter: {text[:80]!r}", hint=_HINT)
    items = listed.split(",")
    if any(not item for item in items):
        raise JobInvalid(f"an empty value in the parameter {name}", hint=_HINT)
    matches = [_SPAN.fullmatch(item) for item in items]
    parameter: Parameter
    if all(matches):
        spans = tuple(_span(match, name) for match in matches if match is not None)
        parameter = IntegerRange(name, spans)
    else:
        parameter = TextList(name, tuple(items))
    check_parameter(parameter)
    return parameter


def _span(match: re.Match[str], name: str) -> IntegerSpan:
    first, last, step = match.groups()
    for digits in (first, last or "0"):
        if len(digits.lstrip("-")) > 1 and digits.lstrip("-").startswith("0"):
            raise JobInvalid(
                f"a leading zero in the parameter {name}: {digits[:40]}",
                hint=f"leave the zeros out and pad where it is used: `{{{name}:04d}}`",
            )
    if max(len(part or "") for part in match.groups()) > len(str(INTEGER_LIMIT)):
        raise JobInvalid(f"a number too large in the parameter {name}")
    return IntegerSpan(int(first), int(last or first), int(step or "1"))


def with_chunk(parameters: Iterable[Parameter], chunk: int) -> tuple[Parameter, ...]:
    """Let one task take `chunk` integers at a time; there must be exactly one integer range."""
    given = tuple(parameters)
    if chunk < 1:
        raise JobInvalid("a chunk has at least one integer")
    if sum(isinstance(parameter, IntegerRange) for parameter in given) != 1:
        raise JobInvalid("a chunk needs exactly one parameter that is a range of integers")
    chunk = min(chunk, TASKS_LIMIT)
    return tuple(
        msgspec.structs.replace(parameter, chunk=chunk)
        if isinstance(parameter, IntegerRange)
        else parameter
        for parameter in given
    )


def single_parameters(parameters: Iterable[Parameter]) -> Iterator[IntegerRange | TextList]:
    """Yield every parameter that has a name, those that move together one by one."""
    for parameter in parameters:
        if isinstance(parameter, Association):
            for member in parameter.members:
                yield from member
        else:
            yield parameter


def check_parameter(parameter: Parameter) -> None:
    """Refuse what is empty, too large or gives two tasks the same value: `JobInvalid`."""
    if isinstance(parameter, Association):
        _check_association(parameter)
    elif isinstance(parameter, TextList):
        _check_texts(parameter)
    else:
        _check_spans(parameter)


def _check_association(together: Association) -> None:
    for each in single_parameters([together]):
        if isinstance(each, TextList):
            # One value may come twice: what stands beside it tells the tasks apart.
            _check_each_text(each)
        else:
            _check_spans(each)
    counts = {"*".join(each.name for each in m): _product(m) for m in together.members}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in counts.items())
        raise JobInvalid(f"parameters that move together need equally many values: {told}")


def _check_texts(parameter: TextList) -> None:
    if len(set(parameter.values)) != len(parameter.values):
        raise JobInvalid(f"the parameter {parameter.name} has one value twice")
    _check_each_text(parameter)


def _check_each_text(parameter: TextList) -> None:
    if len(parameter.values) > TASKS_LIMIT:
        raise JobInvalid(f"the parameter {parameter.name} has more than {TASKS_LIMIT} values")
    if any(len(value) > TEXT_LIMIT or "\0" in value for value in parameter.values):
        raise JobInvalid(f"a value of the parameter {parameter.name} is too long or has a NUL")


def _check_spans(parameter: IntegerRange) -> None:
    name = parameter.name
    if len(parameter.spans) > SPANS_LIMIT:
        raise JobInvalid(f"the parameter {name} lists more than {SPANS_LIMIT} ranges")
    for span in parameter.spans:
        if span.step < 1:
            raise JobInvalid(f"the step of the parameter {name} must be 1 or more")
        if span.count == 0:
            raise JobInvalid(f"the parameter {name} ends before it starts")
        if max(abs(span.start), abs(span.end), span.step) > INTEGER_LIMIT:
            raise JobInvalid(f"a number too large in the parameter {name}")
    ordered = sorted(parameter.spans, key=lambda span: span.start)
    for earlier, later in pairwise(ordered):
        if later.start <= _last(earlier):
            raise JobInvalid(f"two ranges of the parameter {name} overlap at {later.start}")


def _last(span: IntegerSpan) -> int:
    return span.start + (span.count - 1) * span.step


# -- counting and indexing --------------------------------------------------------------------


class TaskSpace:
    """The tasks of one step: the product of its parameters, the last one varying fastest."""

    def __init__(self, step: Step) -> None:
        self._axes = [_axis(parameter) for parameter in step.parameters]
        self.count = math.prod(axis.count for axis in self._axes)

    def values(self, task: int) -> dict[str, Value]:
        """Return the task's values; raise IndexError outside `0 <= task < count`."""
        if not 0 <= task < self.count:
            raise IndexError(task)
        return _values_at(self._axes, task)


def _values_at(
    axes: Sequence[_Texts | _Integers | _Together] | Sequence[_Texts | _Integers], at: int
) -> dict[str, Value]:
    """Return the values at a place of the product of the axes, the last one moving fastest."""
    places: list[int] = []
    for axis in reversed(axes):
        at, place = divmod(at, axis.count)
        places.append(place)
    found: dict[str, Value] = {}
    for axis, place in zip(axes, reversed(places), strict=True):
        if isinstance(axis, _Together):
            for member in axis.members:
                found |= _values_at(member, place)
        else:
            found[axis.name] = axis.value(place)
    return found


def task_count(step: Step) -> int:
    """Return how many tasks the step has, whatever the number; nothing is listed."""
    return math.prod(_count(parameter) for parameter in step.parameters)


def task_values(step: Step, task: int) -> dict[str, Value]:
    """Return one task's values; where many are wanted, keep a `TaskSpace`."""
    return TaskSpace(step).values(task)


def _count(parameter: Parameter) -> int:
    if isinstance(parameter, Association):
        return _product(parameter.members[0])
    if isinstance(parameter, TextList):
        return len(parameter.values)
    return sum(-(-span.count // parameter.chunk) for span in parameter.spans)


def _product(parameters: Iterable[Parameter]) -> int:
    return math.prod(map(_count, parameters))


def _axis(parameter: Parameter) -> _Texts | _Integers | _Together:
    return _Together(parameter) if isinstance(parameter, Association) else _single_axis(parameter)


def _single_axis(parameter: IntegerRange | TextList) -> _Texts | _Integers:
    return _Texts(parameter) if isinstance(parameter, TextList) else _Integers(parameter)


class _Together:
    def __init__(self, association: Association) -> None:
        self.members = [[_single_axis(each) for each in m] for m in association.members]
        self.count = _product(association.members[0])


class _Texts:
    def __init__(self, parameter: TextList) -> None:
        self.name = parameter.name
        self.count = len(parameter.values)
        self._values = parameter.values

    def value(self, place: int) -> Value:
        return self._values[place]


class _Integers:
    def __init__(self, parameter: IntegerRange) -> None:
        self.name = parameter.name
        self._spans = parameter.spans
        self._chunk = parameter.chunk
        self._is_interval = parameter.is_interval
        # How many tasks lie before the end of each span.
        self._ends = list(accumulate(-(-span.count // self._chunk) for span in self._spans))
        self.count = self._ends[-1]

    def value(self, place: int) -> Value:
        index = bisect_right(self._ends, place)
        span = self._spans[index]
        within = place - (self._ends[index - 1] if index else 0)
        first = span.start + within * self._chunk * span.step
        if self._chunk == 1 and not self._is_interval:
            return first
        last = min(_last(span), first + (self._chunk - 1) * span.step)
        return Chunk(first, last, span.step, self._is_interval)
