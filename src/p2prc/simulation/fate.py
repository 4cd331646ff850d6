"""What befalls the nodes of a simulation: the scenario's happenings, and churn."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from random import Random
from typing import assert_never

from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.judge import Judge
from p2prc.simulation.liar import Liar
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import SimulatedNode
from p2prc.simulation.scenario import (
    Change,
    Churn,
    Crash,
    Crowd,
    Cut,
    Happening,
    Heal,
    Leave,
    Lie,
    Restart,
    Scenario,
    Unlink,
)


class Fate:
    """Lets things happen, and tells the judge of them."""

    def __init__(
        self,
        scenario: Scenario,
        nodes: Sequence[SimulatedNode],
        *,
        clock: VirtualClock,
        network: SimulatedNetwork,
        judge: Judge,
        rng: Random,
    ) -> None:
        self._nodes = nodes
        self._clock = clock
        self._network = network
        self._judge = judge
        self._rng = rng
        self._is_apart: list[bool] = []
        self.latecomers = self._plan_crowds(scenario)
        for happening in scenario.happenings:
            clock.call_at(happening.at_s, self._happen, happening)
        if scenario.churn is not None and scenario.churn.share_per_minute > 0:
            self._churn_later(scenario.churn, scenario.churn.from_s)

    def start(self, index: int) -> None:
        """Let a node begin with a ticket of one that is already there."""
        node, now = self._nodes[index], self._clock.now
        present = [other.index for other in self._nodes if other.is_up]
        node.start(node.say(self._nodes[0].id))
        self._judge.life_changed(index, now)
        if present:
            node.bootstrap(self._rng.choice(present))

    # -- happenings --

    def _happen(self, what: Happening) -> None:
        now, judge = self._clock.now, self._judge
        match what:
            case Change() | Crash() | Leave() | Unlink():
                if (index := self._victim(what.node)) is not None:
                    self._befall(what, index)
            case Restart():
                self._restart(what.node, keeps_disk=what.keeps_disk, back_s=what.clock_back_s)
            case Crowd():
                for index in self._crowds.pop(0):
                    at = now + self._rng.uniform(0.0, what.over_s)
                    self._clock.call_at(at, self.start, index)
                self._clock.call_later(what.over_s, self._tell_all, "crowd")
            case Cut():
                count = len(self._nodes)
                first = max(1, min(count - 1, round(what.share * count)))
                was_apart, self._is_apart = self._is_apart, [at < first for at in range(count)]
                self._network.cut(self._is_apart)
                judge.sides_changed(was_apart, now)
                judge.sides_changed(self._is_apart, now)
                judge.happened("cut", now)
            case Heal():
                was_apart, self._is_apart = self._is_apart, []
                self._network.cut(None)
                judge.sides_changed(was_apart, now)
                judge.happened("heal", now)
            case Lie():
                node = self._nodes[what.node]
                node.is_lying = True
                judge.life_changed(what.node, now)
                own_rng = Random(self._rng.getrandbits(64))  # noqa: S311  it must repeat
                Liar(node, self._network, self._clock, own_rng).start()
                judge.happened("lie", now)
            case _:
                assert_never(what)

    def _befall(self, what: Change | Crash | Leave | Unlink, index: int) -> None:
        node, now, judge = self._nodes[index], self._clock.now, self._judge
        match what:
            case Change():
                node.sign_anew(node.version + 1)
                judge.happened("change", now, index)
            case Crash():
                self._crash(index)
            case Leave():
                node.leave()
                judge.life_changed(index, now)
                judge.happened("leave", now, index)
            case Unlink():
                self._network.unlink(index)
                judge.happened("unlink", now, index)

    def _tell_all(self, name: str) -> None:
        self._judge.happened(name, self._clock.now)

    def _crash(self, index: int) -> None:
        node = self._nodes[index]
        if node.is_up and not node.has_left:
            node.crash()
            self._judge.life_changed(index, self._clock.now)
            self._judge.happened("crash", self._clock.now, index)

    def _restart(self, index: int, *, keeps_disk: bool = True, back_s: float = 0.0) -> None:
        node, now = self._nodes[index], self._clock.now
        if node.is_up or node.has_left:
            return
        present = [other.index for other in self._nodes if other.is_up]
        known = node.remembered() if keeps_disk else []
        node.start(node.say(self._nodes[0].id, clock_back_s=back_s), known=known)
        self._judge.life_changed(index, now)
        self._judge.happened("restart", now, index)
        if not keeps_disk and present:
            node.bootstrap(self._rng.choice(present))

    def _victim(self, wanted: int | None) -> int | None:
        """Return the node named, or one at random; None when it is not there any more."""
        if wanted is not None:
            node = self._nodes[wanted]
            return wanted if node.is_up and not node.has_left else None
        # Not the founder: its tickets are what newcomers of a scenario join with.
        there = [
            node.index
            for node in self._nodes[1:]
            if node.is_up and not (node.has_left or node.is_lying)
        ]
        return self._rng.choice(there) if there else None

    # -- crowds and churn --

    def _plan_crowds(self, scenario: Scenario) -> set[int]:
        """Return who is not there from the start; the last nodes come last."""
        crowds = sorted(
            (one for one in scenario.happenings if isinstance(one, Crowd)),
            key=lambda one: one.at_s,
        )
        self._crowds: list[range] = []
        end = scenario.nodes
        for crowd in reversed(crowds):
            first = max(1, end - round(crowd.share * scenario.nodes))
            self._crowds.insert(0, range(first, end))
            end = first
        return set(range(end, scenario.nodes))

    def _churn_later(self, churn: Churn, after_s: float) -> None:
        rate = churn.share_per_minute * len(self._nodes) / 60.0
        at = max(after_s, self._clock.now) + self._rng.expovariate(rate)
        if at < churn.until_s:
            self._clock.call_at(at, self._churn, churn)

    def _churn(self, churn: Churn) -> None:
        if (index := self._victim(None)) is not None:
            self._crash(index)
            self._clock.call_later(self._rng.uniform(*churn.down_s), partial(self._restart, index))
        self._churn_later(churn, self._clock.now)
