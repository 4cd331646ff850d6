"""The relay that every node serves, as its daemon opens it."""

from __future__ import annotations

import json
import os
import socket
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from p2prc.authority import Rights, admit, found_network, shown_half
from p2prc.model.identity import NodeId
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.messages import PROTOCOL_VERSION
from p2prc.relay.admission import member_bearer
from p2prc.wire.signed import public_key_of
from tests.system.conftest import MakeNodes
from tests.system.nodes import NodeUnderTest
from tests.unit.relay_clients import admitted, client


@dataclass(frozen=True)
class Relay:
    """The relay of a node."""

    port: int


def relay_of(node: NodeUnderTest) -> Relay:
    return Relay(node.json("status")["relay"]["port"])


async def test_a_node_relays_for_members_of_its_network_alone(make_nodes: MakeNodes) -> None:
    [node] = make_nodes(1)
    relay, network = relay_of(node), NodeId(node.id)
    assert f"127.0.0.1:{relay.port}" in node.addresses
    with urllib.request.urlopen(f"http://127.0.0.1:{relay.port}/.well-known/p2prc") as answer:
        assert json.load(answer) == {"id": node.id, "relay": "/relay", "protocol": PROTOCOL_VERSION}
    founders = found_network(node.key)
    secret = os.urandom(32)
    joiner = NodeId(public_key_of(secret).hex())
    chain = admit(founders, network=network, secret=node.key, joiner=joiner, rights=Rights())
    ticket = node.json("invite", "--lan")["ticket"]
    async with (
        admitted(relay, node.key, bearer=member_bearer(founders)) as founder,
        admitted(relay, secret, bearer=member_bearer(chain)) as member,
        admitted(relay, 1, bearer=shown_half(ticket)) as newcomer,
        client(relay, 2, bearer=member_bearer(chain)) as thief,
        client(relay, 3) as stranger,
    ):
        for refused in (thief, stranger):
            assert (await refused.prove())[:1] == bytes([frames.FrameType.DENY])
        await newcomer.send(member.key, b"not allowed")
        await member.send(founder.key, b"hello")
        assert await founder.hear() == b"\x06" + member.key + b"\x00hello"
        await newcomer.send(founder.key, b"let me in")
        assert await founder.hear() == b"\x06" + newcomer.key + b"\x00let me in"
        told = node.json("status")["relay"]
        assert told["clients"] == 3
        assert told["forwarded_bytes"] > 0
        assert told["refusals"] == {"not-member": 2, "guest-elsewhere": 1}
        assert "3 clients, 3 refused" in node.p2prc("status").out
        node.p2prc("leave")
        for former in (founder, member, newcomer):
            with pytest.raises(ConnectionClosed):
                await former.hear()


async def test_who_was_put_out_is_relayed_for_no_longer(make_nodes: MakeNodes) -> None:
    host, guest = make_nodes(2)
    relay, secret = relay_of(host), guest.key
    founders = found_network(host.key)
    node = NodeId(guest.id)
    chain = admit(founders, network=NodeId(host.id), secret=host.key, joiner=node, rights=Rights())
    async with (
        admitted(relay, host.key, bearer=member_bearer(founders)) as founder,
        admitted(relay, secret, bearer=member_bearer(chain)) as member,
    ):
        host.p2prc("revoke", guest.id)
        with pytest.raises(ConnectionClosed):
            await member.hear()
        await founder.connection.send(b"\x0912345678")
        assert await founder.hear() == b"\x0a12345678"
        async with client(relay, secret, bearer=member_bearer(chain)) as again:
            assert (await again.prove())[:1] == bytes([frames.FrameType.DENY])
    assert host.json("status")["relay"]["refusals"] == {"barred": 1, "revoked": 1}


def test_a_relay_can_be_switched_off(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "quiet", "quiet", variables={"P2PRC_RELAY_SERVE": "off"})
    node.up()
    try:
        told = node.json("status")["relay"]
        assert (told["port"], told["reason"]) == (None, "switched off")
        port = int(node.addresses[0].rpartition(":")[2])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/.well-known/p2prc") as answer:
            assert json.load(answer)["relay"] == ""
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/ping")
    finally:
        node.p2prc("down")


def test_a_taken_tcp_port_is_no_reason_not_to_relay(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        node = NodeUnderTest(tmp_path / "home", "home")
        node.up("--listen", f"127.0.0.1:{port}")
        try:
            assert node.addresses[0] == f"127.0.0.1:{port}"
            assert relay_of(node).port not in (None, port)
        finally:
            node.p2prc("down")
