"""Routes that a program which embeds a node adds to its control API."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from p2prc.errors import SettingInvalid

RESERVED = ("/v1", "/openapi.json")


@dataclass(frozen=True, slots=True)
class Route:
    """An operation of one's own, like `Route("GET", "/greeting", greet)`.

    The handler is an async function. Its typed parameters come from the path or
    the query; one called `body` is the request's JSON, decoded into `body`. What it returns is the
    answer, as JSON; errors of `p2prc.errors` become error answers. Its docstring is the summary in
    the API's description.
    """

    method: str
    path: str
    handler: Callable[..., Awaitable[Any]]
    body: Any = None
    answer: Any = None


def add_own_routes(
    add: Callable[..., None],
    read_body: Callable[[Request, Any], Awaitable[Any]],
    as_json: Callable[[object], Response],
    routes: Sequence[Route],
) -> None:
    """Add them. Raises SettingInvalid for a path that is the node's own."""
    for route in routes:
        if not route.path.startswith("/") or route.path.startswith(RESERVED):
            raise SettingInvalid(
                f"a route of one's own cannot be at `{route.path}`",
                hint=f"begin its path with something other than {' and '.join(RESERVED)}",
            )
        endpoint = _endpoint(route, read_body, as_json)
        add(route.method, route.path, endpoint, answer=route.answer, body=route.body)


def _endpoint(
    route: Route,
    read_body: Callable[[Request, Any], Awaitable[Any]],
    as_json: Callable[[object], Response],
) -> Callable[..., Awaitable[Response]]:
    signature = inspect.signature(route.handler, eval_str=True)
    own = [each for name, each in signature.parameters.items() if name != "body"]
    takes_body = len(own) != len(signature.parameters)

    async def endpoint(request: Request, **values: Any) -> Response:
        if takes_body:
            values["body"] = await read_body(request, route.body)
        return as_json(await route.handler(**values))

    asked = inspect.Parameter("request", inspect.Parameter.KEYWORD_ONLY, annotation=Request)
    named = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    endpoint.__signature__ = inspect.Signature([asked, *named])  # type: ignore[attr-defined]
    endpoint.__name__ = getattr(route.handler, "__name__", "own")
    endpoint.__doc__ = route.handler.__doc__
    return endpoint
