"""Real multicast on one local network: nodes find their own, whatever strangers say."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from p2prc.model.identity import NodeId
from p2prc.reachability.lan import KIND, Lan, LanUnavailable, open_lan
from p2prc.reachability.lan_word import seal
from tests.nat.lab import Host, Lab, Router, inside
from tests.nat.nodes import LabNode
from tests.nat.rules import Nat
from tests.system.nodes import at_once, wait_until

ADA, BOB, EVE, HOME, OTHER = (NodeId(digit * 64) for digit in "abe12")
GROUP = ("224.0.0.251", 5353)
TTL_S = 120
A, PTR, TXT, SRV = 1, 12, 16, 33


@pytest.fixture(scope="module")
def home(lab: Lab) -> Iterator[Router]:
    yield lab.router("lan-home", Nat.PORT_RESTRICTED)


class Listening:
    """A node's ear on the local network, on a host of the lab, in a thread of its own."""

    def __init__(self, host: Host, node: NodeId, network: NodeId) -> None:
        self.found: dict[NodeId, tuple[str, ...]] = {}
        self.lan: Lan | None = None
        self._loop = asyncio.new_event_loop()
        self._at = (host, node, network)
        self._thread = threading.Thread(target=self._serve)
        self._ready, self._over = threading.Event(), asyncio.Event()

    def _serve(self) -> None:
        with inside(self._at[0].namespace):
            self._loop.run_until_complete(self._listen())
        self._loop.close()

    async def _listen(self) -> None:
        host, node, network = self._at
        self.lan = await open_lan(network, node, 8088, [host.address], found=self._take)
        self._ready.set()
        await self._over.wait()
        await self.lan.close()

    def _take(self, node: NodeId, addresses: tuple[str, ...]) -> None:
        self.found[node] = addresses

    def __enter__(self) -> Listening:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._over.set)
        self._thread.join(10)

    def heard(self, what: str) -> int:
        return 0 if self.lan is None else self.lan.heard[what]


def test_two_networks_on_one_lan_do_not_see_each_other(lab: Lab, home: Router) -> None:
    hosts = [lab.host(f"ear-{name}", behind=home) for name in ("ada", "bob", "eve")]
    with (
        Listening(hosts[0], ADA, HOME) as ada,
        Listening(hosts[1], BOB, HOME) as bob,
        Listening(hosts[2], EVE, OTHER) as eve,
    ):
        wait_until(lambda: bool(ada.found and bob.found), "they hear each other", timeout_s=30)
        wait_until(lambda: eve.heard("foreign") >= 2, "she hears strangers", timeout_s=30)
        assert ada.found == {BOB: (f"{hosts[1].address}:8088",)}
        assert bob.found == {ADA: (f"{hosts[0].address}:8088",)}
        assert eve.found == {}


def test_a_stranger_learns_an_address_and_a_port_and_nothing_that_lasts(
    lab: Lab, home: Router
) -> None:
    host, stranger = lab.host("told", behind=home), lab.host("stranger", behind=home)
    with stranger.udp(5353, timeout_s=5.0) as ear:
        joined = socket.inet_aton(GROUP[0]) + socket.inet_aton(stranger.address)
        ear.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, joined)
        words = [_overheard(ear, host) for _ in range(2)]
    sealed = [told.partition(b"w=")[2][:80] for told in words]
    assert len(sealed[0]) == 80
    assert sealed[0] != sealed[1], "the word is new at each start"
    for told in words:
        for secret in (ADA, HOME):
            assert secret[:8].encode() not in told.lower()
            assert bytes.fromhex(secret)[:4] not in told
        # As a label of a name: the letters alone come up by chance where they are few.
        label = socket.gethostname().partition(".")[0].encode()
        assert bytes([len(label)]) + label not in told


def _overheard(ear: socket.socket, host: Host) -> bytes:
    """What a node says to everybody when it comes."""
    with Listening(host, ADA, HOME):
        while b"w=" not in (told := ear.recv(9000)):
            continue
    ear.setblocking(False)
    try:
        while True:
            ear.recv(9000)
    except BlockingIOError:
        ear.settimeout(5.0)
    return told


def announcement(label: str, word: bytes, host: str, *, port: int = 8088) -> bytes:
    """What anybody can send: a name, its text, its port and its address (RFC 1035, 6763)."""
    name, server = _name(f"{label}.{KIND}"), _name(f"{label}.local.")
    records = (
        _record(_name(KIND), PTR, name),
        _record(name, TXT, bytes([len(word) + 2]) + b"w=" + word),
        _record(name, SRV, struct.pack("!HHH", 0, 0, port) + server),
        _record(server, A, socket.inet_aton(host)),
    )
    return struct.pack("!6H", 0, 0x8400, 0, len(records), 0, 0) + b"".join(records)


def _name(text: str) -> bytes:
    labels = [each.encode() for each in text.rstrip(".").split(".")]
    return b"".join(bytes([len(each)]) + each for each in labels) + b"\0"


def _record(name: bytes, kind: int, content: bytes) -> bytes:
    return name + struct.pack("!HHIH", kind, 1, TTL_S, len(content)) + content


