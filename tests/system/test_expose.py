"""Public ports at other nodes: real nodes, real sockets."""

from __future__ import annotations

import random
import socket
import socketserver
import ssl
import threading
from pathlib import Path

import pytest
from websockets.sync.client import connect
from websockets.sync.server import ServerConnection, serve

from tests.system.conftest import MakeNodes
from tests.system.echo import Threaded, echoing, talk
from tests.system.nodes import NodeUnderTest, at_once, wait_until
from tests.unit.certificate_fake import written


def _lends(node: NodeUnderTest, ports: str = "20000-29999") -> None:
    """Let members have public ports of the node, which for a test are this machine's alone."""
    node.p2prc("policy", "set", "gateway.listen", "127.0.0.1")
    for key, value in (("host", "127.0.0.1"), ("ports", ports), ("to", "members")):
        node.p2prc("policy", "set", f"gateway.{key}", value)


def _row(node: NodeUnderTest, name: str) -> dict[str, object]:
    found: list[dict[str, object]] = [row for row in node.json("tunnels") if row["name"] == name]
    assert len(found) == 1, found
    return found[0]


def test_a_service_has_a_public_port_over_restarts_and_moves_when_asked_to(
    make_nodes: MakeNodes,
) -> None:
    ada, grace, linus = make_nodes(3)
    refused = ada.p2prc("--json", "expose", "80", status=6)
    assert refused.error["code"] == "no-node-matches"
    _lends(grace)
    with echoing(Threaded) as port, echoing(socketserver.UDPServer) as datagram_port:
        public = ada.p2prc("expose", str(port), "--name", "web", "--follow").out.strip()
        large = bytes(range(256)) * 20_000
        assert talk(public, large) == large + b"bye"
        row = _row(ada, "web")
        assert (row["bytes_in"], row["bytes_out"]) == (len(large), len(large) + 3)
        lent = grace.json("tunnels")[0]
        assert (lent["kind"], lent["bytes_out"]) == ("lent", len(large))
        assert linus.json("tunnels") == []

        datagrams = ada.json("expose", str(datagram_port), "--udp", "--via", grace.name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", int(datagrams["remote"].rpartition(":")[2])))
            for content in (b"one", b"two" * 400):
                client.send(content)
                assert client.recv(1 << 16) == b"echo " + content

        # What stands behind a third node has no p2prc of its own.
        linus.p2prc("policy", "set", "forward.ports", f"printer=127.0.0.1:{port}")
        words = ("printer", "--of", linus.name, "--via", grace.name, "--name", "paper")
        assert talk(ada.p2prc("expose", *words).out.strip(), b"page") == b"pagebye"
        ada.p2prc("unexpose", "paper")

        # A service that wants to know who connects is told, before anything else.
        knowing = (str(port), "--proxy-protocol", "--via", grace.name, "--name", "told")
        said = talk(ada.p2prc("expose", *knowing).out.strip(), b"hello")
        assert (said[12:20], said[28:]) == (b"\x21\x11\x00\x0c\x7f\x00\x00\x01", b"hellobye")
        ada.p2prc("unexpose", "told")

        # Both sides come back, and the port is the same.
        grace.kill_9()
        ada.kill_9()
        at_once([grace.up, ada.up])
        wait_until(lambda: talk(public, b"again") == b"againbye", "the port works again")
        assert _row(ada, "web")["id"] == row["id"]

        # Its gateway is gone for good: another one is asked.
        _lends(linus)
        grace.p2prc("down")
        there = linus.id
        wait_until(lambda: _row(ada, "web")["node"] == there, "it moved to another", timeout_s=80)
        moved = str(_row(ada, "web")["remote"])
        assert talk(moved, b"moved") == b"movedbye"
        linus.p2prc("policy", "set", "gateway.to", "none")
        wait_until(lambda: linus.json("tunnels") == [], "the rules are in force")
        with pytest.raises(ConnectionRefusedError):
            talk(moved, b"")
    assert ada.p2prc("unexpose", "web").out.strip() == row["id"]
    assert [each["id"] for each in ada.json("tunnels")] == [datagrams["id"]]


def _speaks_tls_and_websocket(owner: NodeUnderTest, gateway: NodeUnderTest, folder: Path) -> None:
    chain = written(folder, "*.example.org")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    gateway.p2prc("policy", "set", "gateway.certificates", str(folder))
    gateway.p2prc("policy", "set", "gateway.https", str(port))

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)

    def exposed() -> bool:
        words = ("expose", str(service_port), "--domain", "ws.example.org", "--name", "ws")
        return owner.p2prc(*words, status=None).status == 0

    with serve(echo, "127.0.0.1", 0, max_size=None, open_timeout=90, ping_interval=None) as service:
        service_port = service.socket.getsockname()[1]
        thread = threading.Thread(target=service.serve_forever, daemon=True)
        thread.start()
        wait_until(exposed, "the gateway has a certificate", timeout_s=90)
        row = _row(owner, "ws")
        assert row["remote"] == f"https://ws.example.org:{port}"
        assert row["certificate_expires_at"]
        with connect(
            f"wss://ws.example.org:{port}/",
            sock=socket.create_connection(("127.0.0.1", port)),
            ssl=ssl.create_default_context(cafile=str(chain)),
            max_size=None,
            open_timeout=90,
            ping_interval=None,
        ) as client:
            for message in ("hello", random.Random(1).randbytes(1 << 20)):
                client.send(message)
                assert client.recv(timeout=90) == message
        service.shutdown()
        thread.join()
    owner.p2prc("unexpose", "ws")
    gateway.p2prc("policy", "set", "gateway.https", "none")


