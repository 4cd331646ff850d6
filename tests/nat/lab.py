"""Small internets on one machine: network namespaces, routers with the usual kinds of NAT, lines.

Theory of operation. Every host and router is a network namespace (a `Place`). The internet is one
as well: a router with a line of its own to each customer, so that nothing but routed packets
passes between two of them, and private addresses lead nowhere. Interfaces are born inside
namespaces, so that names never clash; removing a namespace removes what is in it.

A caretaker process waits for the end of its standard input, which comes when the lab is closed or
its process dies in whatever way, then kills what runs in the lab's namespaces and removes them.
Leftovers of a caretaker that was killed too are swept by the next lab.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import AF_INET, SOCK_DGRAM
from socket import socket as Socket  # noqa: N812 - a class

from tests.nat.rules import Nat, rules_of

PREFIX = "p2lab"
NEEDED = ("ip", "nft", "conntrack")
_CLONE_NEWNET = 0x40000000
_TAKE_CARE = """
trap "" INT TERM HUP
cat >/dev/null
for name in $(ip netns list | cut -d" " -f1 | grep "^$1-"); do
    pids=$(ip netns pids "$name") && [ -z "$pids" ] || kill -9 $pids 2>/dev/null
    ip netns del "$name"
done
"""


@dataclass(frozen=True, slots=True)
class Line:
    """How bad a line is: seconds each way, and the part of packets that is lost each way."""

    delay_s: float = 0.0
    loss: float = 0.0


class Place:
    """A network namespace: what runs in it sees its interfaces alone."""

    def __init__(self, lab: Lab, name: str) -> None:
        self.name = name
        self.namespace = f"{lab.prefix}-{name}"
        self.within = ("ip", "netns", "exec", self.namespace)
        """Words before a command that is to run here."""
        _run("ip", "netns", "add", self.namespace)
        # Nobody else has our IPv6 addresses: no need to wait two seconds to see it.
        self.sysctl("net.ipv6.conf.default.accept_dad=0")
        self.ip("link set lo up")

    def ip(self, *lines: str) -> None:
        """Give lines of `ip` commands here, all in one process."""
        _run("ip", "-n", self.namespace, "-batch", "-", stdin="\n".join(lines))

    def run(self, *argv: str, stdin: str | None = None) -> str:
        """Run a program here and return what it printed."""
        return _run(*self.within, *argv, stdin=stdin)

    def start(self, *argv: str, log: Path | None = None) -> subprocess.Popen[bytes]:
        """Start a program here that goes on; it ends with the lab at the latest."""
        with (log or Path(os.devnull)).open("wb") as output:
            return subprocess.Popen([*self.within, *argv], stdout=output, stderr=subprocess.STDOUT)

    def sysctl(self, *settings: str) -> None:
        """Set kernel variables of this namespace."""
        with inside(self.namespace):
            for setting in settings:
                name, _, value = setting.partition("=")
                Path("/proc/sys", *name.split(".")).write_text(value)

    def socket(self, family: int, kind: int) -> Socket:
        """Return a socket that lives here, for this process to use."""
        with inside(self.namespace):
            return Socket(family, kind)

    def udp(self, port: int = 0, *, timeout_s: float = 2.0) -> Socket:
        """Return a bound UDP socket that lives here."""
        found = self.socket(AF_INET, SOCK_DGRAM)
        found.settimeout(timeout_s)
        found.bind(("0.0.0.0", port))
        return found


class Host(Place):
    """A machine with one interface, `eth0`."""

    def __init__(self, lab: Lab, name: str) -> None:
        super().__init__(lab, name)
        self.address = ""
        self.gateway = ""

    def change_address(self, address: str) -> None:
        """Have another address in the same network; the old one is gone at once."""
        self.ip(
            f"addr del {self.address}/24 dev eth0",
            f"addr add {address}/24 dev eth0",
            f"route replace default via {self.gateway}",
        )
        self.address = address

    def link(self, *, is_up: bool) -> None:
        """Pull the cable, or put it back."""
        self.ip(f"link set eth0 {'up' if is_up else 'down'}")
        if is_up:
            self.ip(f"route replace default via {self.gateway}")


class Router(Place):
    """A router: `wan` outside, the bridge `lan` inside."""

    def __init__(self, lab: Lab, name: str, *, inside: str, nat: Nat) -> None:
        super().__init__(lab, name)
        self.lab = lab
        self.nat = nat
        self.network = inside
        self.address = ""
        self.gateway = ""
        self.prefix6 = ""
        self._hosts = 1
        self.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        self.ip(
            "link add lan type bridge",
            "link set lan up",
            f"addr add {self.inner_address} dev lan",
        )

    @property
    def inner_address(self) -> str:
        """Its address inside, with the length of the network's prefix."""
        return f"{self.network}.1/24"

    def next_address(self) -> str:
        """Return an address inside that nobody has."""
        self._hosts += 1
        return f"{self.network}.{self._hosts}"

    def translate(self, *, blocks_udp: bool = False) -> None:
        """Set or change how it treats packets."""
        self.run("nft", "-f", "-", stdin=rules_of(self.nat, blocks_udp=blocks_udp))

    def forget(self) -> None:
        """Lose all translations, as by a power cut."""
        self.run("nft", "flush", "ruleset")
        self.run("conntrack", "-F")
        self.translate()

    def change_address(self, address: str) -> None:
        """Get another outside address from the provider."""
        self.ip(
            f"addr del {self.address}/24 dev wan",
            f"addr add {address}/24 dev wan",
            f"route replace default via {self.gateway}",
        )
        self.address = address
        self.forget()


