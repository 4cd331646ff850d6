"""What a step requires of its host, as amounts that our placement knows; all else is refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from p2prc.model.resources import Limits
from p2prc.templates.document import Place
from p2prc.templates.plan import Amounts
from p2prc.templates.texts import Scope

_MIB, _GIB = 1 << 20, 1 << 30
_AMOUNTS: dict[str, tuple[str, Callable[[float], int]]] = {
    "amount.worker.vcpu": ("cpu_millis", lambda given: round(given * 1000)),
    "amount.worker.memory": ("memory_bytes", lambda given: round(given * _MIB)),
    "amount.worker.disk.scratch": ("disk_bytes", lambda given: round(given * _GIB)),
    "amount.worker.gpu": ("gpus", round),
}
_USUAL = {
    "cpu_millis": Limits().cpu_millis,
    "memory_bytes": Limits().memory_bytes,
    "disk_bytes": Limits().disk_bytes,
}
_FAMILY = "attr.worker.os.family"
_MOST = 1 << 60


def read_needs(given: Mapping[str, Any], scope: Scope, place: Place) -> Amounts:
    """Return the amounts. Raises `TemplateInvalid` for what no placement here can see to."""
    found: dict[str, int] = {}
    for number, each in enumerate(given.get("amounts") or ()):
        here = (*place, "amounts", number)
        name = scope.text(each["name"], (*here, "name")).lower()
        if name not in _AMOUNTS:
            known = ", ".join(f"`{amount}`" for amount in _AMOUNTS)
            raise scope.document.fault(here, f"`{name}` is not supported; these are: {known}")
        key, convert = _AMOUNTS[name]
        least, most = (
            None if each.get(side) is None else convert(scope.amount(each[side], (*here, side)))
            for side in ("min", "max")
        )
        # A place has what was asked for and no more, whatever its node has: `max` alone caps that.
        usual = _USUAL.get(key, 0)
        found[key] = min(_MOST, least if least else usual if most is None else min(usual, most))
    for number, each in enumerate(given.get("attributes") or ()):
        _check_attribute(each, scope, (*place, "attributes", number))
    return Amounts(**found)


def _check_attribute(each: Mapping[str, Any], scope: Scope, place: Place) -> None:
    name = scope.text(each["name"], (*place, "name")).lower()
    if name != _FAMILY:
        raise scope.document.fault(place, f"`{name}` is not supported; `{_FAMILY}` is")
    for key in ("anyOf", "allOf"):
        wanted = [scope.text(value, (*place, key)).lower() for value in each.get(key) or ()]
        if wanted and ("linux" not in wanted or (key == "allOf" and set(wanted) != {"linux"})):
            raise scope.document.fault((*place, key), "work runs in Linux sandboxes alone")