def test_bad_input_and_other_rules_are_said(make_nodes: MakeNodes, tmp_path: Path) -> None:
    ada, grace = make_nodes(2)
    with socket.create_server(("127.0.0.1", 0)) as taken, echoing(Threaded) as port:
        number = taken.getsockname()[1]
        _lends(grace, f"20000-20099,{number}")
        for words, status in (
            (("70000",), 3),
            (("80", "--name", "../x"), 3),
            (("80", "--public", "21000"), 5),
            (("80", "--public", str(number)), 8),
            (("80", "--domain", "no domain"), 3),
            (("80", "--domain", "a.example", "--udp"), 3),
            (("80", "--tls"), 3),
            (("80", "--via", "nobody"), 4),
            (("80", "--of", "nobody"), 4),
        ):
            said = ada.p2prc("--json", "expose", *words, status=None)
            assert said.status == status, (words, said)
            assert said.error["message"]
        assert grace.p2prc("policy", "set", "gateway.ports", "web=127.0.0.1:80", status=3).err

        # Nothing serves there: the connection is reset, and the row says why.
        silent = ada.json("expose", "9", "--name", "silent")
        assert talk(silent["remote"], b"hello") == b""
        assert "nothing answers" in str(_row(ada, "silent")["trouble"])

        # A domain: granted to one node, had once, freed by its end.
        with socket.create_server(("127.0.0.1", 0)) as free:
            http_port = free.getsockname()[1]
        words = (str(port), "--domain", "App.Example.org")
        assert ada.p2prc("--json", "expose", *words, status=6).error["code"] == "no-node-matches"
        grace.p2prc("policy", "set", "gateway.domains", f"*.example.org={ada.id}")
        grace.p2prc("policy", "set", "gateway.http", str(http_port))
        wait_until(
            lambda: ada.p2prc("expose", *words, "--name", "app", status=None).status == 0,
            "the gateway listens for domains",
            timeout_s=90,
        )
        assert _row(ada, "app")["remote"] == f"http://app.example.org:{http_port}"
        here = f"127.0.0.1:{http_port}"
        request = b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n"
        # What the service says is no HTTP; for a host of nobody it is not even asked.
        assert talk(here, request % b"app.example.org").startswith(b"HTTP/1.1 502 ")
        assert talk(here, request % b"other.example.org").startswith(b"HTTP/1.1 404 ")
        second = ada.p2prc("--json", "expose", *words, "--via", grace.name, status=5)
        assert second.error["code"] == "domain-taken"
        ada.p2prc("unexpose", "app")
        wait_until(
            lambda: talk(here, request % b"app.example.org").startswith(b"HTTP/1.1 404 "),
            "it is freed",
            timeout_s=90,
        )
        grace.p2prc("policy", "set", "gateway.http", "none")
        _speaks_tls_and_websocket(ada, grace, tmp_path)

        # So much and no more.
        grace.p2prc("policy", "set", "gateway.per_peer.ports", "2")
        public = ada.json("expose", str(port), "--lifetime", "1h")
        assert public["expires_at"]
        assert ada.p2prc("--json", "expose", str(port), status=6).error["code"] == "peer-busy"
        grace.p2prc("policy", "set", "gateway.connections", "1")
        host, _, public_port = public["remote"].rpartition(":")
        with socket.create_connection((host, int(public_port)), timeout=10) as first:
            first.sendall(b"first")
            assert first.recv(10) == b"first"
            assert talk(public["remote"], b"second") == b""
        wait_until(
            lambda: talk(public["remote"], b"third") == b"thirdbye", "there is room once more"
        )
        grace.p2prc("policy", "set", "gateway.traffic", "10K")
        assert talk(public["remote"], b"x" * 100_000) != b"x" * 100_000 + b"bye"
        assert talk(public["remote"], b"more") == b""
        # The gateway's owner may end it as well.
        grace.p2prc("unexpose", public["id"])
        with pytest.raises(ConnectionRefusedError):
            talk(public["remote"], b"")
