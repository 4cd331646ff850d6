"""The control API: real server, real socket, real client; the node behind it is a fake."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2prc.api import connection, container_schema, schema
from p2prc.api.address import socket_path
from p2prc.api.client import ControlClient
from p2prc.api.connection import events
from p2prc.api.listening import open_server
from p2prc.api.server import BODY_LIMIT_BYTES, build_app
from p2prc.errors import (
    BY_CODE,
    HomeBusy,
    HomeUnusable,
    JobUnknown,
    NodeNotRunning,
    NodeUnknown,
    P2prcError,
    PeerBusy,
)
from tests.unit.api_fake import JOB, NODE, PEER, FakeNode, served

RUN = {"target": "any", "argv": ["true"]}
ENDED = schema.RunEnded(exit=0, node=PEER, lease="a" * 20)


@pytest.fixture(scope="module")
def served_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeNode, Path]]:
    """One server for all tests of the module: starting one takes longer than a test."""
    node, folder = FakeNode(), tmp_path_factory.mktemp("home")
    with served(node, folder):
        yield node, folder


@pytest.fixture
def fake(served_node: tuple[FakeNode, Path]) -> FakeNode:
    """The served node as if it were new."""
    served_node[0].reset()
    return served_node[0]


@pytest.fixture
def home(served_node: tuple[FakeNode, Path], fake: FakeNode) -> Path:
    return served_node[1]


@pytest.fixture
def client(home: Path) -> ControlClient:
    return ControlClient(str(home))


def raw(home: Path, request: bytes) -> tuple[int, dict[str, Any]]:
    """Send bytes as they are; return the status and the body."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(20)
        connection.connect(socket_path(home))
        connection.sendall(request)
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body or b"{}")


def posted(home: Path, path: str, body: bytes) -> tuple[int, dict[str, Any]]:
    head = f"POST {path} HTTP/1.0\r\ncontent-length: {len(body)}\r\n\r\n"
    return raw(home, head.encode() + body)


def test_values_arrive_as_they_were_sent(client: ControlClient) -> None:
    assert client.status().id == NODE
    assert [node.is_self for node in client.nodes()] == [True, False]
    assert client.job(JOB).tasks.succeeded == 4
    assert client.invite(schema.InviteRequest(expires_s=60)).ticket == "p2prcTICKET"


def test_names_may_hold_any_character(client: ControlClient, fake: FakeNode) -> None:
    client.specs("a/b c&d=e%ü")
    client.ping("x?y", 3)
    assert fake.asked == [("specs", "a/b c&d=e%ü"), ("ping", "x?y", 3)]


@pytest.mark.parametrize("code", sorted(BY_CODE))
def test_every_error_arrives_as_its_own_class(
    code: str, client: ControlClient, fake: FakeNode
) -> None:
    fake.error = BY_CODE[code]("it went wrong", hint="do this")
    with pytest.raises(P2prcError) as caught:
        client.status()
    assert (type(caught.value), caught.value.message, caught.value.hint) == (
        BY_CODE[code],
        "it went wrong",
        "do this",
    )


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"[]", "Expected `object`"),
        (b'{"argv": []}', "length >= 1"),
        (b'{"argv": ["true"], "cpu": 1}', "unknown field `cpu`"),
        (b'{"argv": ["true"], "cpus": -1}', "> 0"),
        (b'{"argv": ["true"], "gpus": "two"}', "Expected `int`"),
        (b"[" * 100_000, "not valid"),
        (b'{"argv": ["' + b"\xff" + b'"]}', "not valid"),
    ],
)
def test_a_bad_body_is_invalid_input_and_asks_the_node_nothing(
    body: bytes, said: str, home: Path, fake: FakeNode
) -> None:
    status, answer = posted(home, "/v1/run", body)
    assert status == 400
    assert answer["error"]["code"] == "invalid-input"
    assert said in answer["error"]["message"]
    assert fake.asked == []


def test_a_body_without_end_is_refused_at_its_limit(home: Path) -> None:
    status, answer = posted(home, "/v1/join", b" " * (BODY_LIMIT_BYTES + 1))
    assert (status, answer["error"]["code"]) == (400, "invalid-input")


def test_a_bad_query_is_invalid_input(home: Path) -> None:
    status, answer = raw(home, b"GET /v1/ping?count=many HTTP/1.0\r\n\r\n")
    assert (status, answer["error"]["code"]) == (400, "invalid-input")


def test_an_unknown_request_says_that_the_versions_differ(home: Path) -> None:
    status, answer = raw(home, b"GET /v9/new HTTP/1.0\r\n\r\n")
    assert (status, answer["error"]["code"]) == (404, "unsupported")
    assert "p2prc down" in answer["error"]["hint"]