class Lab:
    """One internet. Made by `open_lab`."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._customers = 0
        self._ports = 0
        self._lines: list[subprocess.Popen[bytes]] = []
        self.internet = Place(self, "internet")
        self.internet.sysctl("net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")

    def host(
        self,
        name: str,
        *,
        behind: Router | None = None,
        ipv6: bool = False,
        line: Line | None = None,
    ) -> Host:
        """Add a machine, on the internet itself or behind a router."""
        host = Host(self, name)
        if behind is None:
            host.address, host.gateway = self._connect_customer(host, "eth0", ipv6=ipv6, line=line)
            return host
        host.address, host.gateway = self._connect_inside(host, "eth0", behind, line=line)
        if ipv6 and behind.prefix6:
            number = host.address.rpartition(".")[2]
            host.ip(
                f"addr add {behind.prefix6}:1::{number}/64 dev eth0 nodad",
                f"route add ::/0 via {behind.prefix6}:1::1",
            )
        return host

    def router(
        self,
        name: str,
        nat: Nat,
        *,
        behind: Router | None = None,
        inside: str = "192.168.1",
        ipv6: bool = False,
        blocks_udp: bool = False,
        line: Line | None = None,
    ) -> Router:
        """Add a router, on the internet or behind another one.

        All homes have the same addresses `inside`, as they do.
        """
        router = Router(self, name, inside=inside, nat=nat)
        if behind is None:
            router.address, router.gateway = self._connect_customer(
                router, "wan", ipv6=ipv6, line=line
            )
        else:
            router.address, router.gateway = self._connect_inside(router, "wan", behind, line=line)
        if ipv6 and behind is None:
            router.prefix6 = f"2a0b:{self._customers:x}"
            router.ip(f"addr add {router.prefix6}:1::1/64 dev lan nodad")
        router.translate(blocks_udp=blocks_udp)
        return router

    def close(self) -> None:
        """End what runs beside the namespaces."""
        for line in self._lines:
            line.communicate(timeout=10)

    def _connect_customer(
        self, place: Place, interface: str, *, ipv6: bool, line: Line | None
    ) -> tuple[str, str]:
        self._customers += 1
        number = self._customers
        port = f"to{number}"
        self._wire(place, interface, self.internet, port, line)
        address, gateway = f"11.0.{number}.2", f"11.0.{number}.1"
        self.internet.ip(f"addr add {gateway}/24 dev {port}", f"link set {port} up")
        place.ip(
            f"addr add {address}/24 dev {interface}",
            f"link set {interface} up",
            f"route add default via {gateway}",
        )
        if ipv6:
            prefix = f"2a0b:{number:x}"
            self.internet.ip(
                f"addr add {prefix}::1/64 dev {port} nodad",
                f"route add {prefix}::/32 via {prefix}::2 dev {port}",
            )
            place.ip(
                f"addr add {prefix}::2/64 dev {interface} nodad",
                f"route add ::/0 via {prefix}::1",
            )
        return address, gateway

    def _connect_inside(
        self, place: Place, interface: str, router: Router, *, line: Line | None
    ) -> tuple[str, str]:
        self._ports += 1
        port = f"port{self._ports}"
        self._wire(place, interface, router, port, line)
        router.ip(f"link set {port} master lan", f"link set {port} up")
        address, gateway = router.next_address(), f"{router.network}.1"
        place.ip(
            f"addr add {address}/24 dev {interface}",
            f"link set {interface} up",
            f"route add default via {gateway}",
        )
        return address, gateway

    def _wire(
        self, place: Place, interface: str, other: Place, port: str, line: Line | None
    ) -> None:
        if line is None:
            place.ip(
                f"link add {interface} type veth peer name {port} netns {other.namespace}",
            )
            return
        module = Path(__file__).with_name("bad_line.py")
        ends = (f"{place.namespace}:{interface}", f"{other.namespace}:{port}")
        process = subprocess.Popen(
            [sys.executable, str(module), *ends, str(line.delay_s), str(line.loss)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._lines.append(process)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n", "the bad line does not work"


@contextmanager
def open_lab() -> Iterator[Lab]:
    """Build an internet; leaving the block ends all that runs in it, and removes it."""
    sweep()
    prefix = f"{PREFIX}-{os.getpid()}"
    with subprocess.Popen(
        ["sh", "-c", _TAKE_CARE, "caretaker", prefix],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as caretaker:
        lab = Lab(prefix)
        try:
            yield lab
        finally:
            lab.close()
            caretaker.communicate(timeout=30)


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let this thread make its sockets in a namespace."""
    with (
        Path("/proc/thread-self/ns/net").open() as before,
        Path(f"/run/netns/{namespace}").open() as there,
    ):
        _enter(there.fileno())
        try:
            yield
        finally:
            _enter(before.fileno())


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def leftovers(prefix: str = PREFIX) -> list[str]:
    """Return the namespaces whose names begin so."""
    listed = _run("ip", "netns", "list").splitlines()
    names = [line.split()[0] for line in listed if line.strip()]
    return [name for name in names if name.startswith(f"{prefix}-")]


