"""A simulated node that lends: the shipped lease book over sandboxes that only pretend.

Like the real one it keeps the outcomes of finished attempts over a crash, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from p2prc.model.identity import AttemptId, BlobId, LeaseId, NodeId
from p2prc.model.resources import GIBIBYTE, Capacity, RuntimeOffer
from p2prc.model.workload import Outcome
from p2prc.protocol import lease_events as lending
from p2prc.protocol import messages
from p2prc.protocol.jobs.attempts import TaskKey, parse_attempt_id
from p2prc.protocol.leases import LeaseBook
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.placement import NodeOffer
from p2prc.simulation.clock import VirtualClock

_RUNTIMES = (RuntimeOffer("process", "userns"),)


@dataclass(frozen=True, slots=True)
class Work:
    """How the tasks of a simulated job behave, wherever they run.

    A task fails as often as `failures` says, counted over all its attempts.
    """

    duration_s: float
    failures: dict[TaskKey, int]
    spread: float = 0.5
    is_noisy: bool = False


class SimulatedProvider:
    """One lending node: `tell` hands a message to the submitter, if the link stands."""

    def __init__(
        self,
        node: NodeId,
        *,
        cores: int,
        clock: VirtualClock,
        rng: Random,
        work: Work,
        tell: Callable[[SimulatedProvider, messages.Control], None],
    ) -> None:
        self.node = node
        self.is_up = True
        self.is_broken = False
        self.is_lying = False
        self.slowness = 1.0
        self.life = 0
        self.shelf: dict[AttemptId, Outcome] = {}
        self.running: dict[AttemptId, LeaseId] = {}
        self.capacity = Capacity(cores * 1000, cores * 8 * GIBIBYTE, cores * 64 * GIBIBYTE)
        self._clock = clock
        self._rng = rng
        self._work = work
        self._tell = tell
        self._book = self._new_book()

    @property
    def lease_count(self) -> int:
        """How many leases hold something here."""
        return len(self._book.leases()) if self.is_up else 0

    def offer(self, *, is_reachable: bool) -> NodeOffer:
        """Return what this node says about itself."""
        return NodeOffer(
            node=self.node,
            name=f"node-{self.node[:2]}",
            is_reachable=is_reachable,
            is_lending=True,
            lent=self.capacity,
            free=self._book.free,
            runtimes=_RUNTIMES,
            python="3.11",
            latency_s=0.01,
        )

    def _new_book(self) -> LeaseBook:
        return LeaseBook(self.capacity, LendingPolicy(), _RUNTIMES)

    # -- what befalls it

    def crash(self) -> None:
        """Lose everything but the shelf."""
        self.is_up = False
        self.life += 1
        self.running.clear()
        self._book = self._new_book()

    def restart(self) -> None:
        """Begin again."""
        self.is_up = True

    def kill_all(self) -> None:
        """Its owner ends every lease."""
        self.feed(lending.OwnerKilled(is_all=True))

    # -- what it hears

    def hear(self, submitter: NodeId, body: messages.Control) -> None:
        """Take a letter of the submitter."""
        match body:
            case messages.RequestLease():
                self.feed(lending.LeaseRequested(submitter, body))
            case messages.EndLease():
                self.feed(lending.LeaseEndRequested(submitter, body.lease))
            case messages.StartAttempt():
                self._start(body)
            case messages.AcknowledgeAttempt():
                self.shelf.pop(body.attempt, None)
            case messages.CancelAttempt():
                self.running.pop(body.attempt, None)
                self.shelf.pop(body.attempt, None)
            case messages.AskAttempts():
                self._tell_attempts()
            case _:
                raise AssertionError(body)

    def feed(self, event: lending.Event) -> None:
        """Let the book decide, and perform what it asks."""
        if not self.is_up:
            return
        for effect in self._book.handle(event, self._clock.now):
            self._perform(effect)
        if (deadline := self._book.deadline) is not None:
            self._later_at(deadline, lambda: self.feed(lending.Tick()))

    def _perform(self, effect: lending.Effect) -> None:
        match effect:
            case lending.CreateSandbox():
                ready = lending.SandboxReady(effect.lease)
                self._later(self._rng.uniform(0.01, 0.5), lambda: self.feed(ready))
            case lending.Granted():
                self._tell(
                    self, messages.LeaseGranted(effect.lease, effect.expires_in_s, effect.tier)
                )
            case lending.Refuse():
                # The real one answers a letter; here the lease's id says which request it was.
                self._tell(
                    self,
                    messages.LeaseEnded(effect.lease, f"refused {effect.code}", effect.message),
                )
            case lending.EndSandbox():
                self._stop_attempts(effect.lease)
                gone = lending.SandboxEnded(effect.lease)
                self._later(self._rng.uniform(0.0, 0.3), lambda: self.feed(gone))
            case lending.TellEnded():
                self._tell(self, messages.LeaseEnded(effect.lease, effect.ended_by, effect.reason))
            case lending.ConfirmEnd():
                pass

    def _stop_attempts(self, lease: LeaseId) -> None:
        for attempt, place in list(self.running.items()):
            if place == lease:
                del self.running[attempt]

    # -- attempts

    def _start(self, body: messages.StartAttempt) -> None:
        is_held = any(view.lease == body.lease for view in self._book.leases())
        if self._book.holder_of(body.lease) is None or not is_held:
            refused = Outcome(None, code="lease-unknown", reason="refused to start")
            self._tell(self, messages.AttemptEnded(body.attempt, refused))
            return
        if body.attempt in self.shelf or body.attempt in self.running:
            raise AssertionError(f"started twice: {body.attempt}")
        self.running[body.attempt] = body.lease
        spread = self._work.spread
        lasts_s = self._work.duration_s * self._rng.uniform(1 - spread, 1 + spread)
        lasts_s *= self.slowness
        self._later(lasts_s, lambda: self._finish(body.attempt, lasts_s))

    def _finish(self, attempt: AttemptId, lasted_s: float) -> None:
        if self.running.pop(attempt, None) is None:
            return
        self.shelf[attempt] = self._outcome(attempt, lasted_s)
        self._tell(self, messages.AttemptEnded(attempt, self.shelf[attempt]))

    def _outcome(self, attempt: AttemptId, lasted_s: float) -> Outcome:
        _, key, _ = parse_attempt_id(attempt)
        left = self._work.failures.get(key, 0)
        if left > 0 or self.is_broken:
            self._work.failures[key] = left - 1
            return Outcome(1, code="work-failed", reason="exit status 1", duration_s=lasted_s)
        noise = self._rng.randrange(1 << 16) if self._work.is_noisy else 0
        liar = self.node[:2] if self.is_lying else ""
        outputs = BlobId(f"{liar}{key.task:0{60 - len(liar)}x}{noise:04x}")
        return Outcome(0, outputs=outputs, output_bytes=100, duration_s=lasted_s)

    def _tell_attempts(self) -> None:
        leases = tuple(view.lease for view in self._book.leases())
        self._tell(self, messages.Attempts(leases, tuple(self.running), tuple(self.shelf)))
        for attempt, outcome in self.shelf.items():
            self._tell(self, messages.AttemptEnded(attempt, outcome))

    # -- time, within one life

    def _later(self, delay_s: float, callback: Callable[[], None]) -> None:
        self._later_at(self._clock.now + delay_s, callback)

    def _later_at(self, at: float, callback: Callable[[], None]) -> None:
        life = self.life

        def call() -> None:
            if self.life == life and self.is_up:
                callback()

        self._clock.call_at(at, call)
