"""YAML and JSON as plain values, bounded, with the line of each: the only importer of yaml.

Aliases may be used, but what they unfold to is counted before anything is unfolded. A key that
comes twice is refused: readers of YAML do not agree on which one counts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from p2prc.errors import TemplateInvalid

NODES_LIMIT = 200_000
DEPTH_LIMIT = 60
_COLLECTIONS = ("tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")
_HINT = "a template is a YAML or JSON document; see `p2prc submit --help`"

Place = tuple[str | int, ...]


@dataclass(frozen=True, slots=True)
class Document:
    """A template's values, and where each of them stands."""

    name: str
    value: dict[str, Any]
    lines: dict[Place, int] = field(default_factory=dict)

    def at(self, place: Place) -> str:
        """Return the place for a person: `scene.yaml:12: steps[0].script`."""
        line = next(
            (self.lines[place[:n]] for n in range(len(place), -1, -1) if place[:n] in self.lines),
            None,
        )
        told = self.name if line is None else f"{self.name}:{line}"
        return f"{told}: {path_text(place)}" if place else told

    def fault(self, place: Place, what: str) -> TemplateInvalid:
        """Return the error that says what is wrong there."""
        return TemplateInvalid(f"{self.at(place)}: {what}"[:1500])


def path_text(place: Place) -> str:
    """Return a place like `steps[0].script.actions`."""
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else str(part)
    return text


def read_document(text: str, name: str) -> Document:
    """Return the document; raise `TemplateInvalid` with the line."""
    if text.lstrip().startswith("{") and name.endswith(".json"):
        return _json_document(text, name)
    lines: dict[Place, int] = {}
    root = _composed(text, name)
    if root is None:
        raise TemplateInvalid(f"{name}: the template is empty", hint=_HINT)
    _check_size(root, name)
    value = _value(root, (), lines, name)
    if not isinstance(value, dict):
        raise TemplateInvalid(f"{name}: not a template: it has no keys and values", hint=_HINT)
    return Document(name, value, lines)


def _json_document(text: str, name: str) -> Document:
    try:
        value = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        raise TemplateInvalid(f"{name}:{error.lineno}: {error.msg}"[:1000]) from error
    except (ValueError, RecursionError) as error:
        raise TemplateInvalid(f"{name}: not a document: {error}"[:1000], hint=_HINT) from error
    lines: dict[Place, int] = {}
    try:
        # JSON has no tabs inside of texts, and YAML none outside: only the lines are wanted.
        root = _composed(text.replace("\t", " "), name)
        if root is not None:
            _check_size(root, name)
            _value(root, (), lines, name)
    except TemplateInvalid:
        lines = {}
    return Document(name, value, lines)


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key `{twice[:100]}` comes twice")
    return found


def read_values(text: str, name: str) -> dict[str, str]:
    """Return the parameters of a values file: one key and value each."""
    document = read_document(text, name)
    values: dict[str, str] = {}
    for key, value in document.value.items():
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise document.fault((key,), "a parameter's value is a text or a number")
        values[key] = str(value)
    return values


def _composed(text: str, name: str) -> yaml.Node | None:
    try:
        loader = _Loader(text)
    except yaml.YAMLError as error:
        raise TemplateInvalid(f"{name}: not a text: {error}"[:1000], hint=_HINT) from error
    try:
        return loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = name if mark is None else f"{name}:{mark.line + 1}"
        raise TemplateInvalid(f"{where}: {error.problem or error.context}"[:1000]) from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise TemplateInvalid(f"{name}: not a document: {error}"[:1000], hint=_HINT) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """Refuses what nests deeper than any template does, before the stack ends."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEPTH_LIMIT:
            raise yaml.MarkedYAMLError(
                problem=f"nested deeper than {DEPTH_LIMIT}", problem_mark=self.get_mark()
            )
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


def _check_size(root: yaml.Node, name: str) -> None:
    """Count what the document unfolds to; a node that holds itself never ends."""
    sizes: dict[int, int] = {}
    open_nodes: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        key = id(node)
        children = list(_children(node))
        if key in open_nodes:
            sizes[key] = 1 + sum(sizes[id(child)] for child in children)
            open_nodes.discard(key)
            waiting.pop()
            if sizes[key] > NODES_LIMIT:
                line = node.start_mark.line + 1
                raise TemplateInvalid(f"{name}:{line}: more than {NODES_LIMIT} values")
        elif key in sizes:
            waiting.pop()
        else:
            open_nodes.add(key)
            for child in children:
                if id(child) in open_nodes:
                    line = child.start_mark.line + 1
                    raise TemplateInvalid(f"{name}:{line}: a value that contains itself")
                if id(child) not in sizes:
                    waiting.append(child)


def _children(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        yield from node.value
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield key
            yield value


def _value(node: yaml.Node, place: Place, lines: dict[Place, int], name: str) -> Any:
    lines[place] = node.start_mark.line + 1
    if not isinstance(node, yaml.ScalarNode) and node.tag not in _COLLECTIONS:
        raise TemplateInvalid(f"{name}:{lines[place]}: a value of an unknown kind")
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, (*place, n), lines, name) for n, child in enumerate(node.value)]
    if not isinstance(node, yaml.MappingNode):
        return _scalar(node, name)
    found: dict[str, Any] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise TemplateInvalid(f"{name}:{line}: a key that is not a text")
        key = key_node.value
        if key_node.tag == "tag:yaml.org,2002:merge":
            raise TemplateInvalid(f"{name}:{line}: merged keys (`<<`) are not supported")
        if key in found:
            raise TemplateInvalid(f"{name}:{line}: the key `{key[:100]}` comes twice")
        found[key] = _value(child, (*place, key), lines, name)
        lines[(*place, key)] = line
    return found


def _scalar(node: yaml.Node, name: str) -> str | int | float | bool | None:
    kind = node.tag.rpartition(":")[2]
    text: str = node.value
    line = node.start_mark.line + 1
    try:
        if kind == "int":
            return _integer(text)
        if kind == "float":
            return _floating(text)
        if kind == "bool":
            return text.lower() in ("true", "yes", "on")
        if kind == "null":
            return None
        if kind in ("str", "timestamp"):
            return text
    except (ValueError, OverflowError) as error:
        raise TemplateInvalid(f"{name}:{line}: not a number: {text[:60]}") from error
    raise TemplateInvalid(f"{name}:{line}: a value of an unknown kind (`{node.tag[:60]}`)")


def _integer(text: str) -> int:
    if len(text) > 30:
        raise ValueError(text)
    constructed = yaml.SafeLoader("").construct_yaml_int(
        yaml.ScalarNode("tag:yaml.org,2002:int", text)
    )
    return int(constructed)


def _floating(text: str) -> float:
    found = float(text.replace("_", ""))
    if not math.isfinite(found):
        raise ValueError(text)
    return found
