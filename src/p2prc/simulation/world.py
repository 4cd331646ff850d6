"""Runs a scenario: makes the nodes, lets things happen to them, and reports."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Generic, TypeVar, assert_never

from p2prc.errors import WireError
from p2prc.model.record import open_record
from p2prc.model.testimony import open_testimony
from p2prc.protocol.membership import MembershipConfig
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.judge import Judge
from p2prc.simulation.liar import Liar
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import SimulatedNode, Surroundings
from p2prc.simulation.report import Report
from p2prc.simulation.scenario import (
    Crash,
    Cut,
    Happening,
    Heal,
    Leave,
    Lie,
    Restart,
    Scenario,
    Unlink,
)
from p2prc.wire.signed import Envelope

Value = TypeVar("Value")


def run_scenario(
    scenario: Scenario, seed: int | None = None, *, config: MembershipConfig | None = None
) -> Report:
    """Run it to its end; without a seed, with its own."""
    world = _World(scenario, scenario.seed if seed is None else seed, config or MembershipConfig())
    return world.run()


class _Opened(Generic[Value]):
    """Verifies each envelope once for all nodes: a hundred nodes then cost what one does."""

    def __init__(self, verify: Callable[[Envelope], Value]) -> None:
        self._verify_one = verify
        self._opened: dict[Envelope, Value | str] = {}

    def open(self, envelope: Envelope) -> Value:
        found = self._opened.get(envelope)
        if found is None:
            found = self._opened[envelope] = self._verify(envelope)
        if isinstance(found, str):
            raise WireError(found)
        return found

    def _verify(self, envelope: Envelope) -> Value | str:
        try:
            return self._verify_one(envelope)
        except WireError as error:
            return error.message


class _World:
    """One run."""

    def __init__(self, scenario: Scenario, seed: int, config: MembershipConfig) -> None:
        self._scenario = scenario
        self._seed = seed
        self._rng = Random(f"{scenario.name} {seed}")  # noqa: S311  it must repeat
        self._clock = VirtualClock()
        self._network = SimulatedNetwork(scenario, self._clock, self._rng)
        around = Surroundings(
            clock=self._clock,
            network=self._network,
            config=config,
            index_of={},
            open_envelope=_Opened(open_record).open,
            open_rumour=_Opened(open_testimony).open,
            believes=lambda observer, node: self._judge.belief_changed(
                observer, node, self._clock.now
            ),
            says=lambda node: self._judge.truth_changed(node, self._clock.now),
        )
        self._nodes = [
            SimulatedNode(index, self._own_rng(), around) for index in range(scenario.nodes)
        ]
        around.index_of.update({node.id: node.index for node in self._nodes})
        self._network.hosts.extend(self._nodes)
        self._judge = Judge(self._nodes, self._network)

    def run(self) -> Report:
        scenario = self._scenario
        self._clock.call_at(0.0, lambda: self._first_start(0))
        for index in range(1, scenario.nodes):
            at = self._rng.uniform(0.0, scenario.join_over_s)
            self._clock.call_at(at, partial(self._first_start, index))
        self._clock.call_at(
            scenario.join_over_s, lambda: self._judge.happened("all started", self._clock.now)
        )
        for happening in scenario.happenings:
            self._clock.call_at(happening.at_s, partial(self._happen, happening))
        self._clock.run_until(scenario.duration_s)
        return self._report()

    def _own_rng(self) -> Random:
        return Random(self._rng.getrandbits(64))  # noqa: S311  it must repeat

    def _first_start(self, index: int) -> None:
        """Start a node; it has a ticket of one that is already there."""
        present = [node.index for node in self._nodes if node.is_up]
        self._nodes[index].start(self._nodes[0].id)
        self._judge.truth_changed(index, self._clock.now)
        if present:
            self._nodes[index].bootstrap(self._rng.choice(present))

    def _happen(self, what: Happening) -> None:
        match what:
            case Crash():
                self._nodes[what.node].crash()
            case Restart():
                self._restart(what)
            case Leave():
                self._nodes[what.node].leave()
            case Cut():
                self._network.cut(what.first)
            case Heal():
                self._network.cut(None)
            case Unlink():
                self._network.unlink(what.node)
            case Lie():
                node = self._nodes[what.node]
                node.is_lying = True
                Liar(node, self._network, self._clock, self._own_rng()).start()
            case _:
                assert_never(what)
        self._judge.happened(type(what).__name__.lower(), self._clock.now)

    def _restart(self, what: Restart) -> None:
        node = self._nodes[what.node]
        present = [other.index for other in self._nodes if other.is_up]
        node.start(self._nodes[0].id, keeps_disk=what.keeps_disk, clock_back_s=what.clock_back_s)
        if not what.keeps_disk:
            node.bootstrap(self._rng.choice(present))

    def _report(self) -> Report:
        scenario, nodes = self._scenario, self._nodes
        refusals: Counter[str] = Counter()
        for node in nodes:
            refusals.update(node.machine.refusals)
        node_seconds = scenario.nodes * scenario.duration_s
        links = sum(len(self._network.links_of(node.index)) for node in nodes)
        return Report(
            scenario=scenario.name,
            seed=self._seed,
            nodes=scenario.nodes,
            duration_s=scenario.duration_s,
            milestones=self._judge.milestones(),
            wrong_at_end=self._judge.wrong_count,
            false_suspicions=self._judge.false_suspicions,
            false_deaths=self._judge.false_deaths,
            bytes_per_node_per_s=self._network.bytes_sent / node_seconds,
            messages_per_node_per_s=self._network.messages_sent / node_seconds,
            connections_mean=links / scenario.nodes,
            refusals=dict(sorted(refusals.items())),
            trace=self._judge.trace,
        )
