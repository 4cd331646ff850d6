"""Python plugins: asked in turn, contained when they raise, loaded by their entry points."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

import p2prc
from p2prc.model.identity import NodeId
from p2prc.model.resources import Capacity
from p2prc.plugins import hooks
from p2prc.plugins.hooks import Hooks, HookSet, JobEvent, Joiner
from p2prc.protocol.placement import NodeOffer

ROOM = Capacity(cpu_millis=1000, memory_bytes=1, disk_bytes=1)
JOINER = Joiner("ab" * 32, "ada", "192.0.2.1:8088")
ENDED = JobEvent("j" * 32, "night", "succeeded", total=2, running=0, succeeded=2, failed=0)


def offer(name: str) -> NodeOffer:
    node = NodeId(name.encode().hex().ljust(64, "0"))
    return NodeOffer(node, name, is_reachable=True, is_lending=True, lent=ROOM, free=ROOM)


class Last(Hooks):
    """Turns them round, and leaves out the last."""

    def place(self, offers: Sequence[NodeOffer], job: str) -> Sequence[NodeOffer]:
        return list(reversed(offers))[:-1]

    def admit(self, joiner: Joiner) -> bool | None:
        return True


class Broken(Hooks):
    """Raises whatever it is asked, or answers nonsense."""

    def place(self, offers: Sequence[NodeOffer], job: str) -> Sequence[NodeOffer]:
        return [None]  # type: ignore[list-item]

    def admit(self, joiner: Joiner) -> bool | None:
        raise ZeroDivisionError

    def job_event(self, event: JobEvent) -> None:
        raise ZeroDivisionError


class Inventing(Hooks):
    """Adds a node that nobody offered, and refuses everybody."""

    def place(self, offers: Sequence[NodeOffer], job: str) -> Sequence[NodeOffer]:
        return [offer("nobody"), *offers]

    def admit(self, joiner: Joiner) -> bool | None:
        return False


OFFERS = [offer("ada"), offer("grace"), offer("linus")]


def test_without_plugins_everything_stays() -> None:
    nobody = HookSet()
    assert nobody.place(OFFERS) == OFFERS
    assert nobody.admit(JOINER) is None
    assert not nobody


def test_each_has_a_say_and_a_broken_one_none() -> None:
    some = HookSet([Broken(), Last(), Inventing()])
    assert [each.name for each in some.place(OFFERS)] == ["linus", "grace"]
    assert some.admit(JOINER) is False
    assert HookSet([Broken(), Last()]).admit(JOINER) is True
    some.job_event(ENDED)


class _Entry:
    def __init__(self, name: str, loaded: object) -> None:
        self.name = name
        self._loaded = loaded

    def load(self) -> object:
        if isinstance(self._loaded, Exception):
            raise self._loaded
        return self._loaded


def test_installed_ones_are_loaded_and_what_is_none_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    entries = [_Entry("b", Last), _Entry("a", ImportError("gone")), _Entry("c", dict)]
    monkeypatch.setattr(hooks, "entry_points", lambda group: entries)
    assert [type(each) for each in hooks.installed_hooks()] == [Last]


@pytest.fixture
def watchman() -> ModuleType:
    root = Path(__file__).parents[2] / "examples" / "plugins" / "watchman"
    spec = importlib.util.spec_from_file_location(
        "p2prc_watchman", root / "src" / "p2prc_watchman" / "__init__.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_example_does_what_it_says(
    watchman: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rules = tmp_path / "rules.json"
    monkeypatch.setenv("P2PRC_WATCHMAN", str(rules))
    said: list[list[str]] = []
    monkeypatch.setattr(watchman.subprocess, "Popen", lambda argv, **_: said.append(argv))
    plugin: p2prc.Hooks = watchman.Watchman()
    assert plugin.admit(JOINER) is None
    rules.write_text(
        json.dumps({"friends": [JOINER.id], "avoid": ["ada"], "when_a_job_ends": ["tell"]})
    )
    assert plugin.admit(JOINER) is True
    assert [each.name for each in plugin.place(OFFERS, "")] == ["grace", "linus"]
    plugin.job_event(ENDED)
    assert said == [["tell", "night succeeded: 2 of 2"]]
