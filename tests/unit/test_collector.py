"""The load of others: what is busy less what leases use, over some seconds."""

from __future__ import annotations

import pytest

from p2prc.node import collector
from p2prc.node.collector import LOAD_WINDOW_S, Collector, OwnerRules
from p2prc.node.provider import Provider
from p2prc.protocol.owner_needs import AwayRule


class Lending:
    """The provider's part of a collector: how much its leases used, and what it is told."""

    def __init__(self) -> None:
        self.leased_s = 0.0
        self.told: list[str] = []
        self.saved = 0

    async def collect(self, now: float) -> float:
        return self.leased_s

    def save_usage(self) -> None:
        self.saved += 1

    def owner_needs(self, reason: str) -> None:
        self.told.append(reason)


class World:
    """A collector on a machine whose processor time is what the test says."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.busy_s = 0.0
        self.now = 0.0
        self.lending = Lending()
        monkeypatch.setattr(collector, "busy_core_s", lambda: self.busy_s)
        provider: Provider = self.lending  # type: ignore[assignment]
        rules = OwnerRules(away=AwayRule(load_limit=0.5))
        self.collector = Collector(provider, lambda: rules)

    async def pass_s(self, seconds: int, *, others: float, leases: float) -> None:
        for _ in range(seconds):
            self.now += 1
            self.busy_s += others + leases
            self.lending.leased_s += leases
            await self.collector.look(self.now)


async def test_what_leases_use_is_no_load_and_what_others_use_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(monkeypatch)
    await world.pass_s(20, others=0.1, leases=1.5)
    assert set(world.lending.told) == {""}
    await world.pass_s(int(LOAD_WINDOW_S), others=0.9, leases=0.0)
    assert "needs the machine" in world.lending.told[-1]
    await world.pass_s(45, others=0.1, leases=0.0)
    assert world.lending.told[-1] == ""
    assert 5 <= world.lending.saved <= 9


async def test_a_moment_of_work_is_not_the_owners(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(monkeypatch)
    await world.pass_s(20, others=0.1, leases=0.0)
    await world.pass_s(1, others=1.5, leases=0.0)
    await world.pass_s(20, others=0.1, leases=0.0)
    assert set(world.lending.told) == {""}
