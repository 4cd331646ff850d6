"""The network `bridge` from the command line: a node that forwards, its LAN, and an internet.

The node's machine is a network namespace. A second one is its router, which also has addresses
that stand for the LAN, for a cloud's metadata and for the internet, with a web server on each.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.contract.runtime_bench import ENGINE_WANTED
from tests.system.nodes import NodeUnderTest, processes_below, stop_all, wait_until

PUBLIC = "93.184.216.34"
MINE, WAY = "10.9.7.2", "10.9.7.1"
MINE_6, WAY_6, PUBLIC_6 = "fd09::2", "fd09::1", "2606:2800:220:1::34"
PRIVATE = ("192.168.1.1", "172.16.0.1", "169.254.169.254", "100.64.0.1")
LOOPBACK_PORT = 8088

pytestmark = [
    pytest.mark.skipif(
        os.geteuid() != 0 or not all(map(shutil.which, ("ip", "nft", "nsenter", "curl"))),
        reason="needs root, ip, nft, nsenter and curl",
    )
]


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=20)


class Lab:
    """The node's machine and what is around it."""

    def __init__(self, mark: str, web: Path) -> None:
        self.mine, self.router = f"p2bm{mark}", f"p2br{mark}"
        self.within = ("nsenter", f"--net=/run/netns/{self.mine}")
        self._mark = mark
        self._web = web
        self._servers: list[subprocess.Popen[bytes]] = []

    def build(self) -> None:
        for name in (self.mine, self.router):
            ip(f"netns add {name}")
            ip(f"-n {name} link set lo up")
        a, b = f"a{self._mark}", f"b{self._mark}"
        ip(f"link add {a} netns {self.mine} type veth peer name {b} netns {self.router}")
        for name, link, four, six in (
            (self.mine, a, MINE, MINE_6),
            (self.router, b, WAY, WAY_6),
        ):
            ip(f"-n {name} addr add {four}/24 dev {link}")
            ip(f"-n {name} addr add {six}/64 dev {link} nodad")
            ip(f"-n {name} link set {link} up")
        for address in (PUBLIC, *PRIVATE):
            ip(f"-n {self.router} addr add {address}/32 dev lo")
        ip(f"-n {self.router} addr add {PUBLIC_6}/128 dev lo")
        ip(f"-n {self.mine} route add default via {WAY}")
        ip(f"-n {self.mine} route add default via {WAY_6}")
        self.forward(is_on=False)
        self._serve(self.router, 80)
        self._serve(self.mine, 80)
        self._serve(self.mine, LOOPBACK_PORT, "127.0.0.1")
        for url in (f"http://{PUBLIC}/hello", f"http://[{PUBLIC_6}]/hello", f"http://{MINE}/hello"):
            wait_until(partial(self.answers, url), f"{url} answers")

    def answers(self, url: str) -> bool:
        """Whether the node's machine itself gets an answer."""
        words = [*self.within, "curl", "-sfg", "-m", "3", "-o", "/dev/null", url]
        return subprocess.run(words, check=False, timeout=20).returncode == 0

    def forward(self, *, is_on: bool) -> None:
        for key in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            self.run("sysctl", "-qw", f"net.{key}={int(is_on)}")

    def run(self, *words: str) -> str:
        done = subprocess.run(
            [*self.within, *words], check=True, capture_output=True, text=True, timeout=20
        )
        return done.stdout

    def left_over(self) -> set[str]:
        """Return every interface and table that there is now."""
        links = self.run("ip", "-o", "link").splitlines()
        found = {line.split()[1].partition("@")[0].strip(":") for line in links}
        return found | {*self.run("nft", "list", "tables").splitlines()}

    def close(self) -> None:
        for server in self._servers:
            server.kill()
            server.wait()
        for name in (self.mine, self.router):
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)

    def _serve(self, name: str, port: int, host: str = "::") -> None:
        words = ["nsenter", f"--net=/run/netns/{name}", sys.executable, "-m", "http.server"]
        self._servers.append(
            subprocess.Popen(
                [*words, str(port), "--bind", host],
                cwd=self._web,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    web = tmp_path_factory.mktemp("web")
    (web / "hello").write_text("hello\n")
    (web / "large").write_bytes(b"x" * (4 << 20))
    found = Lab(f"{os.getpid():x}", web)
    try:
        found.build()
        yield found
    finally:
        found.close()


@pytest.fixture(scope="module")
def node(lab: Lab, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    home = tmp_path_factory.mktemp("bridge") / "home"
    has_engine = os.environ.get(ENGINE_WANTED) != "0" and Path("/var/run/docker.sock").is_socket()
    variables = {"P2PRC_RUNTIME": "auto" if has_engine else "process"}
    variables["TMPDIR"] = str(tmp_path_factory.mktemp("temporary"))
    found = NodeUnderTest(home, "node", within=lab.within, variables=variables)
    try:
        found.up()
        yield found
    finally:
        stop_all([found])


def fetch(*urls: str) -> tuple[str, str, str]:
    """Return a command that says of each address whether it answered."""
    one = 'curl -s -g -m 3 -o /dev/null "$u" && echo "reached $u" || echo "refused $u"'
    return "sh", "-c", f"for u in {' '.join(urls)}; do {one}; done"


def test_only_where_it_is_allowed_and_its_rules_hold(node: NodeUnderTest, lab: Lab) -> None:
    asked = ("run", "any", "--network", "bridge", "--")
    said = node.p2prc(*asked, "true", status=125)
    assert "the owner of this node does not lend the network `bridge`" in said.err
    assert "p2prc policy set lend.networks none,bridge" in said.err

    # What the machine lacks is said, to its owner too.
    node.p2prc("policy", "set", "lend.networks", "none,bridge")
    trouble = "this machine forwards nothing: `sysctl -w net.ipv4.ip_forward=1`"
    wait_until(lambda: trouble in node.p2prc("status").out, "the owner is told")
    assert trouble in node.p2prc("doctor", status=None).out
    assert trouble in node.p2prc(*asked, "true", status=125).err
    assert not any("p2prc_" in each for each in lab.left_over())

    # So is a firewall of others that lets nothing through.
    lab.forward(is_on=True)
    lab.run("nft", "add table inet strict")
    lab.run("nft", "add chain inet strict f { type filter hook forward priority 0; policy drop; }")
    node.p2prc("policy", "set", "lend.networks", "none,bridge")
    trouble = "own firewall lets nothing through"
    wait_until(lambda: trouble in node.p2prc("status").out, "the owner is told")
    lab.run("nft", "delete table inet strict")
    node.p2prc("policy", "set", "lend.networks", "none,proxy,bridge")
    wait_until(lambda: "cannot be lent" not in node.p2prc("status").out, "it can be lent")


@pytest.mark.parametrize("runtime", ["process", "docker"])
def test_the_internet_and_nothing_else(node: NodeUnderTest, lab: Lab, runtime: str) -> None:
    if runtime == "docker" and node.variables["P2PRC_RUNTIME"] != "auto":
        pytest.skip("no container engine")
    urls = [f"http://{each}/hello" for each in (PUBLIC, MINE, WAY, *PRIVATE)]
    urls += [f"http://[{each}]/hello" for each in (MINE_6, WAY_6, PUBLIC_6)]
    urls += [f"http://127.0.0.1:{LOOPBACK_PORT}/hello"]
    # All of them answer where no rules are in between.
    assert all(lab.answers(url) for url in urls)
    asked = ("run", "any", "--network", "bridge", "--runtime", runtime, "--")
    said = node.p2prc(*asked, *fetch(*urls)).out.splitlines()
    assert said == [f"reached {urls[0]}", *(f"refused {url}" for url in urls[1:])]


def test_a_cap_cuts_it_off_and_outlives_the_node(node: NodeUnderTest, lab: Lab) -> None:
    before = {each for each in lab.left_over() if not each.startswith(("table inet p2prc", "p2b"))}
    node.p2prc("policy", "set", "lend.traffic", "5M")
    node.p2prc("create", "any", "--runtime", "process", "--network", "bridge", "--name", "web")
    get = (
        "exec",
        "web",
        "--",
        "curl",
        "-s",
        "-m",
        "4",
        "-o",
        "/dev/null",
        f"http://{PUBLIC}/large",
    )
    node.p2prc(*get)
    [row] = node.json("leases")
    assert 4 << 20 < row["net_rx_bytes"] < 5 << 20
    assert row["net_limit_bytes"] == 5 << 20

    # A node that comes back goes on counting where it was.
    node.kill_9()
    assert any(each.startswith("p2b") for each in lab.left_over() - before)
    node.up()
    [row] = node.json("leases")
    assert 4 << 20 < row["net_rx_bytes"] < 5 << 20
    node.p2prc(*get, status=None)
    asked = ("exec", "web", "--", *fetch(f"http://{PUBLIC}/hello"))
    assert node.p2prc(*asked).out == f"refused http://{PUBLIC}/hello\n"
    [row] = node.json("leases")
    assert 5 << 20 >= row["net_rx_bytes"] + row["net_tx_bytes"] > (5 << 20) - (64 << 10)
    assert "a lease's network is cut" in node.home.joinpath("log").read_text()

    # Whoever takes our rules away cuts the leases off, until they are there again.
    [table] = [each for each in lab.left_over() if "p2prc_" in each]
    lab.run("nft", "flush", *table.split())
    wait_until(
        lambda: "hook forward" in lab.run("nft", "list", *table.split()), "the rules are back"
    )

    node.p2prc("rm", "web")
    wait_until(lambda: lab.left_over() - before <= {table}, "its interface is gone")


@pytest.mark.parametrize("after", ["keep", "end"])
def test_nothing_is_left_of_a_node_that_was_killed(
    node: NodeUnderTest, lab: Lab, after: str
) -> None:
    node.p2prc("policy", "set", "lend.after_restart", after)
    node.p2prc("policy", "set", "lend.networks", "none,proxy,bridge")
    before = what_is_there(node, lab)
    runs = f"sleep 600 & sleep 600; : {node.home}/tenant"
    asked = [("process", "proxy"), ("process", "bridge")]
    if node.variables["P2PRC_RUNTIME"] == "auto":
        asked.append(("docker", "bridge"))
    for runtime, network in asked:
        options = ("--runtime", runtime, "--network", network, "--cpus", "0.1", "--memory", "64M")
        node.p2prc("create", "any", *options, "--", "sh", "-c", runs)
    bridges = sum(1 for _, network in asked if network == "bridge")
    # Folders and processes, then what only some have: proxies and interfaces, and containers.
    least = 2 * len(asked) + len(asked) + (len(asked) - 2)
    wait_until(lambda: len(what_is_there(node, lab) - before) >= least, "all of it is there")
    node.kill_9()
    node.up()
    kept = {each for each in what_is_there(node, lab) if each.startswith("interface p2b")}
    assert len(kept) == (bridges if after == "keep" else 0)
    assert len(node.json("leases")) == (len(asked) if after == "keep" else 0)
    node.p2prc("kill", "--all", status=None)
    wait_until(lambda: what_is_there(node, lab) <= before, f"nothing is left, {before}")
    if after == "end":
        node.p2prc("down")
        assert not any("p2prc_" in each for each in lab.left_over())


def temporary(node: NodeUnderTest) -> Path:
    """Return where the node makes its temporary files."""
    return Path(node.variables["TMPDIR"])


def what_is_there(node: NodeUnderTest, lab: Lab) -> set[str]:
    """Return what a lease has: containers, processes, mounts, interfaces, folders, tables."""
    home = str(node.home)
    found = {f"interface {each}" for each in lab.left_over()}
    found |= {f"folder {path}" for path in node.home.joinpath("leases").iterdir()}
    found |= {f"folder {path.name}" for path in temporary(node).iterdir()}
    found |= {
        f"mount {line}" for line in Path("/proc/mounts").read_text().splitlines() if home in line
    }
    own = {node.pid} if node.home.joinpath("lock").exists() else set()
    found |= {f"process {pid}" for pid in processes_below(node.home / "tenant") if pid not in own}
    if node.variables["P2PRC_RUNTIME"] == "auto":
        words = ["docker", "ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.Labels}}"]
        listed = subprocess.run(words, check=True, capture_output=True, text=True, timeout=30)
        found |= {f"container {line[:12]}" for line in listed.stdout.splitlines() if home in line}
    return found
