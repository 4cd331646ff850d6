"""The API's description for other languages, made from the structs that decode and encode it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from p2prc import __version__
from p2prc.api.parameters import Parameter
from p2prc.api.schema import ErrorBody

JSON = "application/json"
LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request: where it is, what it takes and what it answers. None means no content."""

    method: str
    path: str
    name: str
    summary: str = ""
    parameters: tuple[Parameter, ...] = ()
    answer: Any = None
    body: Any = None
    is_stream: bool = False


def describe(operations: list[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    kinds = [kind for each in operations for kind in (each.answer, each.body) if kind is not None]
    _, components = msgspec.json.schema_components(
        [*kinds, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2prc",
            "version": __version__,
            "description": (
                "The control API of a running node, served on the Unix socket of its home."
            ),
        },
        "paths": paths,
        "components": {"schemas": components},
    }


def _described(operation: Operation) -> dict[str, Any]:
    entry: dict[str, Any] = {"operationId": operation.name, "summary": operation.summary}
    if operation.parameters:
        entry["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    _describe_one(entry, operation)
    return entry


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = msgspec.json.schema(parameter.kind)
    if not parameter.is_required:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.is_required,
        "schema": schema,
    }


def _describe_one(entry: dict[str, Any], operation: Operation) -> None:
    responses: dict[str, Any] = {
        "default": {"description": "It failed.", "content": _content(JSON, ErrorBody)}
    }
    if operation.answer is None:
        responses["204"] = {"description": "Done."}
    elif operation.is_stream:
        description = "One event a line; empty lines keep the connection alive."
        responses["200"] = {
            "description": description,
            "content": _content(LINES, operation.answer),
        }
    else:
        responses["200"] = {"description": "Done.", "content": _content(JSON, operation.answer)}
    entry["responses"] = responses
    if operation.body is not None:
        entry["requestBody"] = {"required": True, "content": _content(JSON, operation.body)}


def _content(media_type: str, kind: Any) -> dict[str, Any]:
    [reference], _ = msgspec.json.schema_components(
        [kind], ref_template="#/components/schemas/{name}"
    )
    return {media_type: {"schema": reference}}
