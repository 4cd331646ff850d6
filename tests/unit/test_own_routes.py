"""Routes of a program that embeds a node: typed, described, and never the node's own."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2prc.api.address import socket_path
from p2prc.api.connection import call
from p2prc.api.listening import open_server
from p2prc.api.own_routes import Route
from p2prc.api.server import build_app
from p2prc.errors import InvalidInput, NodeUnknown, SettingInvalid
from tests.unit.api_fake import FakeNode


class Order(msgspec.Struct):
    """What is ordered."""

    frames: int


async def greet(name: str, times: int = 1) -> dict[str, Any]:
    """Greet somebody."""
    if name == "nobody":
        raise NodeUnknown("nobody is there")
    return {"hello": [name] * times}


async def order(body: Order) -> int:
    return body.frames


ROUTES = (
    Route("GET", "/farm/greet/{name}", greet),
    Route("POST", "/farm/order", order, body=Order),
)


async def test_they_take_typed_values_and_answer_json(tmp_path: Path) -> None:
    async def ask(method: str, path: str, content: bytes = b"") -> Any:
        body = await asyncio.to_thread(call, str(tmp_path), method, path, content, timeout_s=30)
        return json.loads(body)

    async with open_server(build_app(FakeNode(), ROUTES), socket_path(tmp_path)):
        assert await ask("GET", "/farm/greet/ada?times=2") == {"hello": ["ada", "ada"]}
        assert await ask("POST", "/farm/order", b'{"frames": 3}') == 3
        with pytest.raises(InvalidInput):
            await ask("GET", "/farm/greet/ada?times=x")
        with pytest.raises(InvalidInput):
            await ask("POST", "/farm/order", b'{"frames": "x"}')
        with pytest.raises(NodeUnknown, match="nobody is there"):
            await ask("GET", "/farm/greet/nobody")
        paths = (await ask("GET", "/openapi.json"))["paths"]
    assert paths["/farm/greet/{name}"]["get"]["summary"] == "Greet somebody."


@pytest.mark.parametrize("path", ["/v1/nodes", "/openapi.json", "farm"])
def test_the_nodes_own_paths_are_not_theirs(path: str) -> None:
    with pytest.raises(SettingInvalid):
        build_app(FakeNode(), [Route("GET", path, greet)])
