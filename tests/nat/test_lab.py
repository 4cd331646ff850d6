"""The lab is what it says: NATs do what their names mean, lines are bad, nothing is left over."""

from __future__ import annotations

import ipaddress
import signal
import socket
import struct
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.nat.lab import Host, Lab, Line, leftovers, sweep, why_not
from tests.nat.rules import Nat
from tests.nat.services import iroh_relay, mapping_service, running_iroh_relay
from tests.system.nodes import wait_until


@pytest.fixture(scope="module")
def strangers(lab: Lab) -> tuple[Host, Host]:
    return lab.host("alpha"), lab.host("beta")


def home(lab: Lab, name: str, nat: Nat) -> Host:
    return lab.host(f"{name}-host", behind=lab.router(name, nat))


def seen_from(outside: socket.socket, there: Host, inner: socket.socket) -> tuple[str, int]:
    """Send a datagram out; return the address that it came from."""
    inner.sendto(b"hello", (there.address, outside.getsockname()[1]))
    _, source = outside.recvfrom(100)
    return str(source[0]), int(source[1])


def arrives(inner: socket.socket, text: bytes) -> bool:
    try:
        return inner.recvfrom(100)[0] == text
    except TimeoutError:
        return False


def test_addresses_on_the_internet_count_as_global(strangers: tuple[Host, Host]) -> None:
    for host in strangers:
        assert ipaddress.ip_address(host.address).is_global


@pytest.mark.parametrize("nat", [Nat.FULL_CONE, Nat.PORT_RESTRICTED, Nat.SYMMETRIC])
def test_each_kind_maps_and_filters_as_named(
    lab: Lab, strangers: tuple[Host, Host], nat: Nat
) -> None:
    alpha, beta = strangers
    host = home(lab, nat.value, nat)
    with alpha.udp() as first, beta.udp() as second, host.udp(timeout_s=0.3) as inner:
        by_first = seen_from(first, alpha, inner)
        first.sendto(b"answer", by_first)
        assert arrives(inner, b"answer")

        # Somebody to whom nothing was sent.
        second.sendto(b"stranger", by_first)
        assert arrives(inner, b"stranger") is (nat is Nat.FULL_CONE)

        # The same host from another port is a stranger to all but a full cone.
        with alpha.udp() as other_port:
            other_port.sendto(b"other port", by_first)
            assert arrives(inner, b"other port") is (nat is Nat.FULL_CONE)

        by_second = seen_from(second, beta, inner)
        assert (by_first == by_second) is (nat is not Nat.SYMMETRIC)
        assert (by_first[1] == inner.getsockname()[1]) is (nat is not Nat.SYMMETRIC)


def test_two_cones_can_punch_and_a_symmetric_one_cannot(
    lab: Lab, strangers: tuple[Host, Host]
) -> None:
    alpha, _ = strangers
    one, two = home(lab, "one", Nat.PORT_RESTRICTED), home(lab, "two", Nat.PORT_RESTRICTED)
    random = home(lab, "three", Nat.SYMMETRIC)

    def can_punch(left: Host, right: Host) -> bool:
        with (
            alpha.udp() as server,
            left.udp(timeout_s=0.3) as here,
            right.udp(timeout_s=0.3) as there,
        ):
            left_seen = seen_from(server, alpha, here)
            right_seen = seen_from(server, alpha, there)
            for _ in range(2):
                here.sendto(b"punch", right_seen)
                there.sendto(b"punch", left_seen)
            return arrives(here, b"punch") or arrives(there, b"punch")

    assert can_punch(one, two)
    assert not can_punch(one, random)


def test_a_second_router_and_a_carrier_show_private_outsides(
    lab: Lab, strangers: tuple[Host, Host]
) -> None:
    alpha, _ = strangers
    outer = lab.router("outer", Nat.PORT_RESTRICTED)
    inner = lab.router("inner", Nat.PORT_RESTRICTED, behind=outer, inside="192.168.2")
    carrier = lab.router("carrier", Nat.PORT_RESTRICTED, inside="100.64.0")
    customer = lab.router("customer", Nat.PORT_RESTRICTED, behind=carrier)
    assert ipaddress.ip_address(inner.address).is_private
    assert ipaddress.ip_address(customer.address) in ipaddress.ip_network("100.64.0.0/10")
    for router, shown in ((inner, outer), (customer, carrier)):
        host = lab.host(f"{router.name}-host", behind=router)
        with alpha.udp() as server, host.udp() as socket_inside:
            assert seen_from(server, alpha, socket_inside)[0] == shown.address


def test_where_udp_is_blocked_tcp_passes(lab: Lab, strangers: tuple[Host, Host]) -> None:
    alpha, _ = strangers
    office = lab.router("office", Nat.PORT_RESTRICTED, blocks_udp=True)
    host = lab.host("office-host", behind=office)
    with alpha.udp(timeout_s=0.3) as server, host.udp() as inner:
        inner.sendto(b"hello", (alpha.address, server.getsockname()[1]))
        assert not arrives(server, b"hello")
    with alpha.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.bind(("0.0.0.0", 0))
        listening.listen()
        with host.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
            client.settimeout(2)
            client.connect((alpha.address, listening.getsockname()[1]))


