"""What an operation takes from its path and query: read off its function's signature, typed."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from p2prc.errors import InvalidInput

Endpoint = Callable[..., Awaitable[Response]]
REQUIRED = inspect.Parameter.empty


@dataclass(frozen=True, slots=True)
class Parameter:
    """One value by name: from the path when its name stands there in braces, else the query."""

    name: str
    kind: Any
    default: Any
    in_path: bool

    @property
    def is_required(self) -> bool:
        """Whether a request without it is refused."""
        return self.default is REQUIRED

    def read(self, request: Request) -> Any:
        """Return the value; raise `InvalidInput`."""
        found = request.path_params if self.in_path else request.query_params
        if self.name not in found:
            if self.is_required:
                raise InvalidInput(f"the request lacks `{self.name}`")
            return self.default
        try:
            return msgspec.convert(found[self.name], self.kind, strict=False)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"the request is not valid: {self.name}: {error}") from error


def parameters_of(endpoint: Endpoint, path: str) -> tuple[Parameter, ...]:
    """Return what the endpoint takes besides the request itself."""
    signature = inspect.signature(endpoint, eval_str=True)
    return tuple(
        Parameter(name, found.annotation, found.default, in_path=f"{{{name}}}" in path)
        for name, found in signature.parameters.items()
        if found.annotation is not Request
    )


def handler_of(endpoint: Endpoint, parameters: tuple[Parameter, ...]) -> Endpoint:
    """Return what Starlette calls: reads the parameters, then calls the endpoint."""
    takes_request = any(
        found.annotation is Request
        for found in inspect.signature(endpoint, eval_str=True).parameters.values()
    )

    async def handle(request: Request) -> Response:
        values = {parameter.name: parameter.read(request) for parameter in parameters}
        if takes_request:
            values["request"] = request
        return await endpoint(**values)

    return handle
