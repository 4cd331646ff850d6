"""Where outputs go that were accepted elsewhere: all to the submitter, a share to each keeper.

A keeper keeps what it made itself, and of what no keeper made its share, until the submitter has
everything: so each result is on two nodes or more, and most are copied to nobody for it.
"""

from __future__ import annotations

from collections.abc import Iterator

from p2prc.model.identity import NodeId
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.facts import TaskSucceeded
from p2prc.protocol.jobs.holding import FetchResult, HolderSettings, ResultFetched, ResultNotFetched
from p2prc.protocol.jobs.ledger import Ledger


class Gathering:
    """Which results this node still has to fetch, some at a time."""

    def __init__(self, own: NodeId, ledger: Ledger, settings: HolderSettings) -> None:
        self._own = own
        self._ledger = ledger
        self._settings = settings
        self._is_submitter = own == ledger.job.submitter
        self._wanted: dict[TaskKey, float] = dict.fromkeys(ledger.results, 0.0)
        self._fetching: dict[TaskKey, TaskSucceeded] = {}

    @property
    def is_over(self) -> bool:
        """Whether nothing is left to be fetched."""
        return not self._wanted and not self._fetching

    def consider(self, fact: TaskSucceeded) -> None:
        """A result was accepted."""
        self._wanted[TaskKey(fact.step, fact.task)] = 0.0

    def fetched(self, event: ResultFetched) -> TaskSucceeded | None:
        """Return the fact whose outputs are here now."""
        fact = self._fetching.get(event.task)
        if fact is None or fact.attempt != event.attempt:
            return None
        return self._fetching.pop(event.task)

    def failed(self, event: ResultNotFetched, now: float) -> None:
        """Try again after a while."""
        fact = self._fetching.get(event.task)
        if fact is not None and fact.attempt == event.attempt:
            del self._fetching[event.task]
            self._wanted[event.task] = now + self._settings.again_s

    def begin(self, now: float) -> Iterator[FetchResult | TaskSucceeded]:
        """Yield what to fetch now, and results of which there is nothing to fetch."""
        for task, at in list(self._wanted.items()):
            if len(self._fetching) >= self._settings.fetches:
                return
            if at > now or task in self._fetching:
                continue
            del self._wanted[task]
            fact = self._ledger.results.get(task)
            if fact is None or not self._is_mine(fact):
                continue
            if fact.outputs is None:
                yield fact
                continue
            self._fetching[task] = fact
            yield FetchResult(task, fact.attempt, fact.outputs, self._sources(fact))

    def wakes(self, now: float) -> Iterator[float]:
        """Yield when a fetch is tried again."""
        if len(self._fetching) < self._settings.fetches:
            yield from (at for at in self._wanted.values() if at > now)

    def _is_mine(self, fact: TaskSucceeded) -> bool:
        if self._is_submitter:
            return not fact.is_collected
        if fact.outputs is None or (self._ledger.is_ended and self._ledger.is_all_collected):
            return False
        keepers = self._ledger.keepers
        if fact.node in keepers:
            return fact.node == self._own
        return bool(keepers) and keepers[fact.task % len(keepers)] == self._own

    def _sources(self, fact: TaskSucceeded) -> tuple[NodeId, ...]:
        """Return who may have the outputs, the likeliest first."""
        _, coordinator = self._ledger.claim
        likely = [fact.node, coordinator, *self._ledger.holders]
        return tuple(dict.fromkeys(likely))