def test_ipv6_leads_in_and_only_answers_come_back(lab: Lab) -> None:
    other = lab.host("six-outside", ipv6=True)
    host = lab.host(
        "six-inside", behind=lab.router("six", Nat.PORT_RESTRICTED, ipv6=True), ipv6=True
    )
    with (
        other.socket(socket.AF_INET6, socket.SOCK_DGRAM) as outside,
        host.socket(socket.AF_INET6, socket.SOCK_DGRAM) as inner,
    ):
        for each in (outside, inner):
            each.settimeout(0.5)
            each.bind(("::", 0))
        address = host.run("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global")
        target = (address.split()[3].partition("/")[0], inner.getsockname()[1])
        outside.sendto(b"stranger", target)
        assert not arrives(inner, b"stranger")
        far = other.run("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "global")
        inner.sendto(b"hello", (far.split()[3].partition("/")[0], outside.getsockname()[1]))
        _, source = outside.recvfrom(100)
        assert source[:2] == target
        outside.sendto(b"answer", source)
        assert arrives(inner, b"answer")


def test_a_bad_line_is_as_slow_and_loses_as_much_as_asked(
    lab: Lab, strangers: tuple[Host, Host]
) -> None:
    alpha, _ = strangers
    far = lab.host("far", line=Line(delay_s=0.05, loss=0.1))
    round_trips = []
    with alpha.udp(timeout_s=0.25) as server, far.udp(timeout_s=0.25) as inner:
        for number in range(40):
            text = b"%d" % number
            began = time.monotonic()
            inner.sendto(text, (alpha.address, server.getsockname()[1]))
            with suppress(TimeoutError):
                heard, source = server.recvfrom(100)
                server.sendto(heard, source)
                # The first one waits for addresses to be resolved: it may come late.
                if inner.recvfrom(100)[0] == text:
                    round_trips.append(time.monotonic() - began)
    assert min(round_trips) >= 0.1
    assert sorted(round_trips)[len(round_trips) // 2] < 0.15
    assert 15 < len(round_trips) < 40


def test_an_address_changes_and_a_cable_is_pulled(lab: Lab, strangers: tuple[Host, Host]) -> None:
    alpha, _ = strangers
    host = lab.host("mover")
    with alpha.udp() as server, host.udp() as inner:
        host.change_address("11.0." + host.address.split(".")[2] + ".77")
        assert seen_from(server, alpha, inner)[0].endswith(".77")
        host.link(is_up=False)
        with pytest.raises(OSError, match="unreachable"):
            inner.sendto(b"hello", (alpha.address, 1))
        host.link(is_up=True)
        assert seen_from(server, alpha, inner)[0].endswith(".77")


def test_a_router_opens_a_port_when_it_is_asked(
    lab: Lab, strangers: tuple[Host, Host], tmp_path: Path
) -> None:
    if reason := why_not("miniupnpd"):
        pytest.skip(reason)
    alpha, _ = strangers
    router = lab.router("kind", Nat.SYMMETRIC)
    host = lab.host("kind-host", behind=router)
    with mapping_service(router, tmp_path), host.udp() as inner, alpha.udp() as outside:
        port = inner.getsockname()[1]
        with host.udp() as asking:
            # NAT-PMP (RFC 6886, 3.3): map UDP, for a minute.
            asking.sendto(struct.pack("!BBHHHI", 0, 1, 0, port, port, 60), ("192.168.1.1", 5351))
            _, _, code, _, _, shown, _ = struct.unpack("!BBHIHHI", asking.recvfrom(100)[0])
        assert code == 0
        outside.sendto(b"stranger", (router.address, shown))
        assert arrives(inner, b"stranger")


def test_the_relay_of_iroh_runs_in_the_lab(lab: Lab) -> None:
    if not (program := iroh_relay()):
        pytest.skip("no program `iroh-relay` (variable P2PRC_IROH_RELAY)")
    host = lab.host("relay")
    asking = lab.host("relay-asking", behind=lab.router("relay-home", Nat.SYMMETRIC))
    with (
        running_iroh_relay(host, program) as relay,
        asking.socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        client.settimeout(2)
        client.connect((host.address, int(relay.url.rpartition(":")[2])))
        client.sendall(b"GET /ping HTTP/1.1\r\nhost: relay\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 200")


_OTHER_PROCESS = """
from tests.nat.lab import open_lab
with open_lab() as lab:
    host = lab.host("host")
    host.start("sleep", "1000")
    print(lab.prefix, flush=True)
    input()
"""


def test_nothing_is_left_of_a_lab_whose_process_was_killed(namespaces: None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _OTHER_PROCESS],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        prefix = process.stdout.readline().strip()
        assert len(leftovers(prefix)) == 2
        sweep()
        assert len(leftovers(prefix)) == 2, "a lab that is in use was swept"
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: not leftovers(prefix), "the caretaker has removed everything", timeout_s=30)
