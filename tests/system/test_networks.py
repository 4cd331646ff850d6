"""The network of a lease from the command line, with real daemons and a little real internet.

The internet is a network namespace: the node's only way leads there, and a web server has a
public address in it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, stop_all, wait_until

PUBLIC = "93.184.216.34"
MINE, WAY = "10.213.7.2", "10.213.7.1"
CURL = ("curl", "-sS", "-w", "%{http_code}", "--noproxy", "")

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="needs root and ip"),
    pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl"),
]


def ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True, timeout=20)


@pytest.fixture(scope="module")
def internet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Make a namespace for the node and one for the internet; yield the node's name."""
    mark = f"{os.getpid():x}"
    mine, outside = f"p2m{mark}", f"p2o{mark}"
    folder = tmp_path_factory.mktemp("web")
    (folder / "hello").write_text("hello\n")
    (folder / "large").write_bytes(b"x" * (3 << 20))
    server = None
    made = []
    try:
        for name in (mine, outside):
            ip(f"netns add {name}")
            made.append(name)
            ip(f"-n {name} link set lo up")
        ip(f"link add a{mark} netns {mine} type veth peer name b{mark} netns {outside}")
        for name, link, address in ((mine, "a", MINE), (outside, "b", WAY)):
            ip(f"-n {name} addr add {address}/24 dev {link}{mark}")
            ip(f"-n {name} link set {link}{mark} up")
        ip(f"-n {outside} addr add {PUBLIC}/32 dev lo")
        ip(f"-n {mine} route add default via {WAY}")
        words = ["ip", "netns", "exec", outside, sys.executable, "-m", "http.server", "80"]
        server = subprocess.Popen(
            words, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        reached = ["ip", "netns", "exec", mine, "curl", "-s", f"http://{PUBLIC}/hello"]
        wait_until(
            lambda: subprocess.run(reached, check=False).returncode == 0, "the internet answers"
        )
        yield mine
    finally:
        if server is not None:
            server.kill()
            server.wait()
        for name in made:
            ip(f"netns del {name}")


@pytest.fixture(scope="module")
def node(internet: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeUnderTest]:
    home = tmp_path_factory.mktemp("network") / "home"
    found = NodeUnderTest(home, "node", within=("ip", "netns", "exec", internet))
    try:
        found.up()
        yield found
    finally:
        stop_all([found])


def test_from_none_to_a_proxy_with_a_cap(node: NodeUnderTest, tmp_path: Path) -> None:
    # Who meets no network unaware is told.
    program = "import urllib.request as u; u.urlopen('http://example.org/', timeout=5)"
    said = node.p2prc("run", "any", "--", "python3", "-c", program, status=1)
    hint = "this place has no network; for HTTP and HTTPS ask for it with `--network proxy`"
    assert said.err.endswith(f"hint: {hint}\n")

    # The owner has to allow it.
    asked = ("run", "any", "--network", "proxy", "--runtime", "process", "--")
    said = node.p2prc(*asked, "true", status=125)
    assert "the owner of this node does not lend the network `proxy`" in said.err
    assert "p2prc policy set lend.networks none,proxy" in said.err
    node.p2prc("policy", "set", "lend.networks", "none,proxy")
    node.p2prc("policy", "set", "lend.traffic", "1M")

    # Then the internet is there, and nothing else.
    said = node.p2prc(*asked, *CURL, f"http://{PUBLIC}/hello")
    assert said.out == "hello\n200"
    for danger in (f"http://{MINE}/", f"http://{WAY}/", "http://127.0.0.1/", "http://localhost/"):
        said = node.p2prc(*asked, *CURL, danger, status=None)
        assert said.out.endswith(("403", "502")), (danger, said)
        assert said.out.startswith("p2prc: ")
    direct = ("curl", "-sS", "--noproxy", "*", f"http://{PUBLIC}/hello")
    said = node.p2prc(*asked, *direct, status=7)

    # Tasks of a job have it too.
    fetch = f"curl -sS http://{PUBLIC}/hello > $i.txt"
    job = (
        "map",
        "--over",
        "i=1-2",
        "--watch",
        "--network",
        "proxy",
        "--out",
        "*.txt",
        "--to",
        str(tmp_path),
    )
    node.p2prc(*job, "-e", "i={i}", "--", "sh", "-c", fetch)
    assert {file.read_text() for file in tmp_path.rglob("*.txt")} == {"hello\n"}

    # What is over the cap ends, and the next request is told why.
    fetch = f"curl -sS -o large http://{PUBLIC}/large; curl -sS http://{PUBLIC}/hello; exit 3"
    said = node.p2prc(*asked, "sh", "-c", fetch, status=3)
    assert "p2prc: traffic: all 1 MiB that this node allows are used" in said.out


def test_traffic_is_shown_and_no_socket_is_left(node: NodeUnderTest) -> None:
    node.p2prc("policy", "set", "lend.networks", "none,proxy")
    node.p2prc("policy", "set", "lend.traffic", "10M")
    fetch = f"curl -sS -o large http://{PUBLIC}/large; echo fetched; sleep 60"
    asked = ("run", "any", "--network", "proxy", "--runtime", "process", "--")
    running = node.start(*asked, "sh", "-c", fetch)
    assert running.stdout is not None
    assert running.stdout.readline() == "fetched\n"
    [lease] = node.json("leases")
    assert lease["net_rx_bytes"] > 3 << 20
    assert 50 < lease["net_tx_bytes"] < 2000
    [socket] = Path(node.home, "leases").glob("*.proxy")
    node.p2prc("kill", lease["id"])
    running.communicate(timeout=20)
    wait_until(lambda: not socket.exists(), "the proxy is gone with its lease")
