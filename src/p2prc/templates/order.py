"""The order in which steps run: each after all that it depends on, else as they are written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from p2prc.templates.document import Document


def in_order(document: Document, steps: Sequence[Mapping[str, Any]]) -> list[int]:
    """Return the numbers of the steps as they can run. Raises `TemplateInvalid` for a circle."""
    before = _direct(document, steps)
    found: list[int] = []
    done: set[int] = set()
    while len(found) < len(steps):
        ready = next((n for n in before if n not in done and before[n] <= done), None)
        if ready is None:
            _refuse_circle(document, steps, before, done)
        else:
            found.append(ready)
            done.add(ready)
    return found


def all_needed(document: Document, steps: Sequence[Mapping[str, Any]]) -> dict[int, set[int]]:
    """Return for each step all that it depends on, also by way of others."""
    before = _direct(document, steps)
    found: dict[int, set[int]] = {}
    for number in in_order(document, steps):
        found[number] = set(before[number]).union(*(found[needed] for needed in before[number]))
    return found


def _direct(document: Document, steps: Sequence[Mapping[str, Any]]) -> dict[int, set[int]]:
    numbers = {str(step.get("name")): number for number, step in enumerate(steps)}
    before: dict[int, set[int]] = {}
    for number, step in enumerate(steps):
        before[number] = set()
        for at, each in enumerate(step.get("dependencies") or ()):
            name = str(each.get("dependsOn"))
            if name not in numbers:
                place = ("steps", number, "dependencies", at)
                raise document.fault(place, f"there is no step `{name[:100]}`")
            before[number].add(numbers[name])
    return before


def _refuse_circle(
    document: Document,
    steps: Sequence[Mapping[str, Any]],
    before: Mapping[int, set[int]],
    done: set[int],
) -> None:
    at = next(number for number in before if number not in done)
    way = [at]
    while (at := min(before[at] - done)) not in way:
        way.append(at)
    circle = [str(steps[number].get("name"))[:60] for number in [*way[way.index(at) :], at]]
    raise document.fault(("steps", at, "dependencies"), "a circle: " + " needs ".join(circle))
