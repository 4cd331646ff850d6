"""Runs a scenario: makes the nodes, lets things happen to them, and reports."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Generic, TypeVar

from p2prc.errors import WireError
from p2prc.model.record import open_record
from p2prc.model.testimony import open_testimony
from p2prc.protocol.membership import MembershipConfig, SharedBase
from p2prc.simulation.checks import verdicts
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.fate import Fate
from p2prc.simulation.judge import Judge
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import SimulatedNode, Surroundings, WrongClocks
from p2prc.simulation.paths import places
from p2prc.simulation.report import Report, Sample, convergence_of
from p2prc.simulation.scenario import Scenario
from p2prc.simulation.trace import Trace
from p2prc.wire.signed import Envelope

Value = TypeVar("Value")
_SAMPLES = 400


def run_scenario(
    scenario: Scenario,
    seed: int | None = None,
    *,
    config: MembershipConfig | None = None,
    progress: Callable[[float], None] = lambda _: None,
    write_trace: Callable[[str], object] | None = None,
) -> Report:
    """Run it to its end; without a seed, with its own.

    `progress` hears the share that is done, now and then; `write_trace` each part of the trace.
    """
    config = config or MembershipConfig()
    if scenario.gossip_interval_s is not None:
        config = replace(config, gossip_interval_s=scenario.gossip_interval_s)
    seed = scenario.seed if seed is None else seed
    return _World(scenario, seed, config, Trace(write_trace)).run(progress)


class _Opened(Generic[Value]):
    """Verifies each envelope once for all nodes: a thousand nodes then cost what one does."""

    def __init__(self, verify: Callable[[Envelope], Value]) -> None:
        self._verify_one = verify
        self._opened: dict[bytes, tuple[Envelope, Value | str]] = {}

    def open(self, envelope: Envelope) -> Value:
        # By the signature first: hashing whole records costs more than all the rest.
        held = self._opened.get(envelope.signature)
        if held is None or held[0] != envelope:
            held = self._opened[envelope.signature] = (envelope, self._verify(envelope))
        if isinstance(held[1], str):
            raise WireError(held[1])
        return held[1]

    def _verify(self, envelope: Envelope) -> Value | str:
        try:
            return self._verify_one(envelope)
        except WireError as error:
            return error.message


class _World:
    """One run."""

    def __init__(
        self, scenario: Scenario, seed: int, config: MembershipConfig, trace: Trace
    ) -> None:
        self._scenario = scenario
        self._seed = seed
        self._trace = trace
        self._rng = Random(f"{scenario.name} {seed}")  # noqa: S311  it must repeat
        self._clock = clock = VirtualClock()
        relays = scenario.relays.count if scenario.relays.are_members else 0
        dealt = places(scenario.nat, scenario.nodes, self._rng, public_first=max(1, relays))
        self._network = SimulatedNetwork(scenario, clock, self._rng, dealt)
        around = Surroundings(
            clock=clock,
            network=self._network,
            config=config,
            ids=[],
            index_of={},
            open_envelope=_Opened(open_record).open,
            open_rumour=_Opened(open_testimony).open,
            believes=lambda observer, node: self._judge.belief_changed(observer, node, clock.now),
            says=lambda node: self._judge.truth_changed(node, clock.now),
        )
        self._nodes = [
            SimulatedNode(index, self._own_rng(), around, self._draw_clocks())
            for index in range(scenario.nodes)
        ]
        around.ids.extend(node.id for node in self._nodes)
        around.index_of.update({node.id: node.index for node in self._nodes})
        self._network.hosts = self._nodes
        self._network.linked = lambda one, other, is_up: trace.note(
            clock.now, "link", str(one), str(other), "up" if is_up else "down"
        )
        self._judge = Judge(self._nodes, self._network, trace)
        self._fate = Fate(
            scenario,
            self._nodes,
            clock=clock,
            network=self._network,
            judge=self._judge,
            rng=self._own_rng(),
        )
        self._samples: list[Sample] = []
        self._sampled = (0.0, 0.0, 0.0)
        self._half_bytes = 0.0

    def run(self, progress: Callable[[float], None]) -> Report:
        """Begin, let the time pass, and report."""
        scenario, clock = self._scenario, self._clock
        early = [node.index for node in self._nodes if node.index not in self._fate.latecomers]
        if scenario.starts == "warm":
            self._start_warm(early)
        else:
            self._start_cold(early)
        step_s = max(0.1, scenario.duration_s / _SAMPLES)
        steps = max(1, int(scenario.duration_s / step_s))
        for step in range(1, steps + 1):
            clock.run_until(scenario.duration_s * step / steps)
            self._sample()
            if step == steps // 2:
                self._half_bytes = self._network.traffic.total()
            progress(step / steps)
        return self._report()

    def _start_cold(self, early: list[int]) -> None:
        join_s = self._scenario.join_over_s
        for index in early:
            at = self._rng.uniform(0.0, join_s) if index else 0.0
            self._clock.call_at(at, self._fate.start, index)
        self._clock.call_at(join_s, self._joined)

    def _joined(self) -> None:
        self._judge.happened("all started", self._clock.now)

    def _start_warm(self, early: list[int]) -> None:
        network_id = self._nodes[0].id
        records = [self._nodes[index].say(network_id) for index in early]
        base = SharedBase(records)
        for index, own in zip(early, records, strict=True):
            self._nodes[index].start(own, base=base)
        self._judge.begins_settled(early)

    def _own_rng(self) -> Random:
        return Random(self._rng.getrandbits(64))  # noqa: S311  it must repeat

    def _draw_clocks(self) -> WrongClocks:
        clocks, rng = self._scenario.clocks, self._rng
        if not (clocks.wrong_by_s or clocks.drift):
            return WrongClocks()
        return WrongClocks(
            wall_s=rng.uniform(-clocks.wrong_by_s, clocks.wrong_by_s),
            pace=1.0 + rng.uniform(-clocks.drift, clocks.drift),
            start_s=rng.uniform(0.0, 1e6),
        )

    def _sample(self) -> None:
        now, traffic = self._clock.now, self._network.traffic
        then, sent_then, relayed_then = self._sampled
        sent, relayed = traffic.total(), traffic.relayed_bytes
        per_node_s = max(1e-9, now - then) * max(1, self._judge.observers)
        self._samples.append(
            Sample(
                round(now, 3),
                round(self._judge.right_share, 5),
                round(self._judge.right_pairs_share, 5),
                round((sent - sent_then) / per_node_s, 1),
                round((relayed - relayed_then) / per_node_s, 1),
            )
        )
        self._sampled = (now, sent, relayed)

    def _report(self) -> Report:
        scenario, nodes, judge = self._scenario, self._nodes, self._judge
        traffic = self._network.traffic
        refusals: Counter[str] = Counter()
        for node in nodes:
            if node.life:
                refusals.update(node.machine.refusals)
        node_seconds = scenario.nodes * scenario.duration_s
        per_node = traffic.per_node()
        links, relayed = self._network.count_links()
        milestones = judge.milestones()
        convergence = convergence_of(milestones)
        late_s = scenario.nodes * scenario.duration_s / 2
        idle = (traffic.total() - self._half_bytes) / late_s
        return Report(
            scenario=scenario.name,
            seed=self._seed,
            nodes=scenario.nodes,
            duration_s=scenario.duration_s,
            node_hours=node_seconds / 3600,
            milestones=milestones,
            convergence=convergence,
            wrong_at_end=judge.wrong_count,
            false_suspicions=judge.false_suspicions,
            false_deaths=judge.false_deaths,
            false_suspicion_views=judge.suspicion_views,
            false_death_views=judge.death_views,
            bytes_per_node_per_s=statistics.fmean(per_node) / scenario.duration_s,
            bytes_per_node_per_s_max=max(per_node) / scenario.duration_s,
            idle_bytes_per_node_per_s=idle,
            relayed_bytes=traffic.relayed_bytes,
            messages_per_node_per_s=traffic.messages_sent / node_seconds,
            connections_mean=2 * links / scenario.nodes,
            connections_relayed_share=relayed / links if links else 0.0,
            refusals=dict(sorted(refusals.items())),
            checks=verdicts(
                scenario,
                convergence=convergence,
                wrong_at_end=judge.wrong_count,
                false_deaths=judge.false_deaths,
                node_hours=node_seconds / 3600,
                idle_bytes_per_node_per_s=idle,
            ),
            samples=tuple(self._samples),
            trace=self._trace.digest(),
        )
