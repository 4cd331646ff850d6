"""A real router opens our port by each protocol, closes it again, and what it cannot do is told."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from p2prc.reachability.gateway import default_gateway
from tests.nat.lab import Host, Lab, Router, why_not
from tests.nat.nodes import LabNode, commands_between, pairs_of
from tests.nat.rules import Nat
from tests.nat.services import mapping_service
from tests.system.nodes import wait_until

PORT = 8088


@pytest.fixture(scope="module")
def home(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Router, Host]]:
    if reason := why_not("miniupnpd"):
        pytest.skip(reason)
    router = lab.router("maps", Nat.PORT_RESTRICTED)
    host = lab.host("maps-host", behind=router)
    with mapping_service(router, tmp_path_factory.mktemp("mapping")):
        yield router, host


@contextmanager
def mapped(host: Host, *methods: str) -> Iterator[dict[str, Any]]:
    """What the router said to the host, which closes its port at the end."""
    process = subprocess.Popen(
        [*host.within, sys.executable, "-m", "tests.nat.map_port", str(PORT), *methods],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield json.loads(process.stdout.readline())
    finally:
        process.communicate(timeout=20)


def reaches(outside: Host, inner: Host, address: tuple[str, int]) -> tuple[bool, bool]:
    """Whether a stranger's packets arrive by UDP and by TCP."""
    with (
        inner.udp(PORT, timeout_s=1.0) as waiting,
        outside.udp() as sending,
        inner.socket(socket.AF_INET, socket.SOCK_STREAM) as listening,
        outside.socket(socket.AF_INET, socket.SOCK_STREAM) as dialling,
    ):
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("0.0.0.0", PORT))
        listening.listen()
        sending.sendto(b"hello", address)
        try:
            by_udp = waiting.recvfrom(10)[0] == b"hello"
        except TimeoutError:
            by_udp = False
        dialling.settimeout(1.0)
        try:
            dialling.connect(address)
        except OSError:
            return by_udp, False
        return by_udp, True


@pytest.mark.parametrize("method", ["pcp", "nat-pmp", "upnp"])
def test_each_protocol_opens_the_port_and_closes_it(
    lab: Lab, home: tuple[Router, Host], method: str
) -> None:
    router, host = home
    outside = lab.host(f"outside-{method}")
    with mapped(host, method) as told:
        assert told.get("method") == method, told
        assert told["host"] == router.address
        assert told["lifetime_s"] > 60
        assert reaches(outside, host, (told["host"], told["port"])) == (True, True)
    assert reaches(outside, host, (told["host"], told["port"])) == (False, False)


def test_a_node_keeps_its_port_as_it_moves_and_gives_it_back_when_it_stops(
    lab: Lab, home: tuple[Router, Host], tmp_path: Path
) -> None:
    router, _ = home
    host = lab.host("maps-node", behind=router)
    node = LabNode(tmp_path, host)

    def is_open() -> bool:
        """Whether TCP leads to the node: iroh opens a UDP port by itself, and leaves it open."""
        rules = router.run("nft", "list", "chain", "inet", "lab", "mapped").splitlines()
        to_node = [rule for rule in rules if f"dnat ip to {host.address}:8088" in rule]
        return any(" 0x6 " in rule or "tcp dport" in rule for rule in to_node)

    try:
        node.up()
        wait_until(is_open, "its port is open", timeout_s=30)
        checks = {row["check"]: row for row in node.p2prc("--json", "doctor", status=None).data}
        assert f"opened {router.address}:" in checks["port mapping"]["finding"]
        host.change_address("192.168.1.77")
        wait_until(is_open, "its port follows it", timeout_s=20)
    finally:
        node.p2prc("down", status=None)
    assert not is_open()


def test_the_second_in_a_house_gets_another_port(lab: Lab, home: tuple[Router, Host]) -> None:
    router, first = home
    second = lab.host("maps-second", behind=router)
    with (
        mapped(first, "pcp", "nat-pmp", "upnp") as one,
        mapped(second, "pcp", "nat-pmp", "upnp") as two,
    ):
        assert one["port"] != two["port"]
        outside = lab.host("outside-second")
        assert reaches(outside, second, (two["host"], two["port"])) == (True, True)


def test_a_router_that_opens_nothing_is_said_to_be_one_soon(lab: Lab) -> None:
    host = lab.host("deaf-host", behind=lab.router("deaf", Nat.PORT_RESTRICTED))
    with mapped(host, "pcp", "nat-pmp", "upnp") as told:
        assert "no answer" in told["error"]
        assert told["took_s"] < 4


def test_the_gateway_is_the_best_default_route(tmp_path: Path) -> None:
    routes = tmp_path / "route"
    routes.write_text(
        "Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\n"
        "lo\t0000007F\t00000000\t0001\t0\t0\t0\t000000FF\n"
        "slow\t00000000\t0200007F\t0003\t0\t0\t600\t00000000\n"
        "fast\t00000000\t0300007F\t0003\t0\t0\t100\t00000000\n"
        "off\t00000000\t0400007F\t0002\t0\t0\t1\t00000000\n"
    )
    found = default_gateway(routes)
    assert found is not None
    assert (found.host, found.interface) == ("127.0.0.3", "fast")
    routes.write_text("nothing\n")
    assert default_gateway(routes) is None
    assert default_gateway(tmp_path / "none") is None


def test_friends_without_a_public_machine_meet_by_a_mapped_port(
    lab: Lab, home: tuple[Router, Host], tmp_path: Path
) -> None:
    _, host = home
    nodes = [
        LabNode(tmp_path, place)
        for place in (
            host,
            lab.host("friend-cone", behind=lab.router("friend1", Nat.PORT_RESTRICTED)),
            lab.host("friend-sym", behind=lab.router("friend2", Nat.SYMMETRIC)),
        )
    ]
    try:
        for node in nodes:
            node.up()
        began = time.monotonic()
        invitation = nodes[0].json("invite")
        assert time.monotonic() - began < 15
        assert invitation["reach"] == "internet"
        for node in nodes[1:]:
            node.p2prc("join", invitation["ticket"])
        ways = commands_between(pairs_of(nodes))
        assert all(way.is_there for way in ways), [str(way) for way in ways]
        mapping = next(
            check
            for check in nodes[0].p2prc("--json", "doctor", status=None).data
            if check["check"] in ("port mapping", "reachability")
        )
        assert mapping["ok"], mapping
    finally:
        for node in nodes:
            node.p2prc("down", status=None)


@pytest.mark.parametrize(
    ("network", "said", "has_service"),
    [("10.9.9", "two routers", True), ("100.64.7", "carrier", False)],
)
def test_two_routers_in_a_row_are_found(
    lab: Lab, tmp_path: Path, network: str, said: str, has_service: bool
) -> None:
    if reason := why_not("miniupnpd"):
        pytest.skip(reason)
    name = network.partition(".")[0]
    outer = lab.router(f"outer{name}", Nat.PORT_RESTRICTED, inside=network)
    inner = lab.router(f"inner{name}", Nat.PORT_RESTRICTED, behind=outer)
    node = LabNode(tmp_path, lab.host(f"double{name}", behind=inner))
    with mapping_service(inner, tmp_path) if has_service else nullcontext():
        try:
            node.up()
            refused = node.p2prc("invite", status=6)
            assert "--relay" in refused.err
            checks = {row["check"]: row for row in node.p2prc("--json", "doctor", status=6).data}
            assert said in checks["nat"]["finding"]
            assert not checks["nat"]["ok"]
        finally:
            node.p2prc("down", status=None)
