"""Ports of other machines, brought here: real nodes, real sockets."""

from __future__ import annotations

import socket
import socketserver
from pathlib import Path

import pytest

from tests.system.conftest import MakeNodes
from tests.system.echo import Threaded, echoing, talk
from tests.system.nodes import NodeUnderTest, wait_until


@pytest.fixture
def pair(make_nodes: MakeNodes) -> list[NodeUnderTest]:
    return make_nodes(2)


def test_ports_of_a_node_only_where_its_owner_names_them(
    pair: list[NodeUnderTest], tmp_path: Path
) -> None:
    ada, grace = pair
    with echoing(Threaded) as port, echoing(socketserver.UDPServer) as datagram_port:
        local = ada.p2prc("forward", grace.name, f"0:{port}").out.strip()
        # Nothing is lent: the connection ends, and the row says why.
        assert talk(local, b"hello") == b""
        assert "does not let others reach" in ada.json("tunnels")[0]["trouble"]
        grace.p2prc(
            "policy", "set", "forward.ports", f"{port},{datagram_port},echo=127.0.0.1:{port}"
        )
        large = bytes(range(256)) * 20_000
        assert talk(local, large) == large + b"bye"
        path = tmp_path / "echo.sock"
        ada.p2prc("forward", grace.name, f"{path}:echo")
        assert talk(str(path), b"by name") == b"by namebye"
        rows = ada.json("tunnels")
        assert rows[0]["bytes_in"] == len(large) + 3
        # What was said to the closed door may have left before the answer came.
        assert rows[0]["bytes_out"] in (len(large), len(large) + len(b"hello"))
        assert [row["trouble"] for row in rows] == ["", ""]

        row = ada.json("forward", grace.name, f"0:{datagram_port}", "--udp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(10)
            client.connect(("127.0.0.1", int(row["local"].rpartition(":")[2])))
            for content in (b"one", b"two" * 400):
                client.send(content)
                assert client.recv(1 << 16) == b"echo " + content

        # Both sides come back, and so does the forward.
        grace.kill_9()
        ada.kill_9()
        grace.up()
        ada.up()
        assert [each["id"] for each in ada.json("tunnels")] == [
            rows[0]["id"],
            rows[1]["id"],
            row["id"],
        ]
        wait_until(lambda: talk(local, b"again") == b"againbye", "the forward works again")

        grace.p2prc("policy", "deny", ada.name)
        assert talk(local, b"hello") == b""
    said = ada.p2prc("unexpose", rows[0]["id"])
    assert said.out.strip() == rows[0]["id"]
    with pytest.raises(ConnectionRefusedError):
        talk(local, b"")
    assert len(ada.json("tunnels")) == 2


def test_ports_of_containers(pair: list[NodeUnderTest]) -> None:
    ada, grace = pair
    lease = ada.json(
        "create", grace.name, "--name", "web", "--", "python", "-m", "http.server", "8123"
    )
    local = ada.p2prc("forward", "web", "8123").out.strip()
    wait_until(
        lambda: talk(local, b"GET / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.0 200"), "it serves"
    )
    assert ada.json("tunnels")[0]["lease"] == lease["id"]
    ada.p2prc("rm", "web")
    assert talk(local, b"GET / HTTP/1.0\r\n\r\n") == b""
    assert ada.json("tunnels")[0]["trouble"]


def test_bad_input_is_said(pair: list[NodeUnderTest]) -> None:
    ada, grace = pair
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        said = ada.p2prc("--json", "forward", grace.name, f"{port}:80", status=8)
        assert said.error["code"] == "port-taken"
    for words, status in (
        (("nobody", "80"), 4),
        ((grace.name, "70000:80"), 3),
        ((grace.name, "http:80"), 3),
        ((grace.name, "/nowhere/x.sock:80"), 8),
    ):
        assert ada.p2prc("--json", "forward", *words, status=status).error["message"]
    for value in ("0", "70000", "9-8", "x=1", "X=127.0.0.1:80", "a=host:0", "a=b/c:80", "80;90"):
        assert grace.p2prc("policy", "set", "forward.ports", value, status=None).status == 3, value
    assert ada.p2prc("unexpose", "ff", status=4).err.startswith("error: no tunnel has the id")
    assert ada.json("tunnels") == []
