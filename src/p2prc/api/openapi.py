"""The API's description for other languages, made from the structs that decode and encode it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from p2prc.api.schema import ErrorBody

JSON = "application/json"
LINES = "application/x-ndjson"


@dataclass(frozen=True, slots=True)
class Operation:
    """One request: where it is, what it takes and what it answers. None means no content."""

    method: str
    path: str
    name: str
    answer: Any = None
    body: Any = None
    is_stream: bool = False


def describe(app: FastAPI, operations: list[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    document = get_openapi(
        title="p2prc",
        version=app.version,
        description="The control API of a running node, served on the Unix socket of its home.",
        routes=app.routes,
    )
    kinds = [kind for each in operations for kind in (each.answer, each.body) if kind is not None]
    _, components = msgspec.json.schema_components(
        [*kinds, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    document["components"] = {"schemas": components}
    for operation in operations:
        _describe_one(document["paths"][operation.path][operation.method.lower()], operation)
    return document


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
