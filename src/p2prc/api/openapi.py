"""The API's description for other languages, made from the structs that decode and encode it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import msgspec

from p2prc import __version__
from p2prc.api.examples import example_of
from p2prc.api.parameters import Parameter
from p2prc.api.schema import ErrorBody
from p2prc.api.streaming import HTTP_STATUS, MEDIA_TYPE, SSE_TYPE
from p2prc.errors import BY_CODE

JSON = "application/json"
LINES = MEDIA_TYPE
OCTETS = "application/octet-stream"
_DESCRIPTION = """\
The control API of a running node: everything that the command line does, and no more.

It is served on the Unix socket `control.sock` in the node's home, which only its owner can open;
and on TCP where the owner turned that on (`p2prc config set api.listen 8089`), for who sends
`Authorization: Bearer TOKEN` with the text of `api.token` in that folder. `GET /v1/status` says
where it is.

Answers that go on are streams: one JSON object a line (`application/x-ndjson`), empty lines keeping
the connection alive; or, for `Accept: text/event-stream`, the same objects as server-sent events.
An error after the first line is a last object of type `error`. Hanging up ends what is streamed.
"""
_BYTES_BOTH_WAYS = (
    "Bytes both ways at once: the request's body goes on, in chunks, while the answer does."
)
_MEANINGS = {
    400: "The request or a value in it is not valid.",
    401: "On TCP: the token is missing or wrong.",
    403: "A valid request that was refused.",
    404: "There is no such thing.",
    409: "The work failed.",
    500: "A bug of ours.",
    502: "A peer cannot be reached, was lost, is busy or refused.",
    503: "This machine cannot.",
}
_EXTRA_CODES = {401: ["not-allowed"], 500: ["internal"]}


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
    is_raw: bool = False


def describe(operations: list[Operation]) -> dict[str, Any]:
    """Return the OpenAPI document of these operations."""
    kinds = [kind for each in operations for kind in (each.answer, each.body) if kind is not None]
    _, components = msgspec.json.schema_components(
        [*kinds, ErrorBody], ref_template="#/components/schemas/{name}"
    )
    for component in components.values():
        if "description" in component:
            component["description"] = inspect.cleandoc(component["description"])
        _say_double(component)
    paths: dict[str, Any] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "p2prc",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [
            {
                "url": "http://127.0.0.1:{port}",
                "description": "where `api.listen` says; on the Unix socket any host name will do",
                "variables": {"port": {"default": "8089"}},
            }
        ],
        "security": [{"token": []}],
        "tags": [{"name": tag} for tag in sorted({_tag(each) for each in operations})],
        "paths": paths,
        "components": {
            "schemas": components,
            "responses": {_name(status): _failure(status) for status in _MEANINGS},
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The text of `api.token`; on the Unix socket none is needed.",
                }
            },
        },
    }


def _say_double(part: Any) -> None:
    """Say of every number how wide it is: generators take the narrow kind for what says nothing."""
    if isinstance(part, dict):
        if part.get("type") == "number":
            part["format"] = "double"
        for inner in part.values():
            _say_double(inner)
    elif isinstance(part, list):
        for inner in part:
            _say_double(inner)


def _tag(operation: Operation) -> str:
    """Return the noun of its path; routes of a program that embeds the node are `own`."""
    _, first, *rest = operation.path.split("/")
    return rest[0] if first == "v1" and rest else "own"


def _name(status: int) -> str:
    return f"Error{status}"


def _failure(status: int) -> dict[str, Any]:
    codes = _EXTRA_CODES.get(status) or sorted(
        code for code, kind in BY_CODE.items() if HTTP_STATUS.get(kind.exit_status) == status
    )
    example = {"code": codes[0], "message": "what happened", "hint": "", "retryable": False}
    if (kind := BY_CODE.get(codes[0])) is not None:
        example |= {"message": _first_line(kind.__doc__), "hint": kind.hint}
        example["retryable"] = kind.retryable
    content = _content(JSON, ErrorBody)
    content[JSON]["example"] = {"error": example}
    listed = ", ".join(f"`{code}`" for code in codes)
    return {"description": f"{_MEANINGS[status]} Codes: {listed}.", "content": content}


def _first_line(text: str | None) -> str:
    sentence = (text or "").strip().splitlines()[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:]


def _described(operation: Operation) -> dict[str, Any]:
    summary, _, more = operation.summary.partition("\n")
    entry: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [_tag(operation)],
        "summary": summary,
    }
    if operation.is_raw:
        more = f"{more}\n{_BYTES_BOTH_WAYS}"
    if more.strip():
        entry["description"] = inspect.cleandoc(more).strip()
    if operation.parameters:
        entry["parameters"] = [_parameter(parameter) for parameter in operation.parameters]
    entry["responses"] = {
        **_success(operation),
        **{
            str(status): {"$ref": f"#/components/responses/{_name(status)}"} for status in _MEANINGS
        },
    }
    if operation.body is not None:
        # What goes on is told by its first line.
        kind = LINES if operation.is_raw else JSON
        content = _content(kind, operation.body)
        content[kind]["example"] = example_of(operation.body)
        entry["requestBody"] = {"required": True, "content": content}
    elif operation.is_raw and operation.method == "POST":
        entry["requestBody"] = {"content": {OCTETS: {"schema": _BINARY}}}
    return entry


_BINARY = {"type": "string", "format": "binary"}


def _parameter(parameter: Parameter) -> dict[str, Any]:
    schema = msgspec.json.schema(parameter.kind)
    _say_double(schema)
    if not parameter.is_required:
        schema["default"] = parameter.default
    return {
        "name": parameter.name,
        "in": "path" if parameter.in_path else "query",
        "required": parameter.is_required,
        "schema": schema,
    }


def _success(operation: Operation) -> dict[str, Any]:
    if operation.is_stream:
        content = {**_content(LINES, operation.answer), **_content(SSE_TYPE, operation.answer)}
        content[LINES]["example"] = example_of(operation.answer)
        return {"200": {"description": "One event a line, until it ends.", "content": content}}
    if operation.answer is not None:
        content = _content(JSON, operation.answer)
        content[JSON]["example"] = example_of(operation.answer)
        return {"200": {"description": "Done.", "content": content}}
    if operation.is_raw:
        return {"200": {"description": "The bytes.", "content": {OCTETS: {"schema": _BINARY}}}}
    return {"204": {"description": "Done."}}


def _content(media_type: str, kind: Any) -> dict[str, Any]:
    [reference], _ = msgspec.json.schema_components(
        [kind], ref_template="#/components/schemas/{name}"
    )
    return {media_type: {"schema": reference}}
