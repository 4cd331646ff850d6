"""The lending side: drives the lease book and runs what the holders of leases ask for.

Outcomes of a job's attempts are kept on disk until the submitter acknowledges them, so neither
side's crash loses finished work. Work that is running when this node dies is lost, and the
submitter places it elsewhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from p2prc.errors import DiskFull, LeaseUnknown, MachineCannot, P2prcError, PeerBusy
from p2prc.files.manifest import load_tree
from p2prc.model.identity import AttemptId, JobId, LeaseId, NodeId
from p2prc.model.resources import Capacity, RuntimeOffer, Usage, finite
from p2prc.model.tree import Tree
from p2prc.model.workload import Outcome
from p2prc.node.drive import Driver
from p2prc.node.grants import Grants
from p2prc.node.history import History
from p2prc.node.kept_leases import KeptLease, KeptLeases
from p2prc.node.link import Answer
from p2prc.node.main_process import Main, standing_of
from p2prc.node.moment import moment
from p2prc.node.places import Place, Places, failure
from p2prc.node.ports import port_variables, ports_for
from p2prc.node.post import Post
from p2prc.node.shelf import AttemptShelf
from p2prc.node.tasks import Tasks, Work
from p2prc.protocol import lease_events as lending
from p2prc.protocol.jobs.facts import KeepersNamed
from p2prc.protocol.jobs.pages import open_page
from p2prc.protocol.leases import LeaseBook, LeaseView
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import (
    AcknowledgeAttempt,
    AskAttempts,
    AskLeases,
    AttemptEnded,
    Attempts,
    CancelAttempt,
    Control,
    Done,
    EndLease,
    LeaseEnded,
    LeaseGranted,
    LeaseProgress,
    LeaseStanding,
    LeaseStandings,
    Refused,
    RequestLease,
    RunCommand,
    StartAttempt,
    SucceedCoordinator,
)
from p2prc.runtime.port import OutputChunk
from p2prc.storage.blobs import BlobStore
from p2prc.storage.schema import PeerUsage

ENDING_TIMEOUT_S = 20.0
ASKERS_LIMIT = 8
"""Who asks for one lease again and again is answered this often."""
_SENTENCE_LIMIT = 2000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LeaseReading:
    """A lease as its owner sees it: who, what, and what it uses now.

    `net_limit_bytes` is None where nothing bounds its traffic, and where it has no network.
    """

    lease: LeaseView
    usage: Usage
    argv: tuple[str, ...] = ()
    net_limit_bytes: int | None = None


class Provider:
    """Lends places by the book and keeps outcomes until they are fetched."""

    def __init__(
        self,
        *,
        book: LeaseBook,
        places: Places,
        blobs: BlobStore,
        shelf: AttemptShelf,
        history: History,
        kept: KeptLeases,
        grants: Grants,
        post: Post,
        tasks: Tasks,
        capacity_changed: Callable[[], None],
        lends: bool,
    ) -> None:
        self._book = book
        self.lends = lends
        self._driver = Driver(book, self._perform, tick=lending.Tick)
        self._places = places
        self._blobs = blobs
        self._shelf = shelf
        self._history = history
        self._kept = kept
        self._grants = grants
        self._post = post
        self._tasks = tasks
        self._capacity_changed = capacity_changed
        self._open: dict[LeaseId, Place] = {}
        self._leaving: dict[LeaseId, Place] = {}
        self._making: dict[LeaseId, Work[None]] = {}
        self._asked: dict[tuple[NodeId, LeaseId], list[Answer]] = {}
        self._running: dict[tuple[NodeId, AttemptId], Place] = {}
        self._endings: set[Work[None]] = set()

    async def take_up(self, *, keeps: bool) -> None:
        """Go on with the leases of the life before, where the owner keeps them; end the others."""
        now = moment()
        left = self._kept.load()
        wanted = [one for one in left if keeps and one.left_s(now) > 0]
        places = {
            place.lease: place for place in await self._places.take_up(wanted, self._kept.moved())
        }
        for one in left:
            place = places.get(one.lease)
            if place is not None:
                await self._go_on(place, one)
                continue
            self._kept.forget(one.lease)
            ended_by, reason = "lost", "it did not outlive the restart of its node"
            if one.left_s(now) <= 0:
                ended_by, reason = "time", "its time is over"
            elif not keeps:
                ended_by, reason = "owner", "its node was started anew and keeps no leases"
            self._history.ended_unseen(
                one.lease, one.peer, created_at=one.created_at, ended_by=ended_by, reason=reason
            )

    async def _go_on(self, place: Place, kept: KeptLease) -> None:
        lease, now = kept.lease, moment()
        self._open[lease] = place
        place.ports = kept.ports
        place.variables = {**port_variables(kept.ports), **place.variables}
        # What it used until now is in the sums of the life before.
        self._history.take_up(lease, await _usage_of(place), asyncio.get_running_loop().time())
        if (wanted := kept.request.main) is not None:
            place.main = Main(place.sandbox, wanted, place.variables, place.log_file)
            await asyncio.to_thread(place.main.take_up_log)
            place.argv = wanted.argv
            if kept.is_main_ended:
                place.main.ended_before(kept.main_status)
            else:
                self._start_main(place, place.main, was_cut_off=True)
        self._tasks.start_contained(self._watch(place), f"watch {lease}")
        self._driver.feed(
            lending.LeaseAdopted(
                kept.peer,
                kept.request,
                RuntimeOffer(kept.runtime, kept.tier),
                age_s=kept.age_s(now),
                left_s=kept.left_s(now),
            )
        )

    def _start_main(self, place: Place, main: Main, *, was_cut_off: bool = False) -> None:
        async def run() -> None:
            await main.run(was_cut_off=was_cut_off)
            if not main.is_stopped:
                self._kept.main_ended(place.lease, main.status)

        self._tasks.start_contained(run(), f"main process of {place.lease}")

    def start(self) -> None:
        """Take up the outcomes that the last run left: their trees stay and may be fetched."""
        self._history.start()
        held_all = self._shelf.all()
        kept = {_reason(held.peer, held.attempt) for held in held_all}
        for owner in self._blobs.keepers():
            # What nobody came for in a week, and what a crash cut off before it was an outcome.
            if owner.startswith(_ATTEMPT) and owner not in kept:
                self._blobs.unpin(owner)
        for held in held_all:
            if held.outcome.outputs is not None:
                reason = _reason(held.peer, held.attempt)
                self._grants.allow(held.peer, held.outcome.outputs, reason=reason)

    # -- what owners see and do --

    @property
    def free(self) -> Capacity:
        """What could be lent now."""
        return self._book.free

    @property
    def is_lending(self) -> bool:
        """Whether anything new would be lent."""
        return self.lends and not self._book.is_paused and not self._book.owner_needs

    @property
    def is_paused(self) -> bool:
        """Whether the owner lends nothing new at present."""
        return self._book.is_paused

    async def readings(self) -> list[LeaseReading]:
        """Return every lease with what it uses."""
        views = self._book.leases()
        places = [self._open.get(view.lease) for view in views]
        # Together: one sandbox that does not answer must not hide the others.
        usages = await asyncio.gather(*(_usage_of(place) for place in places))
        return [
            LeaseReading(view, usage, *_shown(place))
            for view, place, usage in zip(views, places, usages, strict=True)
        ]

    def leases(self) -> tuple[LeaseView, ...]:
        """Return every lease that holds something, oldest first."""
        return self._book.leases()

    async def collect(self, now: float) -> float:
        """Read every lease for the owner's sums; return the processor seconds of all that ever
        were, which only grows.
        """
        moved: dict[LeaseId, tuple[int, int]] = {}
        for reading in await self.readings():
            # Those that ended meanwhile were counted at their end.
            if (place := self._open.get(reading.lease.lease)) is not None:
                self._history.read(reading.lease, reading.usage, place.used, now)
                if place.way_out is not None:
                    usage = reading.usage
                    moved[place.lease] = (usage.net_rx_bytes, usage.net_tx_bytes)
        self._kept.note_moved(moved)
        return self._history.cpu_s

    def save_usage(self) -> None:
        """Write what was collected."""
        self._history.save()

    def usage(self, *, since_at: float) -> list[PeerUsage]:
        """Return what each peer used since the day of that instant."""
        return self._history.usage(since_at=since_at)

    @property
    def needed_for(self) -> str:
        """Why the owner needs the machine at present, "" when it is lent."""
        return self._book.owner_needs

    def owner_needs(self, reason: str) -> None:
        """Lend nothing new while there is a reason, and do with leases what the policy says."""
        if reason != self._book.owner_needs:
            self._driver.feed(lending.OwnerNeedsMachine(reason))
            self._capacity_changed()

    async def kill(self, leases: Sequence[LeaseId]) -> None:
        """End leases in the owner's name, and wait until they are gone."""
        self._driver.feed(lending.OwnerKilled(leases=tuple(leases)))
        self._cut_leaving(leases)
        await self._settle()

    def evict(self, peer: NodeId, reason: str) -> None:
        """End every lease of a peer now, and say why."""
        self._cut_leaving([name for name, place in self._leaving.items() if place.peer == peer])
        self._driver.feed(lending.OwnerKilled(peer=peer, reason=reason))

    def evict_lease(self, lease: LeaseId, reason: str) -> None:
        """End one lease now, and say why."""
        self._driver.feed(lending.OwnerKilled(leases=(lease,), reason=reason))

    def change_terms(
        self, lent: Capacity, policy: LendingPolicy, runtimes: tuple[RuntimeOffer, ...]
    ) -> None:
        """Lend by other rules from now on; what is lent goes on."""
        self.lends = policy.lends_at_all
        self._driver.feed(lending.TermsChanged(lent, policy, runtimes))
        self._capacity_changed()

    def pause(self) -> None:
        """Lend nothing new."""
        self._driver.feed(lending.Paused())
        self._capacity_changed()

    def resume(self) -> None:
        """Lend again."""
        self._driver.feed(lending.Resumed())
        self._capacity_changed()

    async def close(self) -> None:
        """End every lease and lend nothing new: the node stops."""
        self._driver.feed(lending.Paused())
        self._driver.feed(lending.OwnerKilled(is_all=True, reason="its node was stopped"))
        self._cut_leaving(tuple(self._leaving))
        await self._settle()
        self._driver.stop()

    def _cut_leaving(self, leases: Sequence[LeaseId]) -> None:
        """End what is just leaving at its requester's wish: the owner does not wait for it."""
        for lease in leases:
            place = self._leaving.get(lease)
            if place is not None and place.entered is not None:
                place.entered.cut_leaving()

    async def _settle(self) -> None:
        try:
            async with asyncio.timeout(ENDING_TIMEOUT_S):
                while self._endings:
                    await asyncio.wait(set(self._endings))
        except TimeoutError:
            log.warning("leases are still ending", extra={"count": len(self._endings)})

    # -- letters --

    def letter(self, peer: NodeId, body: Control, answer: Answer | None) -> bool:
        """Take a letter if it is for a provider; say whether it was."""
        say: Answer = answer or _nobody
        match body:
            case RequestLease():
                askers = self._asked.setdefault((peer, body.lease), [])
                askers.append(say)
                del askers[:-ASKERS_LIMIT]
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
            case AskLeases():
                say(LeaseStandings(tuple(self._standing(peer, lease) for lease in body.leases)))
            case AskAttempts():
                self._tell_attempts(peer, body.job, say)
            case _:
                return False
        return True

    def succeed(self, peer: NodeId, body: SucceedCoordinator) -> None:
        """End what a job's last coordinator holds, if it let this peer carry the job on."""
        try:
            signed = open_page(body.proof)
        except P2prcError as error:
            log.warning("no proof of a succession", extra={"peer": peer, "why": error.message})
            return
        is_let = any(
            isinstance(fact, KeepersNamed) and peer in fact.keepers for fact in signed.page.facts
        )
        if signed.author != body.last or signed.page.job != body.job or not is_let:
            log.warning("a succession that nobody allowed", extra={"peer": peer, "job": body.job})
            return
        for view in self._book.leases():
            if view.peer == body.last and view.job == body.job:
                self._driver.feed(lending.LeaseEndRequested(body.last, view.lease))

    def peer_gone(self, peer: NodeId) -> None:
        """Start counting a requester's absence."""
        self._driver.feed(lending.PeerGone(peer))

    def peer_back(self, peer: NodeId) -> None:
        """Stop counting it."""
        self._driver.feed(lending.PeerReturned(peer))

    # -- a command with its output streamed --

    async def run(
        self,
        peer: NodeId,
        request: RunCommand,
        printed: Callable[[OutputChunk], Awaitable[None]],
    ) -> Outcome:
        """Run in the peer's lease; cancelling this kills the command. Raises LeaseUnknown."""
        place = self.place_of(peer, request.lease)
        outcome = await self._places.run(place, request.command, printed, keeper=place.token)
        if outcome.outputs is not None:
            self._grants.allow(peer, outcome.outputs, reason=place.token)
        return outcome

    def place_of(self, peer: NodeId, lease: LeaseId) -> Place:
        """Return the peer's own open place. Raises LeaseUnknown."""
        place = self._open.get(lease)
        # Another's lease and none at all look the same from outside.
        if place is None or place.peer != peer:
            raise LeaseUnknown(f"no lease {lease} of yours is open here")
        return place

    # -- attempts --

    def _start_attempt(self, peer: NodeId, body: StartAttempt, say: Answer) -> None:
        key = (peer, body.attempt)
        if key in self._running:
            say(Done())
            return
        if (held := self._shelf.get(peer, body.attempt)) is not None:
            say(Done())
            self._post.tell(peer, AttemptEnded(body.attempt, held))
            return
        try:
            place = self.place_of(peer, body.lease)
            if place.is_busy or any(place is other for other in self._running.values()):
                raise PeerBusy("the lease runs another command at present")
            if self._shelf.is_full_for(peer):
                raise PeerBusy("too many outcomes of yours wait here to be acknowledged")
        except P2prcError as error:
            say(Refused(error.code, error.message, error.hint))
            return
        self._running[key] = place
        say(Done())
        self._tasks.start_contained(self._attempt(place, body), f"attempt {body.attempt}")

    async def _attempt(self, place: Place, body: StartAttempt) -> None:
        key = (place.peer, body.attempt)
        is_kept = False
        try:
            working = self._attempted(place, body)
            kept = await self._tasks.contained(working, f"attempt {body.attempt}")
            if kept is None:
                return
            outcome, is_kept = kept, True
        except DiskFull as error:
            # Told although it could not be kept: the submitter then does not wait for it.
            log.warning("an outcome could not be kept", extra={"reason": error.message})
            reason = "no room is left on the node's disk to keep the outcome"
            outcome = Outcome(None, code=error.code, reason=reason)
        except P2prcError as error:
            log.warning("an outcome could not be kept", extra={"reason": error.message})
            outcome = failure(error)
        finally:
            self._running.pop(key, None)
            if not is_kept:
                self._let_go(_reason(*key))
        self._post.tell(place.peer, AttemptEnded(body.attempt, outcome))
        self._driver.feed(lending.TaskOver(place.lease))

    async def _attempted(self, place: Place, body: StartAttempt) -> Outcome | None:
        """Run it and keep its outcome; None when it was cancelled meanwhile."""
        key = (place.peer, body.attempt)
        outcome = await self._places.run(place, body.command, _discard, keeper=_reason(*key))
        name = outcome.outputs
        outputs = None if name is None else await load_tree(self._blobs, name)
        if key not in self._running or place.lease not in self._open:
            return None
        self._keep(place, body.attempt, outcome, outputs)
        return outcome

    def _keep(
        self, place: Place, attempt: AttemptId, outcome: Outcome, outputs: Tree | None
    ) -> None:
        if outputs is not None:
            reason = _reason(place.peer, attempt)
            self._blobs.pin_tree(reason, outputs, survives=True)
            self._grants.allow(place.peer, outputs.digest, reason=reason)
        self._shelf.put(place.peer, place.lease, attempt, outcome)

    def _forget(self, peer: NodeId, attempt: AttemptId) -> None:
        try:
            self._shelf.remove(peer, attempt)
        except MachineCannot as error:
            # Kept a while longer: the submitter is told once more, and says once more to forget.
            log.warning("an outcome could not be forgotten", extra={"reason": error.message})
            return
        self._let_go(_reason(peer, attempt))

    def _let_go(self, reason: str) -> None:
        self._grants.revoke(reason)
        self._blobs.unpin(reason)

    def _cancel_attempt(self, peer: NodeId, attempt: AttemptId) -> None:
        place = self._running.pop((peer, attempt), None)
        if place is not None:
            self._tasks.start_contained(self._places.cancel(place), f"cancel {attempt}")
        self._forget(peer, attempt)

    def _standing(self, peer: NodeId, lease: LeaseId) -> LeaseStanding:
        """What a peer may know of a lease; another's looks like one that never was."""
        end = self._book.end_of(peer, lease)
        for view in self._book.leases():
            if end is None and view.lease == lease and view.peer == peer:
                left_s = view.expires_at - asyncio.get_running_loop().time()
                place = self._open.get(lease)
                return standing_of(view, left_s, None if place is None else place.main)
        end = end or self._history.end_of(peer, lease)
        if end is None:
            return LeaseStanding(lease, "unknown")
        return LeaseStanding(lease, "ended", ended_by=end[0], reason=end[1][:_SENTENCE_LIMIT])

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

    # -- effects of the book --

    def _perform(self, effect: lending.Effect) -> None:
        match effect:
            case lending.CreateSandbox():
                making = self._tasks.start_contained(self._create(effect), f"make {effect.lease}")
                self._making[effect.lease] = making
            case lending.Granted():
                left_s = finite(effect.expires_in_s)
                place = self._open.get(effect.lease)
                ports = () if place is None else place.ports
                granted = LeaseGranted(effect.lease, left_s, effect.tier, ports)
                self._say(effect.peer, effect.lease, granted)
            case lending.Refuse():
                message = effect.message[:_SENTENCE_LIMIT]
                refused = Refused(effect.code, message, effect.hint[:_SENTENCE_LIMIT])
                self._say(effect.peer, effect.lease, refused)
            case lending.ConfirmEnd():
                pass  # Said at once: ending twice is ending once.
            case lending.EndSandbox():
                # Whatever happens from now on, the next life must not take it up.
                self._kept.forget(effect.lease)
                ending = self._tasks.start_contained(self._end(effect), f"end {effect.lease}")
                self._endings.add(ending)
                ending.add_done_callback(self._endings.discard)
            case lending.SuspendSandbox() | lending.ResumeSandbox():
                self._tasks.start_contained(self._suspend(effect), f"suspend {effect.lease}")
            case lending.TellEnded():
                reason = effect.reason[:_SENTENCE_LIMIT]
                self._post.tell(effect.peer, LeaseEnded(effect.lease, effect.ended_by, reason))
        self._capacity_changed()

    def _say(self, peer: NodeId, lease: LeaseId, body: Control) -> None:
        for say in self._asked.pop((peer, lease), ()):
            say(body)

    async def _create(self, wanted: lending.CreateSandbox) -> None:
        lease = wanted.lease
        creating = self._places.create(
            wanted.peer,
            lease,
            wanted.workload,
            tier=wanted.tier,
            is_isolated=wanted.is_isolated,
            has_sessions=wanted.has_sessions,
            variables=wanted.variables,
            progress=lambda text: self._progress(wanted.peer, lease, text),
        )
        try:
            place = await self._tasks.contained(creating, f"make {lease}")
        except P2prcError as error:
            self._free_again(lending.SandboxFailed(lease, error.code, error.message, error.hint))
            return
        finally:
            self._making.pop(lease, None)
        self._name_ports(place, wanted.ports, wanted.variables)
        self._open[lease] = place
        if wanted.has_sessions:
            self._keep_lease(wanted)
        if wanted.main is not None:
            place.main = Main(place.sandbox, wanted.main, place.variables, place.log_file)
            place.argv = wanted.main.argv
            self._start_main(place, place.main)
        self._tasks.start_contained(self._watch(place), f"watch {lease}")
        self._driver.feed(lending.SandboxReady(lease))

    def _name_ports(self, place: Place, count: int, variables: Mapping[str, str]) -> None:
        taken = {port for other in self._open.values() for port in other.ports}
        place.ports = ports_for(place.sandbox.spec.tier, count, taken)
        place.variables = {**port_variables(place.ports), **variables}

    def _keep_lease(self, wanted: lending.CreateSandbox) -> None:
        for view in self._book.leases():
            # A job opens another one; what its tasks shared was known to this life alone.
            if view.lease == wanted.lease and view.job is None:
                request = RequestLease(
                    view.lease,
                    view.workload,
                    view.job,
                    is_isolated=wanted.is_isolated,
                    has_sessions=wanted.has_sessions,
                    variables=dict(wanted.variables),
                    main=wanted.main,
                    ports=wanted.ports,
                )
                ports = self._open[wanted.lease].ports
                lifetime_s = view.workload.limits.lasts_s
                self._kept.keep(
                    view.peer,
                    request,
                    runtime=view.runtime,
                    tier=view.tier,
                    lifetime_s=lifetime_s,
                    ports=ports,
                )

    def _progress(self, peer: NodeId, lease: LeaseId, text: str) -> None:
        self._post.tell(peer, LeaseProgress(lease, text[:200]))

    async def _watch(self, place: Place) -> None:
        ended = await place.sandbox.wait_ended()
        if self._open.get(place.lease) is place:
            del self._open[place.lease]
            self._kept.forget(place.lease)
            ended_by = "limit" if ended.code in _LIMITS else "lost"
            await self._cleaned(place, ended_by=ended_by, reason=ended.reason)
            self._free_again(lending.SandboxEnded(place.lease, ended.code, ended.reason))

    async def _end(self, effect: lending.EndSandbox) -> None:
        making = self._making.get(effect.lease)
        if making is not None:
            making.stop()
            await asyncio.wait({making})
        place = self._open.pop(effect.lease, None)
        if place is not None:
            place.end_reason = effect.reason
            if effect.ended_by == "requester":
                self._leaving[place.lease] = place
                with suppress(P2prcError):
                    await self._tasks.contained(self._places.leave(place), f"leave {place.lease}")
                del self._leaving[place.lease]
            await self._cleaned(place, ended_by=effect.ended_by, reason=effect.reason)
        self._free_again(lending.SandboxEnded(effect.lease))

    async def _suspend(self, effect: lending.SuspendSandbox | lending.ResumeSandbox) -> None:
        place = self._open.get(effect.lease)
        if place is None:
            return
        place.is_suspended = isinstance(effect, lending.SuspendSandbox)
        await (place.sandbox.suspend() if place.is_suspended else place.sandbox.resume())

    def _free_again(self, event: lending.SandboxEnded | lending.SandboxFailed) -> None:
        # A lease that was ending needs no effect any more, but its room is news to the others.
        self._driver.feed(event)
        self._capacity_changed()

    async def _cleaned(self, place: Place, *, ended_by: str, reason: str) -> None:
        # Whatever goes wrong with one, what it held is free again for the others.
        cleaning = self._clean(place, ended_by=ended_by, reason=reason)
        with suppress(P2prcError):
            await self._tasks.contained(cleaning, f"clean up after {place.lease}")

    async def _clean(self, place: Place, *, ended_by: str, reason: str) -> None:
        self._grants.revoke(place.token)
        await self._places.end(place)
        # What its supervisor saw last, and what its commands reported at their end.
        usage = await _usage_of(place)
        now = asyncio.get_running_loop().time()
        for view in self._book.leases():
            if view.lease == place.lease:
                self._history.ended(
                    view, usage, place.used, ended_by=ended_by, reason=reason, now=now
                )


_ATTEMPT = "attempt-"
_LIMITS = ("limit-exceeded", "disk-full")


def _reason(peer: NodeId, attempt: AttemptId) -> str:
    return f"{_ATTEMPT}{peer}-{attempt}"


async def _usage_of(place: Place | None) -> Usage:
    if place is None:
        return Usage()
    try:
        return await place.usage()
    except P2prcError:
        # It is just ending: the others are still worth showing.
        return Usage()


def _nobody(_: Control) -> None:
    """Answer a notice: nobody listens."""


async def _discard(_: OutputChunk) -> None:
    """Take what an attempt prints: its tail is kept with the outcome."""


def _shown(place: Place | None) -> tuple[tuple[str, ...], int | None]:
    """Return what runs there, and what bounds its traffic."""
    if place is None:
        return (), None
    return place.argv, None if place.way_out is None else place.way_out.allowance.total_bytes
