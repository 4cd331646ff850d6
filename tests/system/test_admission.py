"""Being let in and put out, with real daemons; open networks, policy and metadata."""

from __future__ import annotations

import asyncio
import http.server
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from p2prc.node.framed import FramedStream
from p2prc.protocol.messages import (
    HELLO_FRAME_LIMIT_BYTES,
    Admitted,
    Ask,
    AskWaits,
    Refused,
    opening_codec,
)
from tests.system.nodes import NodeUnderTest, sees_all, wait_until
from tests.system.raw_peer import raw_peer

MakeNodes = Callable[..., list[NodeUnderTest]]
DEAD_HOST_LIMIT_S = 5.0


def door_of(node: NodeUnderTest) -> str:
    """The node's address with its id: what to ask at where nothing but UDP gets through."""
    return f"{node.id}@{node.addresses[0]}"


def asking(node: NodeUnderTest, at: NodeUnderTest) -> subprocess.Popen[str]:
    return node.start("--json", "join", at.addresses[0])


def waits_at(node: NodeUnderTest, *names: str) -> bool:
    return [row["name"] for row in node.json("requests")] == list(names)


def finished(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=30)
    return process.returncode, out, err


def test_ask_compare_approve_and_put_out(make_nodes: MakeNodes) -> None:
    founder, member = make_nodes(2)
    (newcomer,) = make_nodes(1, joined=False)
    # Asked at a member that may not decide: the founder sees it too, and decides.
    waiting = asking(newcomer, member)
    wait_until(lambda: waits_at(founder, newcomer.name), "the founder sees who asks")
    [row] = founder.json("requests")
    assert row["id"] == newcomer.id
    assert row["via"] == member.id
    assert row["address"].startswith(("127.0.0.1:", "[::1]:"))
    assert set(row) >= {"id", "name", "fingerprint", "asked_at", "address"}
    assert member.p2prc("--json", "approve", newcomer.name, status=5).error["code"] == (
        "right-missing"
    )
    assert newcomer.json("status")["members"] == 1
    founder.p2prc("approve", row["fingerprint"])
    status, out, err = finished(waiting)
    assert status == 0, err
    assert json.loads(out)["network"] == founder.id
    assert f"that node: {member.id[:4]}-{member.id[4:8]}-" in err
    assert f"this node: {row['fingerprint']}" in err
    assert founder.json("requests") == []
    everybody = (founder, member, newcomer)
    wait_until(lambda: all(sees_all(node, everybody) for node in everybody), "they see each other")
    assert newcomer.p2prc("--json", "invite", status=5).error["code"] == "right-missing"

    # It runs something everywhere when it is put out.
    works = [newcomer.start("run", node.name, "--", "sleep", "60") for node in (founder, member)]
    for node in (founder, member):
        wait_until(lambda node=node: len(node.json("leases")) == 1, "it works there")  # type: ignore[misc]
    assert member.p2prc("--json", "revoke", newcomer.name, status=5).error["code"] == (
        "right-missing"
    )
    assert newcomer.p2prc("--json", "revoke", founder.name, status=5).error["code"] == (
        "right-missing"
    )
    for node in (founder, newcomer):
        said = node.p2prc("--json", "revoke", node.name, status=5)
        assert "`p2prc" in said.error["hint"]
    old_ticket = founder.p2prc("invite", "--lan").out.strip()
    assert founder.json("revoke", newcomer.name)["id"] == newcomer.id
    for node in (founder, member):
        wait_until(lambda node=node: node.json("leases") == [], "its leases are gone")  # type: ignore[misc]
        wait_until(
            lambda node=node: newcomer.name not in node.states(),  # type: ignore[misc]
            "it is not in the network any more",
        )
    for work in works:
        assert finished(work)[0] in (6, 7, 125)
    wait_until(
        lambda: "put out" in " ".join(newcomer.json("status")["notices"]), "it knows what happened"
    )
    checks = {
        check["check"]: check
        for check in json.loads(newcomer.p2prc("--json", "doctor", status=None).out)
    }
    assert "put out" in checks["network"]["finding"]
    said = newcomer.p2prc("--json", "run", founder.name, "--", "true", status=125)
    assert said.error["code"] == "revoked"
    # It is a member by its own table, and yet nobody has let it in.
    said = newcomer.p2prc("--json", "join", founder.addresses[0], status=5)
    assert said.error["code"] == "revoked"
    # Not with an old ticket, not after a restart of the others, not by asking.
    newcomer.p2prc("leave")
    founder.kill_9()
    founder.up()
    said = newcomer.p2prc("--json", "join", old_ticket, status=None)
    wait_until(
        lambda: _told(newcomer.p2prc("--json", "join", old_ticket, status=None).err, "revoked"),
        f"the ticket is refused: {said}",
    )
    wait_until(lambda: member.states().get(founder.name) == "alive", "the founder is back")
    again = asking(newcomer, founder)
    wait_until(lambda: waits_at(founder, newcomer.name), "it may ask")
    said = founder.p2prc("--json", "approve", newcomer.name, status=5)
    assert said.error["code"] == "revoked"
    assert "new home" in said.error["hint"]
    founder.p2prc("requests", "--deny", newcomer.name)
    status, _, err = finished(again)
    assert (status, _told(err, "request-denied")) == (5, True)