@contextmanager
def shouting(host: Host) -> Iterator[Callable[[bytes], None]]:
    """A stranger who sends what it likes to everybody."""
    with host.udp(5353) as mouth:
        here = socket.inet_aton(host.address)
        mouth.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)

        def shout(packet: bytes) -> None:
            mouth.sendto(packet, GROUP)

        yield shout


def test_what_strangers_say_is_refused_and_does_no_harm(lab: Lab, home: Router) -> None:
    ear, mouth, friend = (lab.host(f"hostile-{name}", behind=home) for name in ("e", "m", "f"))
    good = seal(BOB, network=HOME, port=8088, nonce=b"n" * 12)
    with Listening(ear, ADA, HOME) as ada, shouting(mouth) as shout:
        shout(announcement("short", b"x", mouth.address))
        shout(announcement("long", b"y" * 250, mouth.address))
        shout(announcement("far", good, "8.8.8.8"))
        shout(announcement("self", good, ear.address))
        shout(announcement("otherport", good, mouth.address, port=9))
        shout(b"\0" * 12)
        shout(b"\xff" * 1400)
        wait_until(lambda: ada.heard("refused") >= 4, "they are refused", timeout_s=15)
        wait_until(lambda: ada.heard("foreign") >= 1, "so is a word moved", timeout_s=15)
        assert ada.found == {}
        with Listening(friend, BOB, HOME):
            wait_until(lambda: BOB in ada.found, "a friend is heard all the same", timeout_s=30)


def test_a_flood_of_names_is_noticed(lab: Lab, home: Router) -> None:
    ear, mouth = (lab.host(f"flood-{name}", behind=home) for name in ("e", "m"))
    with Listening(ear, ADA, HOME) as ada, shouting(mouth) as shout:
        assert ada.lan is not None
        assert not ada.lan.is_flooded
        for number in range(3000):
            shout(announcement(f"n{number}", b"x", mouth.address))
            if number % 100 == 0:
                # Else the receiver's buffer drops most of it.
                time.sleep(0.01)
        wait_until(lambda: ada.lan is not None and ada.lan.is_flooded, "a flood", timeout_s=15)
        assert ada.found == {}


def test_a_machine_without_multicast_says_so(lab: Lab) -> None:
    host = lab.host("no-multicast")

    async def trial() -> str:
        try:
            lan = await open_lan(HOME, ADA, 8088, ["192.0.2.7"], found=lambda *_: None)
        except LanUnavailable as error:
            return error.message
        await lan.close()
        return "opened"

    with inside(host.namespace):
        assert "multicast" in asyncio.run(trial())


def linked(one: LabNode, other: LabNode) -> bool:
    rows = one.json("nodes")
    return any(row["name"] == other.name and row["path"] for row in rows)


def test_nodes_that_both_moved_find_each_other_on_the_local_network(
    lab: Lab, home: Router, tmp_path: Path
) -> None:
    hosts = [lab.host(f"lan-{name}", behind=home) for name in ("ada", "bob", "eve")]
    nodes = ada, bob, eve = [LabNode(tmp_path, host) for host in hosts]
    try:
        at_once(partial(node.up, "--relay", "none") for node in nodes)
        bob.p2prc("join", ada.json("invite", "--lan")["ticket"])
        at_once(partial(node.p2prc, "down") for node in (ada, bob))
        # Neither is where the other has last seen it.
        hosts[0].change_address("192.168.1.150")
        hosts[1].change_address("192.168.1.151")
        at_once(partial(node.up, "--relay", "none") for node in (ada, bob))
        wait_until(lambda: linked(ada, bob) and linked(bob, ada), "they meet", timeout_s=15)
        # She is of another network.
        assert [row["name"] for row in eve.json("nodes")] == [eve.name]
        assert {row["name"] for row in ada.json("nodes")} == {ada.name, bob.name}
    finally:
        at_once(partial(node.p2prc, "down", status=None) for node in nodes)


def test_nodes_that_move_while_they_run_find_each_other_again(
    lab: Lab, home: Router, tmp_path: Path
) -> None:
    hosts = [lab.host(f"moving-{name}", behind=home) for name in ("ada", "bob", "eve")]
    nodes = ada, bob = [LabNode(tmp_path, host) for host in hosts[:2]]
    try:
        at_once(partial(each.up, "--relay", "none", "--open") for each in nodes)
        # By address alone: whoever asks is let in.
        bob.p2prc("join", hosts[0].address)
        wait_until(lambda: linked(ada, bob) and linked(bob, ada), "they are members")
        with shouting(hosts[2]) as shout:
            shout(announcement("eve", b"x", hosts[2].address))
            wait_until(lambda: "lan-word" in ada.json("status")["refusals"], "it is counted")
        # At once: neither can tell the other where it is now.
        hosts[0].change_address("192.168.1.160")
        hosts[1].change_address("192.168.1.161")
        wait_until(
            lambda: ada.p2prc("run", bob.name, "--", "true", status=None).status == 0,
            "they meet at their new addresses",
        )
        for node, host in zip(nodes, hosts, strict=False):
            assert any(host.address in each for each in node.addresses)
    finally:
        at_once(partial(node.p2prc, "down", status=None) for node in nodes)
