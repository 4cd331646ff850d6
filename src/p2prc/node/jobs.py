"""Every job that this node holds: carried on after a restart, told what happens around them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from random import Random

from p2prc.errors import (
    JobUnknown,
    MachineCannot,
    P2prcError,
)
from p2prc.model.identity import JobId, LeaseId, NodeId, short
from p2prc.model.job import Job
from p2prc.node.bulk import Bulk
from p2prc.node.grants import Grants
from p2prc.node.job_intake import JobIntake
from p2prc.node.job_runner import KEEPER, READER, JobRunner
from p2prc.node.link import Answer
from p2prc.node.pictures import Pictures
from p2prc.node.post import Post
from p2prc.node.tasks import Tasks
from p2prc.plugins.hooks import HookSet
from p2prc.protocol import messages
from p2prc.protocol.jobs.sharing import slot_limits
from p2prc.protocol.placement import NodeOffer
from p2prc.storage.blobs import BlobStore
from p2prc.storage.schema import StoredJob
from p2prc.storage.state import State
from p2prc.wire.codec import encode

OFFERS_DELAY_S = 0.1
SWEEP_EVERY_S = 3600.0
UNNAMED_FOR_S = 3600.0
KEPT_FOR_S = 7 * 86400.0
"""How long after its end a job of another is held, for whoever has its key."""

log = logging.getLogger(__name__)


class Jobs:
    """Every job that this node holds: its own, those it keeps for others, and those it reads."""

    def __init__(
        self,
        *,
        state: State,
        blobs: BlobStore,
        bulk: Bulk,
        grants: Grants,
        post: Post,
        tasks: Tasks,
        offers: Callable[[], list[NodeOffer]],
        rng: Random,
        own: NodeId,
        secret: bytes,
        keeps_for: Callable[[NodeId], bool],
        could_keep: Callable[[], list[NodeId]],
        pictures: Pictures,
        hooks: HookSet,
    ) -> None:
        self._pictures = pictures
        self._hooks = hooks
        self._own = own
        self._secret = secret
        self._could_keep = could_keep
        self._swept_at = time.monotonic()
        self._seen_since: dict[NodeId, float] = {}
        self._intake = JobIntake(own, blobs=blobs, bulk=bulk, post=post, keeps_for=keeps_for)
        self._state = state
        self._blobs = blobs
        self._bulk = bulk
        self._grants = grants
        self._post = post
        self._tasks = tasks
        self._offers = offers
        self._rng = rng
        self._runners: dict[JobId, JobRunner] = {}
        self._announcing: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Carry on with every job that had not ended."""
        self._see_candidates()
        for stored in self._state.jobs():
            try:
                runner = self._runner(stored)
                if self._is_over(runner):
                    self._drop(runner)
                    continue
                self._runners[stored.id] = runner
                if runner.has_to_start:
                    log.info("job carried on", extra={"job": stored.id, "role": stored.role})
                    self._begin(runner)
            except P2prcError as error:
                log.warning("a job is unreadable", extra={"job": stored.id, "why": error.message})

    def stop(self) -> None:
        """Do nothing more; the ledgers stay."""
        if self._announcing is not None:
            self._announcing.cancel()
        for runner in self._runners.values():
            runner.stop()

    def submit(self, job: Job, to: str) -> JobRunner:
        """Store a job and begin it; submitting it again is submitting it once. Raises DiskFull."""
        if (known := self._runners.get(job.id)) is not None:
            return known
        stored = StoredJob(
            id=job.id,
            description=encode(job),
            to_folder=to,
            state="queued",
            created_at=time.time(),
        )
        return self._add(stored)

    def _add(self, stored: StoredJob) -> JobRunner:
        self._state.add_job(stored)
        runner = self._runner(stored)
        self._runners[stored.id] = runner
        self._begin(runner)
        return runner

    def _begin(self, runner: JobRunner) -> None:
        runner.start(self._offers())
        runner.candidates_changed(self._candidates())
        self.offers_changed()

    async def follow(self, job: JobId, secret: str) -> JobRunner:
        """Return the job with this key, from whoever holds it. Raises JobUnknown."""
        if (known := self._runners.get(job)) is not None and known.job.salt == secret:
            return known
        stored = await self._intake.find(job, secret, self._could_keep())
        return self._runners.get(job) or self._add(stored)

    def all(self) -> list[JobRunner]:
        """Return the jobs of the person here, oldest first: not those kept for others."""
        return [runner for runner in self._runners.values() if runner.stored.role != KEEPER]

    def kept(self) -> list[JobRunner]:
        """Return the jobs that are kept for others."""
        return [runner for runner in self._runners.values() if runner.stored.role == KEEPER]

    def get(self, job: JobId) -> JobRunner:
        """Return one job; KeyError when there is none."""
        return self._runners[job]

    # -- what other holders and readers ask --

    def asked(self, peer: NodeId, body: messages.Control, answer: Answer) -> bool:
        """Answer what is about a job that is held here; say whether it was.

        Raises MachineCannot where our disk does not take it.
        """
        try:
            match body:
                case messages.KeepJob():
                    self._tasks.start_for_peer(self._keep(peer, body, answer), "keep a job")
                case messages.SyncLedger():
                    answer(self._held(body.job).keeping.synced(peer, body))
                case messages.AskJob():
                    answer(self._held(body.job).keeping.show(peer, body))
                case messages.ReadLedger():
                    answer(self._held(body.job).keeping.read(peer, body))
                case _:
                    return False
        except MachineCannot:
            raise
        except P2prcError as error:
            answer(messages.Refused(error.code, error.message[:500], error.hint[:500]))
        return True

    def _held(self, job: JobId) -> JobRunner:
        runner = self._runners.get(job)
        if runner is None or runner.stored.role == READER:
            raise JobUnknown(f"no job {short(job)} is kept here for you")
        return runner

    async def _keep(self, peer: NodeId, body: messages.KeepJob, answer: Answer) -> None:
        try:
            known = self._runners.get(body.job)
            if known is None or known.stored.role == READER:
                stored = await self._intake.take(peer, body, self._live_kept)
                if known is not None:
                    self._drop(known)
                if body.job not in self._runners:
                    self._add(stored)
                    log.info("job kept", extra={"job": body.job, "peer": peer})
        except P2prcError as error:
            answer(messages.Refused(error.code, error.message[:500], error.hint[:500]))
        else:
            answer(messages.Done())

    def _live_kept(self) -> list[Job]:
        return [one.job for one in self.kept() if not one.ledger.is_ended]

    def _sweep(self) -> None:
        """Drop what has been held for others long enough."""
        now = time.monotonic()
        if now - self._swept_at < SWEEP_EVERY_S:
            return
        self._swept_at = now
        for runner in [one for one in self._runners.values() if self._is_over(one)]:
            log.info("job dropped", extra={"job": runner.id})
            self._drop(runner)

    def _is_over(self, runner: JobRunner) -> bool:
        """Whether a job of another need not be held any longer."""
        if runner.is_own:
            return False
        since = runner.ledger.finished_at or runner.stored.created_at
        held_s = time.time() - since
        if runner.stored.role == KEEPER and not runner.holder.is_named:
            # Whoever handed it over died before it could say so, and has not come back.
            return held_s > UNNAMED_FOR_S
        return runner.ledger.is_ended and held_s > KEPT_FOR_S

    def _drop(self, runner: JobRunner) -> None:
        runner.forget()
        self._runners.pop(runner.id, None)
        self._state.delete_job(runner.id)

    def _is_reachable(self, node: NodeId) -> bool:
        return node == self._own or node in self._could_keep()

    def _see_candidates(self) -> None:
        now = time.monotonic()
        there = self._could_keep()
        self._seen_since = {node: self._seen_since.get(node, now) for node in there}

    def _candidates(self) -> list[NodeId]:
        """Return who could keep a job, the longest there first."""
        seen = sorted((round(since), node) for node, since in self._seen_since.items())
        return [node for _, node in seen if node != self._own]

    # -- what happens around them --

    def offers_changed(self) -> None:
        """The network looks different: tell the jobs soon, many changes at once."""
        if self._announcing is None:
            loop = asyncio.get_running_loop()
            self._announcing = loop.call_later(OFFERS_DELAY_S, self._announce)

    def node_lost(self, node: NodeId) -> None:
        """No link leads to the node any more."""
        for runner in self._live():
            runner.node_lost(node)

    def node_back(self, node: NodeId) -> None:
        """A link to the node exists."""
        # Also ended jobs: a node that was away may still hold leases for them.
        for runner in self._runners.values():
            runner.node_back(node)

    def letter(self, peer: NodeId, body: messages.Control) -> bool:
        """Take a letter if it is about one of our jobs; say whether it was."""
        if any(runner.letter(peer, body) for runner in self._runners.values()):
            return True
        if isinstance(body, messages.AttemptEnded):
            # Nobody here waits for it: let the provider forget it.
            self._post.tell(peer, messages.AcknowledgeAttempt(body.attempt))
            return True
        return isinstance(body, messages.LeaseEnded)

    def progress(self, node: NodeId, lease: LeaseId, text: str) -> None:
        """Hand on what a lease that is being made waits for."""
        any(runner.progress(node, lease, text) for runner in self._live())

    def _announce(self) -> None:
        self._announcing = None
        self._see_candidates()
        self._sweep()
        live = self._live()
        offers = self._offers() if live else []
        candidates = self._candidates()
        for runner in live:
            runner.offers_changed(offers)
            runner.candidates_changed(candidates)
        self._share(live, offers)

    def _share(self, live: Sequence[JobRunner], offers: Sequence[NodeOffer]) -> None:
        """Tell the jobs that are carried on here how many slots each may hold."""
        claims = [claim for runner in live if (claim := runner.holder.claim) is not None]
        able = [offer for offer in offers if offer.is_reachable and offer.is_lending]
        limits = slot_limits(claims, {offer.node: offer.free.cpu_millis for offer in able})
        for runner in live:
            runner.slots_allowed(limits.get(runner.id))

    def _live(self) -> list[JobRunner]:
        return [runner for runner in self._runners.values() if not runner.holder.is_settled]

    def _runner(self, stored: StoredJob) -> JobRunner:
        return JobRunner(
            stored,
            state=self._state,
            blobs=self._blobs,
            bulk=self._bulk,
            grants=self._grants,
            post=self._post,
            tasks=self._tasks,
            rng=self._rng,
            own=self._own,
            secret=self._secret,
            is_reachable=self._is_reachable,
            pictures=self._pictures,
            hooks=self._hooks,
        )