def _told(err: str, code: str) -> bool:
    return f'"code": "{code}"' in err


def test_who_changes_its_mind_is_asked_for_no_more(make_nodes: MakeNodes) -> None:
    founder, newcomer = make_nodes(2, joined=False)
    waiting = asking(newcomer, founder)
    wait_until(lambda: waits_at(founder, newcomer.name), "it asks")
    waiting.send_signal(signal.SIGINT)
    assert finished(waiting)[0] == 130
    wait_until(lambda: waits_at(founder), "nobody asks any more")
    said = newcomer.p2prc("--json", "join", door_of(founder), "--timeout", "4s", status=6)
    assert said.error["code"] == "peer-busy"
    wait_until(lambda: waits_at(founder), "nobody asks any more")
    assert newcomer.json("status")["network"] == newcomer.id


def test_an_open_network_lets_in_whoever_asks_and_stays_open(make_nodes: MakeNodes) -> None:
    (founder,) = make_nodes(1, "--open", joined=False)
    assert founder.json("status")["open"] is True
    assert "anyone may join" in founder.p2prc("status").out
    founder.kill_9()
    founder.up()
    assert founder.json("status")["open"] is True
    second, third = make_nodes(2, joined=False)
    second.p2prc("join", door_of(founder))
    # At any member, also one that may not invite.
    third.p2prc("down")
    third.up("--join", door_of(second))
    assert third.json("status")["open"] is True
    assert third.json("status")["network"] == founder.id
    assert third.p2prc("--json", "invite", status=5).error["code"] == "right-missing"
    # Who has a network of others cannot make it open.
    second.p2prc("down")
    second.up("--open")
    second.p2prc("down")
    (closed,) = make_nodes(1, joined=False)
    (guest,) = make_nodes(1, joined=False)
    guest.p2prc("join", closed.p2prc("invite", "--lan").out.strip())
    guest.p2prc("down")
    said = guest.p2prc("--json", "up", "--detach", "--listen", "127.0.0.1:0", "--open", status=3)
    assert said.error["code"] == "already-in-network"
    assert "leave" in said.error["hint"]