def sweep() -> None:
    """Remove the namespaces of labs whose process is gone."""
    owners = {name.split("-")[1] for name in leftovers()}
    for owner in owners:
        if not Path(f"/proc/{owner}").exists():
            subprocess.run(
                ["sh", "-c", _TAKE_CARE, "caretaker", f"{PREFIX}-{owner}"],
                stdin=subprocess.DEVNULL,
                check=True,
                timeout=60,
            )


def why_not(*programs: str) -> str:
    """Say what is missing for a lab here, "" when there is nothing."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    missing = [name for name in (*NEEDED, *programs) if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    name = f"{PREFIX}-{os.getpid()}-trial"
    try:
        _run("ip", "netns", "add", name)
        try:
            trial = "add table ip t; add chain ip t c { type nat hook postrouting priority 100; }"
            _run("ip", "netns", "exec", name, "nft", trial)
        finally:
            _run("ip", "netns", "del", name)
    except AssertionError as error:
        return f"no network namespaces with NAT here: {error}"
    return ""


def _run(*argv: str, stdin: str | None = None) -> str:
    done = subprocess.run(
        argv, capture_output=True, text=True, input=stdin, timeout=30, check=False
    )
    assert done.returncode == 0, (argv, stdin, done.stdout, done.stderr)
    return done.stdout