def test_kill_without_a_target_is_refused(home: Path, fake: FakeNode) -> None:
    status, _ = posted(home, "/v1/kill", b"{}")
    assert (status, fake.asked) == (400, [])


def test_a_run_streams_its_events_to_the_last(client: ControlClient, fake: FakeNode) -> None:
    chunk = schema.RunOutput(channel=1, content=b"\x00\xff\n")
    fake.run_events = [schema.RunStarted(node=PEER, lease="a" * 20), chunk, ENDED]
    request = schema.RunRequest(argv=["true"])
    assert list(client.run(request)) == fake.run_events
    assert fake.asked == [request]


def test_a_run_that_is_refused_raises(home: Path, fake: FakeNode) -> None:
    fake.error = NodeUnknown("no node is called `x`")
    with pytest.raises(NodeUnknown, match="no node is called"):
        list(events(str(home), "POST", "/v1/run", RUN))


def test_an_error_in_the_middle_of_a_stream_raises_after_what_came_before(
    home: Path, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(request: schema.RunRequest) -> Any:
        yield schema.RunNote(message="soon")
        raise PeerBusy("nothing is free")

    monkeypatch.setattr(fake, "run", failing)
    stream = events(str(home), "POST", "/v1/run", RUN)
    assert next(stream)["message"] == "soon"
    with pytest.raises(PeerBusy, match="nothing is free"):
        next(stream)


def test_a_stream_that_breaks_off_is_an_error_and_no_end(home: Path, fake: FakeNode) -> None:
    fake.run_events = [schema.RunNote(message="soon")]
    with pytest.raises(NodeNotRunning, match="stopped before"):
        list(events(str(home), "POST", "/v1/run", RUN))


def test_hanging_up_cancels_the_command(home: Path, fake: FakeNode) -> None:
    fake.run_events, fake.is_endless = [schema.RunNote(message="soon")], True
    stream = events(str(home), "POST", "/v1/run", RUN)
    next(stream)
    assert not fake.command_was_cancelled.is_set()
    stream.close()
    assert fake.command_was_cancelled.wait(20)


def test_closing_the_server_cancels_what_is_still_streamed(tmp_path: Path, fake: FakeNode) -> None:
    fake.run_events, fake.is_endless = [schema.RunNote(message="soon")], True
    with served(fake, tmp_path):
        stream = events(str(tmp_path), "POST", "/v1/run", RUN)
        next(stream)
    assert fake.command_was_cancelled.is_set()
    with pytest.raises(NodeNotRunning):
        next(stream)


def test_a_bug_in_the_node_is_an_internal_error_that_points_to_its_log(
    client: ControlClient, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(fake, "pause", broken)
    with pytest.raises(P2prcError, match="its log says how") as caught:
        client.pause()
    assert (caught.value.code, caught.value.hint) == ("internal", "see `p2prc logs`")


def test_a_job_is_followed_to_its_end(client: ControlClient, fake: FakeNode) -> None:
    followed = list(client.job_events(JOB))
    assert isinstance(followed[0], schema.JobProgress)
    assert followed[-1] == schema.JobEnded(job=fake.job_end)


@pytest.mark.parametrize("typed", ["", "a/b", "../status", "é"])
def test_what_cannot_be_a_job_is_unknown(typed: str, client: ControlClient) -> None:
    with pytest.raises(JobUnknown):
        client.job(typed)


def test_no_node_and_a_stale_socket_are_no_running_node(tmp_path: Path) -> None:
    with pytest.raises(NodeNotRunning):
        ControlClient(str(tmp_path / "nowhere")).status()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(socket_path(tmp_path))
    with pytest.raises(NodeNotRunning):
        ControlClient(str(tmp_path)).status()


def test_a_stale_socket_is_replaced(tmp_path: Path, fake: FakeNode) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left_behind:
        left_behind.bind(socket_path(tmp_path))
    with served(fake, tmp_path):
        assert ControlClient(str(tmp_path)).status().id == NODE
    assert not Path(socket_path(tmp_path)).exists()


async def test_a_socket_that_answers_is_left_alone(home: Path, fake: FakeNode) -> None:
    with pytest.raises(HomeBusy):
        async with open_server(build_app(fake), socket_path(home)):
            pass
    status = await asyncio.to_thread(ControlClient(str(home)).status)
    assert status.id == NODE


async def test_a_file_in_the_way_is_not_deleted(tmp_path: Path, fake: FakeNode) -> None:
    Path(socket_path(tmp_path)).write_text("mine")
    with pytest.raises(HomeUnusable):
        async with open_server(build_app(fake), socket_path(tmp_path)):
            pass
    assert Path(socket_path(tmp_path)).read_text() == "mine"


async def test_a_home_that_is_not_there_is_unusable(tmp_path: Path, fake: FakeNode) -> None:
    with pytest.raises(HomeUnusable):
        async with open_server(build_app(fake), socket_path(tmp_path / "gone")):
            pass


def test_only_the_owner_may_open_the_socket(home: Path) -> None:
    assert stat.S_IMODE(Path(socket_path(home)).stat().st_mode) == 0o600


@pytest.mark.parametrize("length", [99, 100, 101, 107, 108, 300])
def test_a_home_may_have_a_long_path(length: int, tmp_path: Path, fake: FakeNode) -> None:
    name = "socket-of-the-right-length"
    missing = length - len(os.fsencode(socket_path(tmp_path / name)))
    home = tmp_path / name
    while missing > 1:
        part = min(missing - 1, 200)
        home, missing = home / ("x" * part), missing - part - 1
    home.mkdir(parents=True)
    with served(fake, home):
        assert ControlClient(str(home)).status().id == NODE
    with pytest.raises(NodeNotRunning):
        ControlClient(str(home)).status()


def test_openapi_names_every_operation_once_and_resolves(client: ControlClient) -> None:
    document = client.openapi()
    operations = [one for path in document["paths"].values() for one in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names) > 20
    assert all(operation["summary"] for operation in operations)
    text = json.dumps(document)
    used = {piece.split('"')[0] for piece in text.split("#/components/schemas/")[1:]}
    assert used <= set(document["components"]["schemas"])
    run = document["paths"]["/v1/run"]["post"]
    assert run["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/RunRequest"
    }
    assert "application/x-ndjson" in run["responses"]["200"]["content"]


def test_answers_of_a_newer_node_are_understood() -> None:
    newer = b'{"node":"n","path":null,"rtt_ms":null,"lost":5,"jitter_ms":1}'
    assert msgspec.json.decode(newer, type=schema.PingResult).lost == 5


CONTRACT = {
    schema.Status: "id name pid network state addresses public relays leases uptime_s version",
    schema.NodeRow: "id name state self path latency_ms addresses public version cpus memory_bytes"
    " gpus runtimes free metadata",
    schema.SpecsOfNode: "hostname platform cpu cpus memory_bytes disk_bytes gpus runtimes",
    schema.GpuFacts: "name memory_bytes driver utilization_percent temperature_c",
    schema.RuntimeTier: "name tier",
    schema.LeaseRow: "id peer peer_name image state cpu_percent cpu_s memory_bytes"
    " memory_peak_bytes disk_bytes processes net_rx_bytes net_tx_bytes created_at expires_at",
    schema.JobRow: "id name state tasks safe created_at finished_at eta_s",
    schema.TaskCounts: "total queued running succeeded failed",
    schema.JobDetail: "id name state tasks safe created_at finished_at eta_s steps nodes failures"
    " outputs_bytes",
    schema.TaskFailure: "task attempt node reason",
    schema.NodeShare: "succeeded failed running",
    schema.JobCreated: "id key",
    schema.Invitation: "ticket network expires_at reach",
    schema.Joined: "network name members",
    schema.RunEnded: "exit node lease outputs",
    schema.PingResult: "node path rtt_ms lost",
    schema.Check: "check ok finding advice",
    schema.RoundTrips: "min median max",
    schema.ErrorFields: "code message hint retryable",
}


@pytest.mark.parametrize("kind", CONTRACT)
def test_the_keys_that_scripts_rely_on_are_there(kind: type[msgspec.Struct]) -> None:
    assert set(CONTRACT[kind].split()) <= set(kind.__struct_encode_fields__)


@pytest.mark.parametrize("network", ["none", "proxy", "bridge"])
def test_create_takes_every_network_that_run_does_for_its_provider_says_which_it_lends(
    network: str,
) -> None:
    asked = {"target": "any", "network": network}
    assert msgspec.convert(asked, container_schema.CreateRequest).network == network
    assert msgspec.convert({**asked, "argv": ["true"]}, schema.RunRequest).network == network


def test_a_person_is_told_once_what_a_slow_answer_waits_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "SILENCE_S", 0.02)
    here, there = socket.socketpair()
    told: list[str] = []
    with here, there:
        connection.say_if_slow(here, lambda: told.append("slow"))
        assert told == ["slow"]
        there.sendall(b"answer")
        connection.say_if_slow(here, lambda: told.append("again"))
        assert told == ["slow"]


def test_the_sentence_names_who_is_waited_for(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "select", lambda *_: ([], [], []))
    told: list[str] = []
    client = ControlClient(str(home), tell=told.append)
    client.status()
    client.ping(PEER, 1)
    assert told == ["waiting for the node, which is busy...", f"waiting for {PEER} to answer..."]
