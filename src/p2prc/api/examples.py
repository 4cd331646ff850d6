"""An example of every value of the API, made from its type; tests see that each one decodes."""

from __future__ import annotations

from typing import Any

from msgspec import inspect

NODE = "5b9c04f4" * 8
_TEXTS = {
    "id": "1f3a90c2" * 5,
    "node": NODE,
    "peer": NODE,
    "network": "c0ffee00" * 8,
    "lease": "1f3a90c2" * 5,
    "ticket": "p2prc2abcdefghijklmnop",
    "image": "python:3.12",
    "address": "192.0.2.7:8088",
    "local": "127.0.0.1:3000",
    "remote": "3000",
    "service": "3000",
    "target": "grace",
    "task": "step/7",
    "runtime": "process",
    "tier": "userns",
    "version": "0.1.0",
    "path": "/home/ada/scene.blend",
    "key": "lend.cpus",
    "value": "2",
    "origin": "config.toml",
    "lifetime_s": "none",
    "state": "running",
    "main": "running",
    "reason": "",
    "command": "python3 -m http.server 8000",
    "platform": "Linux-6.12-x86_64",
    "cpu": "AMD Ryzen 7 7700",
    "group": "web",
    "ssh": "ssh 1f3a90c21f.p2prc",
    "message": "nothing is free at present",
    "code": "peer-busy",
    "finding": "listens on 192.0.2.7:8088",
    "content": "aGVsbG8K",
    "template": "specificationVersion: jobtemplate-2023-09",
}
_DEPTH_LIMIT = 8
_LISTS = {
    "argv": ["python3", "-c", "print(6 * 7)"],
    "addresses": ["192.0.2.7:8088"],
    "leases": ["1f3a90c2" * 5],
    "containers": ["1f3a90c2" * 5],
}


def example_of(kind: Any) -> Any:
    """Return an example as JSON shows it. Values with a default are left out of requests."""
    return _example(inspect.type_info(kind), "", 0)


def _example(found: inspect.Type, name: str, depth: int) -> Any:
    match found:
        case inspect.Metadata():
            return _example(found.type, name, depth)
        case inspect.StructType():
            return _struct(found, depth)
        case inspect.UnionType():
            kinds = [each for each in found.types if not isinstance(each, inspect.NoneType)]
            return _example(kinds[0], name, depth)
        case inspect.ListType() | inspect.VarTupleType() | inspect.SetType():
            if name in _LISTS:
                return _LISTS[name]
            return [_example(found.item_type, name.removesuffix("s"), depth + 1)]
        case inspect.TupleType():
            return [_example(each, name, depth + 1) for each in found.item_types]
        case inspect.DictType():
            return {"name": _example(found.value_type, "", depth + 1)}
        case inspect.LiteralType():
            return found.values[0]
        case inspect.BoolType():
            return False
        case inspect.IntType():
            return _within(found, 3)
        case inspect.FloatType():
            return _within(found, 1.5)
        case inspect.StrType():
            return _text(found, name)
        case inspect.BytesType():
            return "aGVsbG8K"
        case inspect.NoneType():
            return None
        case inspect.EnumType():
            return next(iter(found.cls)).value
        case _:
            return {}


def _struct(found: inspect.StructType, depth: int) -> dict[str, Any]:
    made: dict[str, Any] = {}
    if found.tag_field is not None:
        made[found.tag_field] = found.tag
    is_request = found.cls.__name__.endswith(("Request", "Decision"))
    for each in found.fields:
        is_shown = each.name in _LISTS or (not is_request and depth < _DEPTH_LIMIT)
        if each.required or is_shown:
            made[each.encode_name] = _example(each.type, each.name, depth + 1)
    return made


def _text(found: inspect.StrType, name: str) -> str:
    if name.endswith("_at") or name == "since":
        return "2026-01-02T03:04:05Z"
    text = _TEXTS.get(name, "grace" if name.endswith("name") else name or "text")
    return text[: found.max_length] if found.max_length else text


def _within(found: inspect.IntType | inspect.FloatType, wanted: float) -> float:
    low = found.ge if found.ge is not None else found.gt
    high = found.le if found.le is not None else found.lt
    if low is not None and wanted < low:
        return low
    return high if high is not None and wanted > high else wanted