def test_others_work_never_runs_without_isolation_where_anybody_may_come_in(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    (guest,) = make_nodes(1, joined=False)
    bare = NodeUnderTest(tmp_path / "bare", "bare")
    bare.up("--runtime", "process")
    bare_work = ("run", "bare", "--tier", "none", "--", "echo", "in")
    try:
        runtimes = bare.json("status")["lending"]["runtimes"]
        assert ("process", "none") in {(each["name"], each["tier"]) for each in runtimes}
        # Its owner trusts the guest.
        named = bare.home / "host-access"
        named.write_text(f"{guest.id}\n{bare.id}\n")
        named.chmod(0o600)
        bare.p2prc("policy", "set", "lend.leases", "9")
        guest.p2prc("join", bare.p2prc("invite", "--lan").out.strip())
        assert guest.p2prc(*bare_work).out == "in\n"
        # Trust or not: who is denied gets nothing.
        bare.p2prc("policy", "deny", guest.id)
        assert _refused_work(guest) == "policy-refuses"
        bare.p2prc("policy", "allow", guest.id)
        assert guest.p2prc(*bare_work).out == "in\n"
        for node in (guest, bare):
            node.p2prc("leave")
        bare.p2prc("down")
        bare.up("--runtime", "process", "--open")
        guest.p2prc("join", door_of(bare))
        assert _refused_work(guest) == "policy-refuses"
        assert bare.p2prc(*bare_work).out == "in\n"
        bare.p2prc("revoke", guest.id)
        assert _refused_work(guest) in ("peer-unreachable", "node-unknown", "revoked")
    finally:
        bare.p2prc("down")


def _refused_work(guest: NodeUnderTest) -> str:
    said = guest.p2prc("--json", "run", "bare", "--tier", "none", "--", "echo", "in", status=None)
    assert said.status != 0
    assert "in" not in said.out.split()
    return str(said.error["code"])


def test_the_owner_denies_and_allows_while_it_runs(make_nodes: MakeNodes) -> None:
    owner, peer = make_nodes(2)
    config = owner.home / "config.toml"
    config.write_text("# mine\n[lend]\nlifetime = '12h'  # long enough\n")
    work = peer.start("run", owner.name, "--", "sleep", "60")
    wait_until(lambda: len(owner.json("leases")) == 1, "it works there")
    rules = {rule["key"]: rule for rule in owner.json("policy", "deny", peer.name)}
    assert rules["lend.deny"]["value"] == peer.id
    assert rules["lend.deny"]["origin"] == "config.toml"
    assert owner.json("leases") == [] or owner.json("leases")[0]["state"] == "ending"
    status, _, err = finished(work)
    assert status != 0
    assert "lends to you no longer" in err
    said = peer.p2prc("--json", "run", owner.name, "--", "true", status=125)
    assert said.error["code"] == "policy-refuses"
    assert "# mine" in config.read_text()
    assert "# long enough" in config.read_text()
    owner.kill_9()
    owner.up()
    wait_until(lambda: peer.states().get(owner.name) == "alive", "it is back")
    assert peer.p2prc("run", owner.name, "--", "true", status=125).status == 125
    owner.p2prc("policy", "allow", peer.name)
    assert peer.p2prc("run", owner.name, "--", "echo", "in").out == "in\n"
    owner.p2prc("policy", "set", "lend.to", "none")
    assert peer.p2prc("run", owner.name, "--", "true", status=125).status == 125
    owner.p2prc("policy", "allow", peer.id)
    wait_until(lambda: _lends(owner, seen_from=peer), "the peer has heard that it lends again")
    assert peer.p2prc("run", owner.name, "--", "echo", "named").out == "named\n"
    for key, value in (("lend.to", "everybody"), ("lend.everything", "1"), ("name", "x")):
        assert owner.p2prc("--json", "policy", "set", key, value, status=3).error["code"] == (
            "setting-invalid"
        )
    assert owner.p2prc("--json", "policy", "set", "lend.cpus", "-3", status=3).error["code"] == (
        "setting-invalid"
    )
    assert owner.p2prc("--json", "policy", "deny", owner.name, status=3).error["code"] == (
        "invalid-input"
    )
    owner.p2prc("policy", "set", "lend.cpus", "0.5")
    said = peer.p2prc("--json", "run", owner.name, "--cpus", "1", "--", "true", status=125)
    assert "at most 0.5 cores" in said.error["message"]


def _lends(node: NodeUnderTest, *, seen_from: NodeUnderTest) -> bool:
    rows = {row["name"]: row for row in seen_from.json("nodes")}
    return bool(rows[node.name]["lending"])


def test_metadata_is_seen_everywhere_and_outlives_the_daemon(make_nodes: MakeNodes) -> None:
    owner, peer = make_nodes(2)
    owner.p2prc("metadata", "room=kitchen", "owner=Ada Lovelace")

    def seen() -> dict[str, str]:
        rows = {row["id"]: row for row in peer.json("nodes")}
        found: dict[str, str] = rows[owner_id]["metadata"]
        return found

    owner_id = owner.id
    wait_until(lambda: seen() == {"room": "kitchen", "owner": "Ada Lovelace"}, "the peer sees it")
    owner.kill_9()
    owner.up()
    owner.p2prc("metadata", "room=")
    wait_until(lambda: seen() == {"owner": "Ada Lovelace"}, "the peer sees the change")
    assert owner.json("metadata") == {"owner": "Ada Lovelace"}
    for bad in ("=x", "a b=c", f"long={'x' * 500}", "control=\x1b[2J"):
        assert owner.p2prc("metadata", bad, status=3).status == 3
    many = [f"key{number}={'v' * 190}" for number in range(20)]
    assert owner.p2prc("metadata", *many, status=3).status == 3
    assert owner.json("metadata") == {"owner": "Ada Lovelace"}
    assert owner.p2prc("metadata", "noequals", status=2).status == 2


def test_who_leaves_loses_its_leases_at_once(make_nodes: MakeNodes) -> None:
    lender, leaver = make_nodes(2)
    work = leaver.start("run", lender.name, "--", "sleep", "60")
    wait_until(lambda: len(lender.json("leases")) == 1, "it works there")
    leaver.p2prc("leave")
    wait_until(lambda: lender.json("leases") == [], "nothing of it is left", timeout_s=20)
    assert finished(work)[0] != 0


async def test_strangers_that_ask_learn_nothing_and_are_bounded(make_nodes: MakeNodes) -> None:
    (target,) = await asyncio.to_thread(make_nodes, 1)
    async with raw_peer(target) as peer:
        waiting = None
        for number in range(20):
            stream = await (await peer.dial()).open_stream()
            framed = FramedStream(stream, opening_codec, limit_bytes=HELLO_FRAME_LIMIT_BYTES)
            await framed.send(Ask(name=f"evil\x1b[2J {number}"))
            answer = await framed.receive(timeout_s=15)
            assert isinstance(answer, AskWaits | Refused), answer
            if isinstance(answer, AskWaits):
                waiting = framed
            if isinstance(answer, Refused):
                assert answer.code == "peer-busy"
                assert target.name not in answer.message
        rows = await asyncio.to_thread(target.json, "requests")
        assert [row["id"] for row in rows] == [peer.node]
        assert rows[0]["name"].startswith("evil-")
        assert rows[0]["name"].isprintable()
        # Whatever else it says while it waits withdraws it, and gets it nothing.
        assert waiting is not None
        await waiting.send(Admitted(b"x"))
        await asyncio.to_thread(wait_until, lambda: target.json("requests") == [], "withdrawn")


@contextmanager
def answering(content: bytes, *, status: int = 200) -> Iterator[str]:
    """A web server that is no node; gives its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path_factory.mktemp("alone") / "alone", "alone")
    node.up()
    yield node
    node.stop()


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"<html>hello</html>", 200),
        (b'{"id": "abc", "relay": "/relay", "version": 2}', 200),
        (b'{"id": "' + b"ab" * 32 + b'"}', 404),
        (b"x" * 100_000, 200),
        (b"[" * 5000, 200),
        (b"", 200),
    ],
)
def test_something_else_answers_there(alone: NodeUnderTest, content: bytes, status: int) -> None:
    with answering(content, status=status) as address:
        said = alone.p2prc("--json", "join", address, status=6)
    assert said.error["code"] == "not-p2prc"
    assert address in said.error["message"]


def test_nobody_and_nothing_and_oneself(alone: NodeUnderTest) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{held.getsockname()[1]}"
        assert _seconds(alone, "join", dead, code="peer-unreachable", status=6) < DEAD_HOST_LIMIT_S
        held.listen()
        # It takes the connection and says nothing.
        assert _seconds(alone, "join", dead, code="not-p2prc", status=6) < DEAD_HOST_LIMIT_S
    somebody = "ab" * 32 + "@127.0.0.1:9"
    assert _seconds(alone, "join", somebody, code="peer-unreachable", status=6) < DEAD_HOST_LIMIT_S
    said = alone.p2prc("--json", "join", alone.addresses[0], status=3)
    assert "that is this node" in said.error["message"]
    for text in ("not an address!", "host:99999999", "ab@host", "[::1", "[::1]8088"):
        assert alone.p2prc("--json", "join", text, status=3).error["code"] == "setting-invalid"
    said = alone.p2prc("--json", "join", "no-such-host.invalid", status=None)
    assert said.status in (4, 6)


def _seconds(node: NodeUnderTest, *words: str, code: str, status: int) -> float:
    began = time.monotonic()
    said = node.p2prc("--json", *words, status=status)
    assert said.error["code"] == code, said.err
    assert said.error["hint"]
    return time.monotonic() - began


def test_a_qr_code_goes_beside_the_ticket(alone: NodeUnderTest) -> None:
    said = alone.p2prc("invite", "--lan", "--qr")
    assert said.out.count("\n") == 1
    assert "\u2580" in said.err


def test_hints_name_the_home_that_was_given(alone: NodeUnderTest, tmp_path: Path) -> None:
    said = NodeUnderTest(tmp_path / "none", "none").p2prc("status", status=9)
    assert f"`p2prc --home {tmp_path / 'none'} up --detach`" in said.err
