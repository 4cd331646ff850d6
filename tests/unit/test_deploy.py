"""A network in a file: what it may say, who invites, and the unit that starts a node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2prc.cli import service_unit
from p2prc.cli.deploying.bring_up import Site, bring_up, choose_inviter
from p2prc.cli.deploying.machine import Machine
from p2prc.cli.deploying.plan import Install, PlannedNode, plan_of, read_plan
from p2prc.errors import InvalidInput, MachineCannot, RuntimeMissing, WorkFailed

PI = {"name": "pi", "ssh": "pi@192.0.2.1:2222"}


def test_settings_of_a_node_stand_above_its_roles_and_these_above_policies() -> None:
    plan = plan_of(
        {
            "nodes": [
                {**PI, "roles": ["ask"], "settings": {"lend": {"cpus": 2}}},
                {"name": "attic", "ssh": "[2001:db8::1]:22", "settings": {"lend.to": ["a" * 64]}},
            ],
            "policies": {"lend.to": "members", "lend.memory": "1G"},
            "gateways": ["attic"],
        }
    )
    pi, attic = plan.nodes
    assert pi.settings == {
        "name": "pi", "lend.to": "none", "lend.memory": "1G", "lend.cpus": "2",
    }  # fmt: skip
    assert attic.settings["gateway.to"] == "members"
    assert attic.settings["lend.to"] == "a" * 64
    assert plan.install == Install()


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({}, "no `nodes`"),
        ({"nodes": [], "node": []}, "`node`"),
        ({"nodes": ["pi"]}, "no table"),
        ({"nodes": [{"name": "pi"}]}, "`ssh` is no"),
        ({"nodes": [{**PI, "ssh": "-oProxyCommand=x"}]}, "`ssh` is no"),
        ({"nodes": [{**PI, "ssh": "host; reboot"}]}, "`ssh` is no"),
        ({"nodes": [{**PI, "name": "a b"}]}, "`name`"),
        ({"nodes": [{**PI, "home": "x'; reboot '"}]}, "`home`"),
        ({"nodes": [PI, {**PI, "ssh": "other"}]}, "two nodes are called pi"),
        ({"nodes": [PI, {**PI, "name": "other"}]}, "on one machine"),
        ({"nodes": [{**PI, "roles": ["king"]}]}, "`king` is no role"),
        ({"nodes": [{**PI, "roles": ["lend", "ask"]}]}, "only have one"),
        ({"nodes": [PI], "gateways": ["attic"]}, "called attic"),
        ({"nodes": [PI], "policies": {"lend.cpu": 2}}, "lend.cpu"),
        ({"nodes": [PI], "policies": {"lend.cpus": "many"}}, "lend.cpus"),
        ({"nodes": [PI], "install": {"wheel": "a", "package": "b"}}, "one is enough"),
        ({"nodes": [PI], "install": {"package": "a' b"}}, "letter"),
    ],
)
def test_what_the_file_says_wrongly_is_named(value: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        plan_of(value)


def test_a_file_that_is_no_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "network.yaml"
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_plan(file)
    file.write_text("nodes:\n  - {name: pi\n")
    with pytest.raises(InvalidInput, match=r"network\.yaml"):
        read_plan(file)


def site(name: str, network: str, members: int) -> Site:
    made = Site(PlannedNode(name, "local", {}), Install())
    made.status = {"network": network, "members": members}
    return made


def test_the_network_that_most_are_in_takes_in_the_others() -> None:
    alone, two, three = site("a", "a", 1), site("b", "n", 3), site("c", "n", 3)
    assert choose_inviter([alone, two, three]) is two
    assert choose_inviter([site("a", "a", 1), site("b", "b", 1)]).planned.name == "a"  # type: ignore[union-attr]
    assert choose_inviter([site("a", "a", 1), site("b", "b", 5)]).planned.name == "b"  # type: ignore[union-attr]
    assert choose_inviter([]) is None


def test_a_node_of_another_network_is_refused_and_left(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"ada": ("n", 2), "grace": ("n", 2), "linus": ("other", 4)}
    said: list[str] = []

    def prepare(self: Site) -> None:
        network, members = found[self.planned.name]
        self.status = {"network": network, "members": members}

    monkeypatch.setattr(Site, "prepare", prepare)
    monkeypatch.setattr(Machine, "run", lambda *_: pytest.fail("nothing is done there"))
    plan = plan_of({"nodes": [{"name": name, "ssh": name} for name in found]})
    results = bring_up(plan, said.append)
    assert [(each.ok, each.code) for each in results] == [
        (True, ""), (True, ""), (False, "already-in-network"),
    ]  # fmt: skip
    assert "linus: linus is in another network" in said[-1]


def test_what_a_machine_says_is_its_reason() -> None:
    here = Machine("local")
    assert here.run("cat; echo done", b"in ") == "in done\n"
    with pytest.raises(WorkFailed, match="no disk"):
        here.run("echo 'error: no disk' >&2; echo 'hint: buy one' >&2; exit 3")


# -- the unit of systemd


@pytest.fixture
def systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A systemctl that notes what it is asked."""
    program = tmp_path / "bin" / "systemctl"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/asked\ntest ! -e {tmp_path}/broken\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    monkeypatch.setattr("shutil.which", lambda name: (
        str(program) if name == "systemctl" else None))  # fmt: skip
    return tmp_path


def test_a_unit_is_written_once_and_the_node_started(systemd: Path) -> None:
    where = {"XDG_CONFIG_HOME": str(systemd / "config")}
    path = service_unit.install("/home/ada/my $node", ["--name", "ada b"], where)
    text = path.read_text()
    assert 'up --name "ada b"' in text
    assert 'Environment="P2PRC_HOME=/home/ada/my $$node"' in text
    service_unit.install("/home/ada/my $node", ["--name", "ada b"], where)
    asked = (systemd / "asked").read_text().splitlines()
    name = path.name
    once = ["--user daemon-reload", f"--user enable {name}"]
    assert asked == [*once, f"--user restart {name}", *once, f"--user start {name}"]


def test_what_systemd_refuses_is_said(systemd: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (systemd / "broken").touch()
    where = {"XDG_CONFIG_HOME": str(systemd / "config")}
    with pytest.raises(MachineCannot, match="daemon-reload"):
        service_unit.install("/home/ada", [], where)
    monkeypatch.setattr("shutil.which", lambda _: None)
    with pytest.raises(RuntimeMissing):
        service_unit.install("/home/ada", [], where)
