"""One node's part in a job: its ledger, whether it carries the job on, and what it keeps of it.

Theory of operation. Every holder has the ledger, as logs of pages, and a `Custody` that says who
carries the job on; the one who does has a `Coordinator`, whose facts go on pages. Pages of others
are sifted and stored by the driver before they come here. The job's state follows from the set of
facts, so it does not matter who wrote them, in what order they came, or how often.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from random import Random

from msgspec.structs import replace

from p2prc.errors import WireError
from p2prc.model.identity import JobId, NodeId, random_id
from p2prc.protocol.jobs import events as coordination
from p2prc.protocol.jobs.attempts import TaskKey, attempt_id, parse_attempt_id
from p2prc.protocol.jobs.coordinator import Coordinator
from p2prc.protocol.jobs.custody import Custody
from p2prc.protocol.jobs.facts import (
    CoordinatorTook,
    Fact,
    JobCancelled,
    KeepersNamed,
    TaskSucceeded,
)
from p2prc.protocol.jobs.gathering import Gathering
from p2prc.protocol.jobs.holding import (
    CandidatesChanged,
    Effect,
    Event,
    HandedOver,
    HandOverFailed,
    Heard,
    HolderSettings,
    ResultFetched,
    ResultNotFetched,
    Seal,
    Succeeds,
    SyncAnswered,
    SyncFailed,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.pages import LogLength, LogName, Logs, Page, SignedPage, in_pages
from p2prc.protocol.jobs.settings import CoordinatorSettings
from p2prc.protocol.jobs.sharing import Claim
from p2prc.protocol.placement import NodeOffer


class Holder:
    """A node that holds a job. `utc_offset_s` added to `now` gives seconds since 1970 in UTC.

    `loose` are those facts of the ledger that an earlier life wrote and did not put on a page.
    """

    def __init__(
        self,
        own: NodeId,
        ledger: Ledger,
        rng: Random,
        *,
        loose: Sequence[Fact] = (),
        logs: Iterable[LogLength] = (),
        utc_offset_s: float = 0.0,
        settings: HolderSettings | None = None,
        coordinator_settings: CoordinatorSettings | None = None,
    ) -> None:
        self.ledger = ledger
        self._own = own
        self._job_id: JobId = ledger.job_id
        self._rng = rng
        self._utc_offset_s = utc_offset_s
        self._settings = settings or HolderSettings()
        self._coordinator_settings = coordinator_settings
        self.logs = Logs(logs)
        self._life = random_id(rng)
        while self.logs.count(LogName(own, self._life)):
            self._life = random_id(rng)
        self._loose = list(loose)
        self._sealed = 0
        self._has_written = bool(loose) or any(one.author == own for one in self.logs.lengths())
        self._custody: Custody | None = None
        self._coordinator: Coordinator | None = None
        self._gathering = Gathering(own, ledger, self._settings)
        self._offers: tuple[NodeOffer, ...] = ()
        self._slots_allowed = coordination.SlotsAllowed(None)
        self._effects: list[Effect] = []
        self._has_cleared = False
        self._wake_at: float | None = None

    # -- what others see

    @property
    def deadline(self) -> float | None:
        """When `handle` wants a Tick."""
        return self._wake_at

    @property
    def is_submitter(self) -> bool:
        """Whether the job is this node's own."""
        return self._own == self.ledger.job.submitter

    @property
    def epoch(self) -> int | None:
        """The epoch in which this node carries the job on, None when it does not."""
        return None if self._custody is None else self._custody.epoch

    @property
    def is_named(self) -> bool:
        """Whether the ledger knows this node; one that was given the job and not named is none."""
        return self._own in self.ledger.holders

    @property
    def is_safe(self) -> bool:
        """Whether the job survives its submitter."""
        return self._custody is not None and self._custody.is_safe

    @property
    def safety_reason(self) -> str:
        """Why it would not."""
        return "" if self._custody is None else self._custody.reason

    @property
    def claim(self) -> Claim | None:
        """What this node would use for the job; None where it does not carry it on, or nothing."""
        return None if self._coordinator is None else self._coordinator.claim

    @property
    def left_out(self) -> dict[NodeId, str]:
        """The nodes that get nothing more of this job, and why, as far as is known here."""
        return {} if self._coordinator is None else self._coordinator.left_out

    @property
    def is_settled(self) -> bool:
        """Whether the job has ended, and nothing is left to be told or fetched."""
        is_told = self._coordinator is None or self._coordinator.is_settled
        has_told = not self._loose or len(self.ledger.holders) == 1
        return self.ledger.is_ended and is_told and has_told and self._gathering.is_over

    # -- events

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take the event; then do what is due. Pages come before what follows them."""
        if self._custody is None:
            self._custody = Custody(self._own, self.ledger, self.logs, self._settings, now)
        self._take(event, self._custody, now)
        self._carry_on(self._custody, now)
        self._wake_at = min(
            (at for at in self._wakes(self._custody, now) if at > now), default=None
        )
        effects, self._effects = self._effects, []
        return effects

    def _take(self, event: Event, custody: Custody, now: float) -> None:
        match event:
            case CandidatesChanged():
                custody.candidates(event)
            case Heard():
                self._merge(event.pages, now)
                custody.heard(event, now)
            case SyncAnswered():
                self._merge(event.said.pages, now)
                custody.answered(event, now)
            case SyncFailed():
                custody.failed(event)
            case HandedOver():
                if custody.handed_over(event):
                    self._write([KeepersNamed((event.node,), self._at(now))], now)
            case HandOverFailed():
                custody.refused(event, now)
            case ResultFetched():
                self._fetched(self._gathering.fetched(event), now)
            case ResultNotFetched():
                self._gathering.failed(event, now)
            case coordination.SlotsAllowed():
                self._slots_allowed = event
                self._coordinate(event, now)
            case coordination.OffersChanged():
                self._offers = event.offers
                self._coordinate(event, now)
            case _ if self._coordinator is not None:
                self._coordinate(event, now)
            case _:
                self._without_coordinator(event, custody, now)

    def _coordinate(self, event: coordination.Event, now: float) -> None:
        if self._coordinator is None:
            return
        for effect in self._coordinator.handle(event, now):
            match effect:
                case coordination.AppendFacts():
                    self._append(effect.facts)
                    self._consider(effect.facts)
                case coordination.Acknowledge() if self._has_to_stay(effect):
                    pass
                case _:
                    self._effects.append(effect)

    def _has_to_stay(self, effect: coordination.Acknowledge) -> bool:
        """Whether the submitter lacks that result: until it has it, its provider keeps it too."""
        try:
            _, task, attempt = parse_attempt_id(effect.attempt)
        except WireError:
            return False
        fact = self.ledger.results.get(task)
        return (
            fact is not None
            and fact.attempt == attempt
            and fact.node == effect.node
            and fact.outputs is not None
            and not fact.is_collected
        )

    def _without_coordinator(self, event: coordination.Event, custody: Custody, now: float) -> None:
        """Another carries the job on, or nobody yet: wishes are facts, leases are given back."""
        match event:
            case coordination.CancelRequested() if not self.ledger.is_ended:
                self._write([JobCancelled(self._at(now))], now)
            case coordination.RetryRequested() if not self.ledger.is_cancelled:
                self._write(self.ledger.retry(self._at(now)), now)
            case coordination.SlotOpened():
                self._say(coordination.CloseSlot(event.node, event.lease))
            case coordination.AttemptEnded() if not custody.is_probing(now):
                said = coordination.Acknowledge(event.node, event.attempt)
                if not self._has_to_stay(said):
                    self._say(said)
            case coordination.AttemptsReported() if not custody.is_probing(now):
                for lease in event.leases:
                    self._say(coordination.CloseSlot(event.node, lease))
                for attempt in event.running:
                    self._say(coordination.CancelAttempt(event.node, attempt))
            case _:
                pass

    # -- facts

    def _at(self, now: float) -> float:
        return max(0.0, now + self._utc_offset_s)

    def _write(self, facts: Sequence[Fact], now: float) -> None:
        for fact in facts:
            self.ledger.apply(fact)
        self._append(facts)
        if self._coordinator is not None:
            self._coordinate(coordination.FactsMerged(tuple(facts)), now)

    def _append(self, facts: Sequence[Fact]) -> None:
        if facts:
            self._has_written = True
            self._loose += facts
            self._effects.append(coordination.AppendFacts(tuple(facts)))

    def _seal(self) -> None:
        """Put what is loose on pages: it is about to be sent."""
        pages = []
        for facts in in_pages(self._loose):
            page = Page(self._job_id, self._life, self._sealed, facts)
            self._sealed += 1
            self.logs.add(SignedPage(self._own, page))
            pages.append(page)
        self._loose = []
        self._effects.append(Seal(tuple(pages)))

    def _merge(self, pages: Sequence[SignedPage], now: float) -> None:
        facts = []
        for signed in pages:
            if signed.page.number != self.logs.count(signed.log):
                continue
            self.logs.add(signed)
            for fact in signed.page.facts:
                self.ledger.apply(fact)
                facts.append(fact)
        self._consider(facts)
        if facts:
            self._coordinate(coordination.FactsMerged(tuple(facts)), now)

    def _consider(self, facts: Sequence[Fact]) -> None:
        for fact in facts:
            if not isinstance(fact, TaskSucceeded):
                continue
            self._gathering.consider(fact)
            if fact.is_collected and not self.is_submitter and self._has_written:
                # It may have been told to us: now its provider may forget it.
                attempt = attempt_id(self._job_id, TaskKey(fact.step, fact.task), fact.attempt)
                self._say(coordination.Acknowledge(fact.node, attempt))

    def _fetched(self, fact: TaskSucceeded | None, now: float) -> None:
        """The submitter has what another accepted: that result counts from now on."""
        if fact is not None and self.is_submitter and not fact.is_collected:
            self._write([replace(fact, is_collected=True)], now)

    # -- carrying on

    def _say(self, effect: Effect) -> None:
        self._effects.append(effect)

    def _carry_on(self, custody: Custody, now: float) -> None:
        if custody.must_yield():
            self._stand_down(custody, now)
        if (claim := custody.wants_claim(now)) is not None:
            epoch, is_new = claim
            if is_new:
                self._claim(epoch, now)
            custody.carries_on(epoch, now)
        if custody.epoch is not None and self._coordinator is None and not self.ledger.is_ended:
            self._begin(custody.epoch, now)
        is_idle = self._coordinator is None and not custody.is_probing(now)
        if is_idle and not self._has_cleared:
            self._clear()
        self._gather(now)
        custody.has_loose = bool(self._loose)
        if self._loose and custody.is_sync_due(now):
            self._seal()
            custody.has_loose = False
        self._effects.extend(custody.carry_on(now))

    def _claim(self, epoch: int, now: float) -> None:
        last = self.ledger.claim[1]
        heirs = tuple(node for node in self.ledger.holders if node != self._own)
        # The heirs: so whoever takes over from us can show to others that we let it.
        self._write(
            [CoordinatorTook(epoch, self._own, self._at(now)), KeepersNamed(heirs, self._at(now))],
            now,
        )
        self._say(Succeeds(last, tuple(self.ledger.nodes)))

    def _begin(self, epoch: int, now: float) -> None:
        self._coordinator = Coordinator(
            self.ledger,
            self._rng,
            utc_offset_s=self._utc_offset_s,
            settings=self._coordinator_settings,
            epoch=epoch,
            is_submitter=self.is_submitter,
        )
        self._coordinate(self._slots_allowed, now)
        self._coordinate(coordination.OffersChanged(self._offers), now)

    def _stand_down(self, custody: Custody, now: float) -> None:
        custody.carries_on(None, now)
        self._has_cleared = False
        if self._coordinator is None:
            return
        self._coordinate(coordination.StoodDown(), now)
        self._coordinator = None
        self._say(coordination.JobBlocked(None))

    def _clear(self) -> None:
        """Ask what nodes hold for an earlier life of ours, to let it go: it is not needed."""
        self._has_cleared = True
        if self._has_written:
            for node in self.ledger.nodes:
                self._say(coordination.AskAttempts(node))

    def _gather(self, now: float) -> None:
        for wanted in list(self._gathering.begin(now)):
            if isinstance(wanted, TaskSucceeded):
                self._fetched(wanted, now)
            else:
                self._say(wanted)

    def _wakes(self, custody: Custody, now: float) -> Iterator[float]:
        yield from (at for at in custody.wakes(now) if at != float("inf"))
        yield from self._gathering.wakes(now)
        if self._coordinator is not None and self._coordinator.deadline is not None:
            yield self._coordinator.deadline
