"""The API's description: whole, with examples that hold and every error code; SSE; the TCP door."""

from __future__ import annotations

import asyncio
import json
import re
import stat
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from starlette.applications import Starlette

from p2prc.api import schema
from p2prc.api.openapi import JSON, LINES, Operation, describe
from p2prc.api.own_routes import Route
from p2prc.api.server import _Routes, build_app
from p2prc.api.tcp_door import is_for_this_machine, open_tcp_door, token_of
from p2prc.errors import BY_CODE, HomeUnusable, P2prcError, PortTaken, SettingInvalid
from p2prc.settings import Machine, read_settings
from tests.unit.api_fake import NODE, FakeNode, job_detail


class _AnyNode:
    """What routes are made of when nobody is asked."""

    containers = tunnels = None


async def _greet(count: int = 1) -> dict[str, int]:
    """Greet."""
    return {"count": count}


def operations() -> list[Operation]:
    routes = _Routes(Starlette(), _AnyNode())  # type: ignore[arg-type]
    routes.add_all([Route("GET", "/greeting", _greet, answer=dict[str, int])])
    return routes._operations


DOCUMENT = describe(operations())


@pytest.mark.parametrize("operation", operations(), ids=lambda each: each.name)
def test_every_operation_has_examples_that_decode_and_all_its_errors(operation: Operation) -> None:
    told = DOCUMENT["paths"][operation.path][operation.method.lower()]
    assert told["operationId"] == operation.name
    assert told["tags"]
    assert set(told["responses"]) > {"400", "401", "403", "404", "409", "500", "502", "503"}
    if operation.body is not None:
        [content] = told["requestBody"]["content"].values()
        msgspec.convert(content["example"], operation.body, strict=True)
    if operation.answer is not None:
        content = told["responses"]["200"]["content"]
        example = (content.get(JSON) or content[LINES])["example"]
        msgspec.convert(example, operation.answer, strict=True)
        assert msgspec.to_builtins(msgspec.convert(example, operation.answer)) == example
    named = {parameter["name"] for parameter in told.get("parameters", ())}
    assert named == {parameter.name for parameter in operation.parameters}
    in_path = {parameter.name for parameter in operation.parameters if parameter.in_path}
    assert all(f"{{{name}}}" in operation.path for name in in_path)


def test_every_error_code_is_named_at_its_status() -> None:
    responses = DOCUMENT["components"]["responses"].values()
    told = " ".join(response["description"] for response in responses)
    assert {code for code in BY_CODE if f"`{code}`" not in told} <= {"error"}
    for response in responses:
        msgspec.convert(response["content"][JSON]["example"], schema.ErrorBody)


def test_the_page_has_every_status_and_its_codes_are_of_it() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    rows = re.findall(r"^\| (\d{3}) \| .* \| (.*) \|$", page, re.MULTILINE)
    responses = DOCUMENT["components"]["responses"]
    assert {f"Error{status}" for status, _ in rows} == set(responses)
    for status, codes in rows:
        for code in re.findall(r"`([\w-]+)`", codes):
            assert f"`{code}`" in responses[f"Error{status}"]["description"]


def test_every_reference_leads_somewhere() -> None:
    text = json.dumps(DOCUMENT)
    for kind in ("schemas", "responses"):
        used = {piece.split('"')[0] for piece in text.split(f"#/components/{kind}/")[1:]}
        assert used == set(DOCUMENT["components"][kind]) or kind == "schemas"
        assert used <= set(DOCUMENT["components"][kind])


# -- over TCP ---------------------------------------------------------------------------------


@contextmanager
def on_tcp(fake: FakeNode, token: str) -> Iterator[str]:
    ready, started = threading.Event(), []

    async def serve() -> None:
        stop = asyncio.Event()
        async with open_tcp_door(build_app(fake), "", 0, token) as url:
            started.append((asyncio.get_running_loop(), stop, url))
            ready.set()
            await stop.wait()

    server = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    server.start()
    assert ready.wait(30)
    [(loop, stop, url)] = started
    try:
        yield url
    finally:
        loop.call_soon_threadsafe(stop.set)
        server.join(30)


