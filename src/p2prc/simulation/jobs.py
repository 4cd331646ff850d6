"""A job's world: one submitter, some providers, and links that break at the worst moment.

Runs the shipped coordinator against the shipped lease book. The submitter may die between any two
effects, also between the facts and what follows them; it is then built again from the facts that
were durable. The history is judged as it happens.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from random import Random

from p2prc.model.identity import AttemptId, JobId, LeaseId, NodeId
from p2prc.protocol import lease_events as lending
from p2prc.protocol import messages
from p2prc.protocol.jobs import events as job_events
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.coordinator import Coordinator
from p2prc.protocol.jobs.facts import Fact, decode_fact, encode_fact
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.simulation.clock import VirtualClock
from p2prc.simulation.job_history import JobHistory, PromiseBroken
from p2prc.simulation.job_provider import SimulatedProvider, Work
from p2prc.simulation.job_scenario import SUBMITTER, JobScenario, job_of, workload_of

_UTC_OFFSET_S = 1_700_000_000.0
_GOSSIP_S = 1.0
_DETECTION_S = 6.0


class JobWorld:
    """One run of one scenario with one seed."""

    def __init__(self, scenario: JobScenario, seed: int) -> None:
        self.scenario = scenario
        self.clock = VirtualClock()
        self.rng = Random(seed)  # noqa: S311 - a simulation repeats itself
        self.job = job_of(scenario)
        self._job_id: JobId = self.job.id
        work = Work(
            scenario.duration_s, self._failures(), scenario.spread, is_noisy=scenario.is_noisy
        )
        self.providers = {
            node: SimulatedProvider(
                node,
                cores=scenario.cores
                if scenario.equal_cores
                else self.rng.randint(1, scenario.cores),
                clock=self.clock,
                rng=self._branch(),
                work=work,
                tell=self._from_provider,
            )
            for node in (NodeId(f"{number:02x}" * 32) for number in range(1, scenario.nodes + 1))
        }
        for provider in list(self.providers.values())[: scenario.broken_nodes]:
            provider.is_broken = True
        for provider in list(self.providers.values())[: scenario.lying_nodes]:
            provider.is_lying = True
        slow = list(self.providers.values())[scenario.nodes - scenario.slow_nodes :]
        for provider in slow:
            provider.slowness = scenario.slowness
        self.history = JobHistory(
            lambda node: self.providers[node].capacity.times_it_fits(workload_of(scenario).limits)
        )
        self.placed: dict[TaskKey, AttemptId] = {}
        self.cancelled_at: float | None = None
        self._durable: list[bytes] = []
        self._links = dict.fromkeys(self.providers, 0)
        self._is_linked = dict.fromkeys(self.providers, True)
        self._last_delivery: dict[tuple[NodeId, bool], float] = {}
        self._asked: dict[LeaseId, NodeId] = {}
        self._storing: dict[AttemptId, NodeId] = {}
        self._life = 0
        self._coordinator: Coordinator | None = None

    def _failures(self) -> dict[TaskKey, int]:
        scenario = self.scenario
        tasks = self.rng.sample(range(scenario.tasks), scenario.tasks)
        failing = tasks[: scenario.failing_tasks]
        hopeless = tasks[scenario.failing_tasks :][: scenario.hopeless_tasks]
        often = {TaskKey(0, task): scenario.retries for task in failing}
        return often | {TaskKey(0, task): 1_000_000 for task in hopeless}

    def _branch(self) -> Random:
        return Random(self.rng.random())  # noqa: S311 - a simulation repeats itself

    # -- running it

    def run(self) -> Ledger:
        """Let it all happen; raise `PromiseBroken`, or return the ledger at the end."""
        self._start_submitter()
        self._schedule_misfortunes()
        self._gossip()
        if self.scenario.cancel_at is not None:
            self.clock.call_at(self.scenario.cancel_at, self._cancel)
        while self.clock.now < self.scenario.ends_at and not self._is_over():
            self.clock.run_until(self.clock.now + 5.0)
        ledger = Ledger(self.job, self._facts())
        if not ledger.is_ended:
            raise PromiseBroken(f"not ended: {ledger.counts}")
        if self._coordinator is not None and self._coordinator.ledger.counts != ledger.counts:
            raise PromiseBroken("the durable facts give another state")
        return ledger

    def _is_over(self) -> bool:
        has_ended = self._coordinator is not None and self._coordinator.is_settled
        is_clean = not any(provider.lease_count for provider in self.providers.values())
        return has_ended and is_clean and self.clock.now > self.scenario.calm_at

    def _facts(self) -> list[Fact]:
        return [decode_fact(fact) for fact in self._durable]

    def _start_submitter(self) -> None:
        self._coordinator = Coordinator(
            Ledger(self.job, self._facts()),
            self._branch(),
            utc_offset_s=_UTC_OFFSET_S,
        )
        self._tell_offers()

    def _tell_offers(self) -> None:
        offers = tuple(
            provider.offer(is_reachable=self._is_linked[node])
            for node, provider in self.providers.items()
        )
        self._feed(job_events.OffersChanged(offers))

    def _gossip(self) -> None:
        self._tell_offers()
        self.clock.call_later(_GOSSIP_S * self.rng.uniform(0.5, 1.5), self._gossip)

    def _cancel(self) -> None:
        if self._coordinator is None:
            self.clock.call_later(1.0, self._cancel)
            return
        self.cancelled_at = self.clock.now
        self._feed(job_events.CancelRequested())
        if self._coordinator is None and not self.history.is_cancelled:
            # It died before the wish was durable: the person asks again.
            self.clock.call_later(1.0, self._cancel)

    # -- misfortunes

    def _schedule_misfortunes(self) -> None:
        scenario = self.scenario
        for node in self.providers:
            self._repeat(scenario.provider_crash_rate, partial(self._crash, node))
            self._repeat(scenario.link_break_rate, partial(self._break_link, node))
            kill = self.providers[node].kill_all
            self._repeat(scenario.owner_kill_rate, kill)
        self._repeat(scenario.submitter_crash_rate, self._kill_submitter)

    def _repeat(self, rate: float, misfortune: Callable[[], None]) -> None:
        if rate <= 0:
            return

        def happen() -> None:
            if self.clock.now < self.scenario.calm_at:
                misfortune()
                self.clock.call_later(self.rng.expovariate(rate), happen)

        self.clock.call_later(self.rng.expovariate(rate), happen)

    def _crash(self, node: NodeId) -> None:
        provider = self.providers[node]
        if not provider.is_up:
            return
        provider.crash()
        self._break_link(node)
        self.clock.call_later(self.rng.uniform(0.5, 30.0), provider.restart)

    def _break_link(self, node: NodeId) -> None:
        if not self._is_linked[node]:
            return
        self._is_linked[node] = False
        self._links[node] += 1
        provider_life = self.providers[node].life
        life = self._life

        def notice() -> None:
            if self._life == life:
                self._notice_loss(node)
            if self.providers[node].life == provider_life:
                self.providers[node].feed(lending.PeerGone(SUBMITTER))
            self.clock.call_later(self.rng.uniform(0.0, 20.0), lambda: self._relink(node))

        self.clock.call_later(self.rng.uniform(0.0, _DETECTION_S), notice)

    def _notice_loss(self, node: NodeId) -> None:
        for lease in [lease for lease, owner in self._asked.items() if owner == node]:
            del self._asked[lease]
            self.history.slot_gone(lease)
            refused = job_events.SlotRefused(node, lease, "peer-lost", "lost", is_retryable=True)
            self._feed(refused)
        for attempt in [one for one, owner in self._storing.items() if owner == node]:
            del self._storing[attempt]
            self._feed(job_events.OutputsFailed(attempt, "peer-lost", "lost", is_peer_fault=True))
        self.history.node_gone(node)
        self._feed(job_events.NodeLost(node))

    def _relink(self, node: NodeId) -> None:
        provider = self.providers[node]
        if not provider.is_up or self._coordinator is None:
            self.clock.call_later(1.0, lambda: self._relink(node))
            return
        self._is_linked[node] = True
        provider.feed(lending.PeerReturned(SUBMITTER))
        self._tell_offers()

    def _kill_submitter(self) -> None:
        if self._coordinator is None:
            return
        self._coordinator = None
        self._life += 1
        self._asked.clear()
        self._storing.clear()
        self.history.submitter_gone()
        for node in self.providers:
            self._break_link(node)
        self.clock.call_later(self.rng.uniform(0.1, 15.0), self._start_submitter)

    # -- the submitter's driver

    def _feed(self, event: job_events.Event) -> None:
        coordinator = self._coordinator
        if coordinator is None:
            return
        life = self._life
        for effect in coordinator.handle(event, self.clock.now):
            if self._dies_now():
                self._kill_submitter()
                return
            self._perform(effect)
        if (deadline := coordinator.deadline) is not None:
            if deadline <= self.clock.now:
                raise PromiseBroken("a deadline in the past: the driver would spin")
            self.clock.call_at(deadline, lambda: self._tick(life))

    def _dies_now(self) -> bool:
        is_calm = self.clock.now >= self.scenario.calm_at
        return not is_calm and self.rng.random() < self.scenario.death_between_effects

    def _tick(self, life: int) -> None:
        if self._life == life and self._coordinator is not None:
            deadline = self._coordinator.deadline
            if deadline is not None and deadline <= self.clock.now:
                self._feed(job_events.Tick())

    def _perform(self, effect: job_events.Effect) -> None:
        self.history.performed(effect)
        match effect:
            case job_events.AppendFacts():
                for fact in effect.facts:
                    self._durable.append(encode_fact(fact))
                    self.history.written(fact)
            case job_events.OpenSlot():
                self._asked[effect.lease] = effect.node
                request = messages.RequestLease(
                    effect.lease, effect.workload, self._job_id, effect.is_isolated
                )
                self._to_provider(effect.node, request)
            case job_events.CloseSlot():
                self._asked.pop(effect.lease, None)
                self._to_provider(effect.node, messages.EndLease(effect.lease))
            case job_events.StartAttempt():
                start = messages.StartAttempt(effect.lease, effect.attempt, effect.command)
                self._to_provider(effect.node, start)
            case job_events.CancelAttempt():
                self._storing.pop(effect.attempt, None)
                self._to_provider(effect.node, messages.CancelAttempt(effect.attempt))
            case job_events.Acknowledge():
                self._to_provider(effect.node, messages.AcknowledgeAttempt(effect.attempt))
            case job_events.AskAttempts():
                self._to_provider(effect.node, messages.AskAttempts(self._job_id))
            case job_events.StoreOutputs():
                self._store(effect)
            case job_events.CompareOutputs():
                self._compare(effect)
            case job_events.JobBlocked() | job_events.JobEnded():
                pass

    def _store(self, effect: job_events.StoreOutputs) -> None:
        self._storing[effect.attempt] = effect.node
        life = self._life

        def arrive() -> None:
            if self._life != life or self._storing.pop(effect.attempt, None) is None:
                return
            if self.clock.now < self.scenario.disk_full_s:
                failed = job_events.OutputsFailed(
                    effect.attempt, "disk-full", "the disk is full", is_peer_fault=False
                )
                self._feed(failed)
            elif effect.attempt not in self.providers[effect.node].shelf:
                # It was cancelled while its end was on the way; the history objects to worse.
                gone = job_events.OutputsFailed(
                    effect.attempt, "file-unknown", "no such tree", is_peer_fault=True
                )
                self._feed(gone)
            else:
                self.placed[effect.task] = effect.attempt
                self._feed(job_events.OutputsStored(effect.attempt))

        if self._is_linked[effect.node]:
            self.clock.call_later(self.rng.uniform(0.01, 0.5), arrive)
        elif self._coordinator is not None:
            self.clock.call_later(0.01, lambda: self._lose_fetch(effect, life))

    def _compare(self, effect: job_events.CompareOutputs) -> None:
        """Pictures are the same up to their last digits, which are noise."""
        life = self._life
        made = effect.first, effect.second
        attempts = effect.first.attempt, effect.second.attempt

        def look() -> None:
            if self._life != life:
                return
            for each in made:
                shelf = self.providers[each.node].shelf
                if not self._is_linked[each.node] or each.attempt not in shelf:
                    self._feed(
                        job_events.OutputsCompared(*attempts, None, "lost", lost=each.attempt)
                    )
                    return
            first, second = (each.outputs[:60] for each in made)
            self._feed(job_events.OutputsCompared(*attempts, first == second))

        self.clock.call_later(self.rng.uniform(0.1, 2.0), look)

    def _lose_fetch(self, effect: job_events.StoreOutputs, life: int) -> None:
        if self._life == life and self._storing.pop(effect.attempt, None) is not None:
            lost = job_events.OutputsFailed(effect.attempt, "peer-lost", "", is_peer_fault=True)
            self._feed(lost)

    # -- letters, in order, until the link breaks

    def _to_provider(self, node: NodeId, body: messages.Control) -> None:
        if not self._is_linked[node]:
            if isinstance(body, messages.RequestLease):
                self.clock.call_later(0.01, lambda: self._refuse_unreachable(node, body.lease))
            return
        provider = self.providers[node]
        self._deliver(node, is_outward=True, call=lambda: provider.hear(SUBMITTER, body))

    def _refuse_unreachable(self, node: NodeId, lease: LeaseId) -> None:
        if self._asked.pop(lease, None) is not None:
            self.history.slot_gone(lease)
            self._feed(
                job_events.SlotRefused(
                    node, lease, "peer-unreachable", "no path", is_retryable=True
                )
            )

    def _from_provider(self, provider: SimulatedProvider, body: messages.Control) -> None:
        if self._is_linked[provider.node]:
            node = provider.node
            self._deliver(node, is_outward=False, call=lambda: self._hear(node, body))

    def _deliver(self, node: NodeId, *, is_outward: bool, call: Callable[[], None]) -> None:
        link = self._links[node]
        at = self.clock.now + self.rng.uniform(0.001, 0.05)
        at = max(at, self._last_delivery.get((node, is_outward), 0.0))
        self._last_delivery[node, is_outward] = at

        def arrive() -> None:
            if self._links[node] == link and self._is_linked[node]:
                call()

        self.clock.call_at(at, arrive)

    def _hear(self, node: NodeId, body: messages.Control) -> None:
        match body:
            case messages.LeaseGranted():
                self._asked.pop(body.lease, None)
                self._feed(job_events.SlotOpened(node, body.lease, body.tier))
            case messages.LeaseEnded():
                self._hear_ended(node, body)
            case messages.AttemptEnded():
                self._hear_attempt(node, body)
            case messages.Attempts():
                self._feed(
                    job_events.AttemptsReported(node, body.leases, body.running, body.finished)
                )
            case _:
                raise AssertionError(body)

    def _hear_ended(self, node: NodeId, body: messages.LeaseEnded) -> None:
        self.history.slot_gone(body.lease)
        if not body.ended_by.startswith("refused"):
            ended = job_events.SlotEnded(node, body.lease, body.ended_by, body.reason)
            self._feed(ended)
        elif self._asked.pop(body.lease, None) is not None:
            code = body.ended_by.split()[1]
            self._feed(
                job_events.SlotRefused(node, body.lease, code, body.reason, is_retryable=True)
            )

    def _hear_attempt(self, node: NodeId, body: messages.AttemptEnded) -> None:
        if body.outcome.code == "lease-unknown":
            self._feed(
                job_events.StartRefused(node, body.attempt, body.outcome.code, body.outcome.reason)
            )
        else:
            self._feed(job_events.AttemptEnded(node, body.attempt, body.outcome))


def run_job(scenario: JobScenario, seed: int) -> JobWorld:
    """Run one scenario with one seed to its end; raise `PromiseBroken` naming the seed."""
    world = JobWorld(scenario, seed)
    try:
        world.run()
    except PromiseBroken as broken:
        raise PromiseBroken(f"seed {seed}: {broken}") from broken
    return world
