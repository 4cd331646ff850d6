"""The lending side: drives the lease book and runs what the holders of leases ask for.

Outcomes of a job's attempts are kept on disk until the submitter acknowledges them, so neither
side's crash loses finished work. Work that is running when this node dies is lost, and the
submitter places it elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from p2prc.errors import LeaseUnknown, P2prcError, PeerBusy
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId
from p2prc.model.resources import Capacity, Usage
from p2prc.model.workload import Outcome
from p2prc.node.drive import Driver
from p2prc.node.grants import Grants
from p2prc.node.link import Answer
from p2prc.node.places import Place, Places
from p2prc.node.post import Post
from p2prc.node.tasks import Tasks, Work
from p2prc.protocol import leases as lending
from p2prc.protocol.leases import LeaseBook, LeaseView
from p2prc.protocol.messages import (
    AcknowledgeAttempt,
    AskAttempts,
    AttemptEnded,
    Attempts,
    CancelAttempt,
    Control,
    Done,
    EndLease,
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    Refused,
    RequestLease,
    RunCommand,
    StartAttempt,
)
from p2prc.runtime.port import OutputChunk
from p2prc.storage.attempts import AttemptShelf
from p2prc.storage.blobs import BlobStore

log = logging.getLogger(__name__)
Key = tuple[NodeId, LeaseId]


@dataclass(frozen=True, slots=True)
class LeaseReading:
    """A lease as its owner sees it: who, what, and what it uses now."""

    lease: LeaseView
    usage: Usage


class Provider:
    """Lends places by the book and keeps outcomes until they are fetched."""

    def __init__(
        self,
        *,
        book: LeaseBook,
        places: Places,
        blobs: BlobStore,
        shelf: AttemptShelf,
        grants: Grants,
        post: Post,
        tasks: Tasks,
        capacity_changed: Callable[[], None],
    ) -> None:
        self._book = book
        self._driver = Driver(book, self._perform, tick=lending.Tick)
        self._places = places
        self._blobs = blobs
        self._shelf = shelf
        self._grants = grants
        self._post = post
        self._tasks = tasks
        self._capacity_changed = capacity_changed
        self._open: dict[Key, Place] = {}
        self._making: dict[Key, Work[None]] = {}
        self._asked: dict[Key, list[Answer]] = {}
        self._running: dict[tuple[NodeId, AttemptId], Place] = {}
        self._endings: set[Work[None]] = set()

    def start(self) -> None:
        """Take up the outcomes that the last run left: their trees stay and may be fetched."""
        for held in self._shelf.all():
            if held.outcome.outputs is not None:
                self._keep_outputs(held.peer, held.attempt, held.outcome.outputs)

    # -- what owners see and do ---------------------------------------------------------------

    @property
    def free(self) -> Capacity:
        """What could be lent now."""
        return self._book.free

    @property
    def is_lending(self) -> bool:
        """Whether anything new would be lent."""
        return self._book.is_lending

    async def readings(self) -> list[LeaseReading]:
        """Return every lease with what it uses."""
        found = []
        for view in self._book.leases():
            place = self._open.get((view.peer, view.lease))
            usage = Usage() if place is None else await place.sandbox.usage()
            found.append(LeaseReading(view, usage))
        return found

    def count(self) -> int:
        """Return how many leases there are."""
        return len(self._book.leases())

    async def kill(self, keys: list[Key]) -> None:
        """End leases in the owner's name, and wait until they are gone."""
        self._driver.feed(lending.OwnerKilled(tuple(keys)))
        await self._settle()

    def pause(self) -> None:
        """Lend nothing new."""
        self._driver.feed(lending.Paused())

    def resume(self) -> None:
        """Lend again."""
        self._driver.feed(lending.Resumed())

    async def close(self) -> None:
        """End every lease: the node stops."""
        keys = [(view.peer, view.lease) for view in self._book.leases()]
        self._driver.feed(lending.OwnerKilled(tuple(keys), reason="the node stops"))
        await self._settle()
        self._driver.stop()

    async def _settle(self) -> None:
        async with asyncio.timeout(10):
            while self._endings:
                await asyncio.wait(set(self._endings))

    # -- letters --------------------------------------------------------------------------------

    def letter(self, peer: NodeId, body: Control, answer: Answer | None) -> bool:
        """Take a letter if it is for a provider; say whether it was."""
        say: Answer = answer or _nobody
        match body:
            case RequestLease():
                self._asked.setdefault((peer, body.lease), []).append(say)
                self._driver.feed(lending.LeaseRequested(peer, body))
            case EndLease():
                self._driver.feed(lending.LeaseEndRequested(peer, body.lease))
                say(Done())
            case StartAttempt():
                self._start_attempt(peer, body, say)
            case AcknowledgeAttempt():
                self._forget(peer, body.attempt)
                say(Done())
            case CancelAttempt():
                self._cancel_attempt(peer, body.attempt)
                say(Done())
            case AskAttempts():
                self._tell_attempts(peer, body.job, say)
            case _:
                return False
        return True

    def peer_gone(self, peer: NodeId) -> None:
        """Start counting a requester's absence."""
        self._driver.feed(lending.PeerGone(peer))

    def peer_back(self, peer: NodeId) -> None:
        """Stop counting it."""
        self._driver.feed(lending.PeerBack(peer))

    # -- a command with its output streamed ------------------------------------------------------

    async def run(
        self,
        peer: NodeId,
        request: RunCommand,
        printed: Callable[[OutputChunk], Awaitable[None]],
    ) -> Outcome:
        """Run in the peer's lease; cancelling this kills the command. Raises LeaseUnknown."""
        place = self._open.get((peer, request.lease))
        if place is None:
            raise LeaseUnknown(f"no lease {request.lease} of yours is open here")
        try:
            outcome = await self._places.run(place, request.command, printed)
        except asyncio.CancelledError:
            await self._places.cancel(place)
            raise
        if outcome.outputs is not None:
            self._grants.allow(peer, outcome.outputs, reason=place.token)
        return outcome

    # -- attempts ----------------------------------------------------------------------------------

    def _start_attempt(self, peer: NodeId, body: StartAttempt, say: Answer) -> None:
        key = (peer, body.attempt)
        if key in self._running:
            say(Done())
            return
        if (held := self._shelf.get(peer, body.attempt)) is not None:
            say(Done())
            self._post.tell(peer, AttemptEnded(body.attempt, held))
            return
        place = self._open.get((peer, body.lease))
        if place is None:
            say(_refusal(LeaseUnknown(f"no lease {body.lease} of yours is open here")))
            return
        if place.is_busy or place in self._running.values():
            say(_refusal(PeerBusy("the lease runs another command at present")))
            return
        self._running[key] = place
        say(Done())
        self._tasks.start(self._attempt(place, body), f"attempt {body.attempt}")

    async def _attempt(self, place: Place, body: StartAttempt) -> None:
        key = (place.peer, body.attempt)
        try:
            outcome = await self._places.run(place, body.command, _discard)
            if key not in self._running or (place.peer, place.lease) not in self._open:
                return
            if outcome.outputs is not None:
                self._keep_outputs(place.peer, body.attempt, outcome.outputs)
            self._shelf.put(place.peer, body.attempt, outcome)
        finally:
            self._running.pop(key, None)
        self._post.tell(place.peer, AttemptEnded(body.attempt, outcome))

    def _keep_outputs(self, peer: NodeId, attempt: AttemptId, tree: BlobId) -> None:
        reason = _attempt_reason(peer, attempt)
        self._blobs.pin(reason, tree)
        self._grants.allow(peer, tree, reason=reason)

    def _forget(self, peer: NodeId, attempt: AttemptId) -> None:
        self._shelf.remove(peer, attempt)
        reason = _attempt_reason(peer, attempt)
        self._grants.revoke(reason)
        self._blobs.unpin(reason)

    def _cancel_attempt(self, peer: NodeId, attempt: AttemptId) -> None:
        place = self._running.pop((peer, attempt), None)
        if place is not None:
            self._tasks.start(self._places.cancel(place), f"cancel {attempt}")
        self._forget(peer, attempt)

    def _tell_attempts(self, peer: NodeId, job: JobId, say: Answer) -> None:
        finished = self._shelf.of_job(peer, job)
        running = [
            attempt for owner, attempt in self._running if owner == peer and attempt.startswith(job)
        ]
        leases = [
            view.lease for view in self._book.leases() if view.peer == peer and view.job == job
        ]
        say(Attempts(tuple(leases), tuple(running), tuple(held.attempt for held in finished)))
        for held in finished:
            self._post.tell(peer, AttemptEnded(held.attempt, held.outcome))

    # -- effects of the book -----------------------------------------------------------------------

    def _perform(self, effect: lending.Effect) -> None:
        match effect:
            case lending.CreateSandbox():
                key = (effect.peer, effect.lease)
                self._making[key] = self._tasks.start(self._create(effect), f"make {effect.lease}")
            case lending.Granted():
                granted = LeaseGranted(effect.lease, effect.expires_in_s, effect.tier)
                self._say(effect.peer, effect.lease, granted)
            case lending.Refuse():
                refused = Refused(effect.code, effect.message, effect.hint)
                self._say(effect.peer, effect.lease, refused)
            case lending.EndSandbox():
                ending = self._tasks.start(self._end(effect), f"end {effect.lease}")
                self._endings.add(ending)
                ending.add_done_callback(self._endings.discard)
            case lending.TellEnded():
                self._post.tell(
                    effect.peer, LeaseEnded(effect.lease, effect.ended_by, effect.reason)
                )
        self._capacity_changed()

    def _say(self, peer: NodeId, lease: LeaseId, body: Control) -> None:
        for say in self._asked.pop((peer, lease), ()):
            say(body)

    async def _create(self, wanted: lending.CreateSandbox) -> None:
        key = (wanted.peer, wanted.lease)
        try:
            place = await self._places.create(
                wanted.peer,
                wanted.lease,
                wanted.workload,
                tier=wanted.tier,
                is_isolated=wanted.is_isolated,
                progress=lambda text: self._progress(key, text),
            )
        except P2prcError as error:
            self._driver.feed(lending.SandboxFailed(*key, error.code, error.message))
            return
        finally:
            self._making.pop(key, None)
        self._open[key] = place
        self._tasks.start(self._watch(place), f"watch {wanted.lease}")
        self._driver.feed(lending.SandboxReady(*key))

    def _progress(self, key: Key, text: str) -> None:
        self._post.tell(key[0], LeaseProgress(key[1], text[:200]))

    async def _watch(self, place: Place) -> None:
        ended = await place.sandbox.wait_ended()
        key = (place.peer, place.lease)
        if self._open.get(key) is place:
            self._driver.feed(lending.SandboxEnded(*key, ended.code, ended.reason))

    async def _end(self, effect: lending.EndSandbox) -> None:
        key = (effect.peer, effect.lease)
        if (making := self._making.pop(key, None)) is not None:
            making.stop()
        place = self._open.pop(key, None)
        if place is None:
            return
        self._grants.revoke(place.token)
        await self._places.end(place)


def _attempt_reason(peer: NodeId, attempt: AttemptId) -> str:
    return f"attempt/{peer}/{attempt}"


def _refusal(error: P2prcError) -> Refused:
    return Refused(error.code, error.message, error.hint)


def _nobody(_: Control) -> None:
    """Answer a notice: nobody listens."""


async def _discard(_: OutputChunk) -> None:
    """Take what an attempt prints: its tail is kept with the outcome."""
