"""Ranges of integers as Open Job Description writes them, counted before anything is listed."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

from p2prc.errors import JobInvalid
from p2prc.model.job import INTEGER_LIMIT, SPANS_LIMIT, TASKS_LIMIT, IntegerSpan

_SPAN = re.compile(
    r"\s*(-?[0-9]{1,16})\s*(?:-\s*(-?[0-9]{1,16})\s*(?::\s*(-?[0-9]{1,16})\s*)?)?", re.ASCII
)


def read_range(text: str) -> tuple[IntegerSpan, ...]:
    """Return the spans of `1-10, 20-30:2, 7`, in rising order. Raises `JobInvalid`."""
    spans = sorted(map(_span, text.split(",")), key=lambda span: span.start)
    if sum(span.count for span in spans) > INTEGER_LIMIT or len(spans) > SPANS_LIMIT:
        raise JobInvalid(f"more than {SPANS_LIMIT} ranges, or too many integers")
    if any(later.start <= earlier.end for earlier, later in pairwise(spans)):
        return _entangled(spans)
    return tuple(spans)


def spans_of(values: Sequence[int]) -> tuple[IntegerSpan, ...]:
    """Return listed integers as spans, in their order."""
    return tuple(IntegerSpan(value, value) for value in values)


def runs_of(values: Iterable[int]) -> tuple[IntegerSpan, ...]:
    """Return integers in rising order as few spans without gaps."""
    spans: list[IntegerSpan] = []
    for value in sorted(set(values)):
        if spans and spans[-1].end + 1 == value:
            spans[-1] = IntegerSpan(spans[-1].start, value)
        else:
            spans.append(IntegerSpan(value, value))
    return tuple(spans)


def without_gaps(spans: Sequence[IntegerSpan]) -> tuple[IntegerSpan, ...]:
    """Return the same integers as spans of step 1. Raises `JobInvalid` when they are too many."""
    if all(span.step == 1 for span in spans):
        return _joined(spans)
    if sum(span.count for span in spans) > SPANS_LIMIT:
        raise JobInvalid(f"a contiguous chunk over more than {SPANS_LIMIT} integers with gaps")
    return runs_of(_listed(spans))


def _span(text: str) -> IntegerSpan:
    match = _SPAN.fullmatch(text)
    if match is None:
        raise JobInvalid(f"not a range of integers: `{text[:80]}`")
    first = int(match[1])
    last = int(match[2] or first)
    step = int(match[3] or 1)
    if max(abs(first), abs(last), abs(step)) > INTEGER_LIMIT:
        raise JobInvalid(f"a number too large: `{text[:80]}`")
    if step == 0:
        raise JobInvalid(f"a range with the step 0: `{text[:80]}`")
    if (last - first) * step < 0:
        raise JobInvalid(f"a range that ends before it starts: `{text[:80]}`")
    count = (last - first) // step + 1
    far = first + (count - 1) * step
    return IntegerSpan(min(first, far), max(first, far), abs(step))


def _entangled(spans: Sequence[IntegerSpan]) -> tuple[IntegerSpan, ...]:
    total = sum(span.count for span in spans)
    if total > TASKS_LIMIT:
        raise JobInvalid(f"{total} integers in ranges that overlap, at most {TASKS_LIMIT}")
    listed = list(_listed(spans))
    if len(set(listed)) < len(listed):
        raise JobInvalid("ranges that have an integer in common")
    runs = runs_of(listed)
    if len(runs) > SPANS_LIMIT:
        raise JobInvalid(f"ranges that cross in more than {SPANS_LIMIT} pieces")
    return runs


def _joined(spans: Sequence[IntegerSpan]) -> tuple[IntegerSpan, ...]:
    found: list[IntegerSpan] = []
    for span in spans:
        if found and found[-1].end + 1 == span.start:
            found[-1] = IntegerSpan(found[-1].start, span.end)
        else:
            found.append(span)
    return tuple(found)


def _listed(spans: Iterable[IntegerSpan]) -> Iterator[int]:
    for span in spans:
        yield from range(span.start, span.end + 1, span.step)