def ask(url: str, token: str | None, **headers: str) -> tuple[int, str, str]:
    shown = {} if token is None else {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(url, headers={**shown, **headers})
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, answer.headers["content-type"], answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.headers["content-type"], error.read().decode()


def test_the_token_lets_in_and_nothing_else_does(tmp_path: Path) -> None:
    fake, token = FakeNode(), token_of(tmp_path)
    with on_tcp(fake, token) as url:
        assert url.startswith("http://127.0.0.1:")
        status, _, body = ask(f"{url}/v1/status", token)
        assert (status, json.loads(body)["id"]) == (200, NODE)
        asked = list(fake.asked)
        for wrong in (None, "", token[:-1], f"{token}x", "ä", token.upper() + " "):
            for path in ("/v1/status", "/openapi.json", "/nothing"):
                status, _, body = ask(url + path, wrong and wrong.encode().decode("latin-1"))
                assert (status, json.loads(body)["error"]["code"]) == (401, "not-allowed")
        assert fake.asked == asked


def test_events_come_as_lines_or_as_server_sent_events(tmp_path: Path) -> None:
    fake, token = FakeNode(), token_of(tmp_path)
    fake.job_end = job_detail("succeeded", schema.TaskCounts(total=4, succeeded=4))
    with on_tcp(fake, token) as url:
        place = f"{url}/v1/jobs/0123456789abcdef0123/events"
        _, kind, lines = ask(place, token)
        assert kind == "application/x-ndjson"
        events = [json.loads(line) for line in lines.splitlines() if line]
        _, kind, text = ask(place, token, Accept="text/event-stream")
        assert kind.startswith("text/event-stream")
        sent = [json.loads(each.removeprefix("data: ")) for each in text.split("\n\n") if each]
        assert sent == events
        assert [each["type"] for each in events][-1] == "ended"


async def test_a_taken_port_is_said() -> None:
    async with open_tcp_door(build_app(FakeNode()), "127.0.0.1", 0, "t") as url:
        with pytest.raises(PortTaken, match="cannot listen on"):
            async with open_tcp_door(
                build_app(FakeNode()), "127.0.0.1", int(url.rpartition(":")[2]), "t"
            ):
                pass


def test_the_token_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    token = token_of(tmp_path)
    assert token_of(tmp_path) == token
    assert len(token) == 64
    assert stat.S_IMODE((tmp_path / "api.token").stat().st_mode) == 0o600
    for nonsense in ("", "short", "x" * 63 + " y"):
        (tmp_path / "api.token").write_text(nonsense)
        with pytest.raises(HomeUnusable):
            token_of(tmp_path)


@pytest.mark.parametrize(
    ("typed", "place"),
    [
        ("off", None),
        ("8089", "127.0.0.1:8089"),
        ("0", "127.0.0.1:0"),
        ("0.0.0.0:8089", "0.0.0.0:8089"),
        ("[::1]:8089", "[::1]:8089"),
        ("many", SettingInvalid),
        ("70000", SettingInvalid),
    ],
)
def test_where_it_listens_is_a_setting(tmp_path: Path, typed: str, place: Any) -> None:
    def read() -> Any:
        machine = Machine(cpus=1, memory_bytes=1 << 30, free_disk_bytes=1 << 30)
        overrides = {"api.listen": typed}
        return read_settings(
            tmp_path, environment={}, overrides=overrides, machine=machine
        ).api_listen

    if place is SettingInvalid:
        with pytest.raises(P2prcError):
            read()
    else:
        found = read()
        assert (found and str(found)) == place


def test_only_addresses_of_this_machine_are_its_own() -> None:
    for host in ("", "127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert is_for_this_machine(host)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        assert not is_for_this_machine(host)
