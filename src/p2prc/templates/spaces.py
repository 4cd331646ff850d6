"""A step's parameter space: its parameters' values, and how they are combined."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from p2prc.errors import JobInvalid
from p2prc.model.job import (
    TASKS_LIMIT,
    Association,
    IntegerRange,
    Parameter,
    TextList,
)
from p2prc.protocol.jobs.parameters import check_parameter
from p2prc.templates.document import Place
from p2prc.templates.ranges import read_range, runs_of, spans_of, without_gaps
from p2prc.templates.texts import Scope

Single = IntegerRange | TextList
_TOKEN = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_]*|[(),*])\s*", re.ASCII)
_DEFAULT_CONSTRAINT = "NONCONTIGUOUS"


def read_space(space: Mapping[str, Any], scope: Scope, place: Place) -> tuple[Parameter, ...]:
    """Return the parameters as they multiply, the last one moving fastest.

    Raises `TemplateInvalid`.
    """
    singles: dict[str, Single] = {}
    for number, each in enumerate(space["taskParameterDefinitions"]):
        here = (*place, "taskParameterDefinitions", number)
        singles[each["name"]] = _single(each, scope, here)
    combination = space.get("combination")
    here = (*place, "combination")
    terms = [[[name]] for name in singles]
    if combination is not None:
        terms = _terms(str(combination), scope, here)
    named = [name for term in terms for member in term for name in member]
    if sorted(named) != sorted(singles):
        raise scope.document.fault(here, "every parameter has to be named once")
    found = tuple(
        _combined([tuple(singles[name] for name in member) for member in term]) for term in terms
    )
    for term, parameter in zip(terms, found, strict=True):
        try:
            check_parameter(parameter)
        except JobInvalid as error:
            number = list(singles).index(term[0][0])
            spot = (*place, "taskParameterDefinitions", number) if len(term) == 1 else here
            raise scope.document.fault(spot, error.message) from error
    return found


def _combined(members: list[tuple[Single, ...]]) -> Parameter:
    return members[0][0] if len(members) == 1 else Association(tuple(members))


def _single(given: Mapping[str, Any], scope: Scope, place: Place) -> Single:
    name, kind, values = given["name"], str(given["type"]), given["range"]
    here = (*place, "range")
    try:
        if kind == "INT":
            return IntegerRange(name, _spans(values, scope, here))
        if kind == "CHUNK[INT]":
            return _chunks(given, scope, place)
    except JobInvalid as error:
        if error.message.startswith(scope.document.name):
            raise
        raise scope.document.fault(here, error.message) from error
    if not isinstance(values, list):
        raise scope.document.fault(here, "a list of values is needed here")
    texts = tuple(scope.text(each, (*here, n)) for n, each in enumerate(values))
    return TextList(name, texts)


def _spans(values: object, scope: Scope, place: Place) -> Any:
    if isinstance(values, list):
        return spans_of([scope.integer(each, (*place, n)) for n, each in enumerate(values)])
    return read_range(scope.text(values, place))


def _chunks(given: Mapping[str, Any], scope: Scope, place: Place) -> IntegerRange:
    chunks, values = given["chunks"], given["range"]
    here = (*place, "range")
    spans = _spans(values, scope, here)
    if isinstance(values, list):
        spans = runs_of(span.start for span in spans)
    is_interval = str(chunks.get("rangeConstraint", _DEFAULT_CONSTRAINT)) == "CONTIGUOUS"
    size = scope.integer(chunks["defaultTaskCount"], (*place, "chunks", "defaultTaskCount"))
    if size < 1:
        raise scope.document.fault((*place, "chunks", "defaultTaskCount"), "at least 1 is needed")
    return IntegerRange(
        given["name"],
        without_gaps(spans) if is_interval else spans,
        chunk=min(size, TASKS_LIMIT),
        is_interval=is_interval,
    )


def _terms(text: str, scope: Scope, place: Place) -> list[list[list[str]]]:
    """Read `A * (B, C * D)` into `[[[A]], [[B], [C, D]]]`."""
    tokens, at = [], 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise scope.document.fault(place, f"not a combination: `{text[:80]}`")
        tokens.append(match[1])
        at = match.end()
    terms: list[list[list[str]]] = []
    while tokens:
        terms.append(_term(tokens, text, scope, place))
        if tokens and (tokens.pop(0) != "*" or not tokens):
            raise scope.document.fault(place, f"not a combination: `{text[:80]}`")
    return terms


def _term(tokens: list[str], text: str, scope: Scope, place: Place) -> list[list[str]]:
    first = tokens.pop(0)
    if first.isidentifier():
        return [[first]]
    members: list[list[str]] = []
    while first in ("(", ",", "*") and len(tokens) >= 2:
        name, after = tokens.pop(0), tokens.pop(0)
        if name == "(":
            raise scope.document.fault(
                place, "parentheses inside parentheses are not supported: list the values instead"
            )
        if first == "*":
            members[-1].append(name)
        else:
            members.append([name])
        first = after
    names = [name for member in members for name in member]
    if first != ")" or len(members) < 2 or not all(name.isidentifier() for name in names):
        raise scope.document.fault(place, f"not a combination: `{text[:80]}`")
    return members
