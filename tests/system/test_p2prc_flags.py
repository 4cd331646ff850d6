"""P2PRC's own flags on real nodes: the same promises, the same facts."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line
from tests.system.echo import Threaded, echoing, talk
from tests.system.nodes import NodeUnderTest, stop_all, wait_until

PLUGIN = """
- hosts: all
  gather_facts: false
  tasks:
    - shell: echo {{index . 0}} > told
"""


class OldHand:
    """Somebody who types P2PRC's flags at a node, in this process: starting one costs more."""

    def __init__(self, home: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self._home, self._capfd = str(home), capfd
        self.was_told = ""

    def types(
        self, *words: str, status: int = 0, variables: Mapping[str, str] = MappingProxyType({})
    ) -> str:
        self._capfd.readouterr()
        ended = run_command_line(words, Invocation(self._home), variables)
        said = self._capfd.readouterr()
        assert ended == status, (words, said)
        self.was_told = said.err
        return said.out if status == 0 else said.err

    def tries(self, *words: str) -> int:
        """Return the exit status, whatever it is."""
        return run_command_line(words, Invocation(self._home))

    def reads(self, *words: str, variables: Mapping[str, str] = MappingProxyType({})) -> Any:
        return json.loads(self.types(*words, variables=variables))


@pytest.fixture
def grace(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "grace", "grace")
    node.up("--open", "--cpus", "4")
    yield node
    stop_all([node])


def test_every_flag_of_p2prc_on_real_nodes(
    tmp_path: Path, grace: NodeUnderTest, capfd: pytest.CaptureFixture[str]
) -> None:
    # A folder of P2PRC's, and its way to start: --dc, then -s in the foreground.
    home = tmp_path / "p2prc"
    home.mkdir()
    (home / "config.json").write_text('{"machinename": "ada", "serverport": "0"}')
    ada = OldHand(home, capfd)
    assert ada.types("--dc").strip() == str(home / "config.toml")
    started = NodeUnderTest(home, "ada", variables={"P2PRC_LISTEN": "127.0.0.1:0"})
    server = started.start("-s")
    try:
        wait_until((home / "control.sock").exists, "-s starts the node")
        _all_the_rest(ada, grace, tmp_path)
        assert ada.types("-s", status=8)
    finally:
        server.send_signal(signal.SIGTERM)
        server.communicate(timeout=60)
        stop_all([started])


def _all_the_rest(ada: OldHand, grace: NodeUnderTest, folder: Path) -> None:
    place = next(each for each in grace.addresses if each.startswith("127.0.0.1:"))
    port = place.rpartition(":")[2]
    assert "ada" in {each["value"] for each in ada.reads("--vc") if each["key"] == "name"}
    assert "lo" in ada.types("--ni")

    # The table, with P2PRC's facts: name, addresses, latency, way, key, and free words.
    ada.types("--as", "127.0.0.1", "-p", port)
    ada.types("--as", "127.0.0.1", "-p", port)
    assert "in this network already" in ada.was_told
    grace.p2prc("--amd", '{"role": "farm"}')
    wait_until(lambda: _row(ada)["metadata"] != {}, "what grace tells is seen")
    row = ada.reads("--us") and _row(ada)
    assert row["metadata"] == {"CustomInformation": '{"role": "farm"}'}
    assert place in row["addresses"]
    assert (row["path"], row["id"]) == ("direct", grace.id)
    assert row["latency_ms"] > 0

    # A container, by address or by name, with ports; no node here has a GPU to give.
    assert ada.reads("--specs", place)["cpus"] >= 1
    assert isinstance(ada.reads("--vi", place), list)
    made = ada.reads("--touch", place, "-p", "2")
    assert made["node"] == grace.id
    assert len(made["ports"]) == 2
    other = ada.reads(variables={"CREATE_VM": "grace", "NUM_PORTS": "1"})
    assert len(other["ports"]) == 1
    if not grace.json("specs")["gpus"]:
        refused = ada.types("--touch", place, "-p", "2", "--gpu", status=6)
        assert "graphics card" in refused
    assert {each["id"] for each in ada.reads("--tc")} == {made["id"], other["id"]}

    [group] = ada.reads("--cgroup")
    name = group["name"]
    assert name.startswith("grp")
    [with_one] = ada.reads("--group", name, "--id", made["id"])
    assert with_one["containers"] == [made["id"]]
    assert ada.reads("--group", name) == ada.reads("--groups") == [with_one]
    [without] = ada.reads("--rmcgroup", "--group", name, "--id", made["id"])
    assert without["containers"] == []
    ada.types("--rmgroup", name)
    assert ada.reads("--groups") == []

    _plugins_and_projects(ada, folder, lease=made["id"])
    wrong = ada.types("--rm", "127.0.0.1:1", "--id", made["id"], status=4)
    assert "no node of this network listens" in wrong
    for lease in (made["id"], other["id"]):
        ada.types("--rm", place, "--id", lease)
    assert ada.reads("--tc") == []

    # A port of mine and a port of that node, at a public address.
    for key, value in (("listen", "127.0.0.1"), ("host", "127.0.0.1"), ("to", "members")):
        grace.p2prc("policy", "set", f"gateway.{key}", value)
    with echoing(Threaded) as served:
        grace.p2prc("policy", "set", "forward.ports", str(served))
        for more in ((), ("--ra", place)):
            mapped = ada.reads("--mp", str(served), *more)
            assert talk(mapped["remote"], b"hello") == b"hellobye"
        assert ada.reads("--mp", str(served), "--udp")["protocol"] == "udp"
        _domain(ada, grace, served)

    # One root, all others forgotten: with one network it is the same one again.
    ada.types("--arn", "--ip", "127.0.0.1", "-p", port)
    wait_until(lambda: len(ada.reads("--ls")) == 2, "both are one network again")


def _plugins_and_projects(ada: OldHand, folder: Path, *, lease: str) -> None:
    """The flags about plugins, on one as P2PRC has them; and its generator of projects."""
    plugin = folder / "setup"
    plugin.mkdir()
    (plugin / "site.yml").write_text(PLUGIN)
    (plugin / "ports.json").write_text('{"NumOfPorts": 1}')
    ada.types("--pp", str(plugin))
    [row] = ada.reads("--vp")
    assert (row["name"], row["ports"]) == ("setup", 1)
    # Ansible itself takes seconds, and runs in a test of its own: here it is not reached.
    ada.types("--plugin", "setup", "--id", "nothing", status=4)
    assert ada.types("--plugin", "other", "--id", lease, status=4)
    ada.types("--rp", "setup")
    assert ada.reads("--vp") == []
    ada.types("--gen", str(folder / "farm"), "--mod", "my_farm")
    assert (folder / "farm").is_dir()


def _domain(ada: OldHand, grace: NodeUnderTest, served: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    grace.p2prc("policy", "set", "gateway.domains", "*.example.org=members")
    grace.p2prc("policy", "set", "gateway.http", str(port))
    words = ("--mp", str(served), "--dn", "app.example.org")
    # It says no until the gateway listens there.
    wait_until(lambda: ada.tries(*words) == 0, "the domain is mapped")
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: app.example.org\r\nConnection: close\r\n\r\n")
        # The service is reached, and speaks no HTTP.
        assert client.recv(100).startswith(b"HTTP/1.1 502 ")


def _row(ada: OldHand) -> dict[str, Any]:
    found: dict[str, Any] = next(row for row in ada.reads("--ls") if row["name"] == "grace")
    return found
