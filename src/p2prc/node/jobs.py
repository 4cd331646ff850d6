"""Every job that was submitted here: carried on after a restart, told what happens around them."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random

from p2prc.errors import (
    P2prcError,
)
from p2prc.model.identity import JobId, LeaseId, NodeId
from p2prc.model.job import Job
from p2prc.node.bulk import Bulk
from p2prc.node.grants import Grants
from p2prc.node.job_runner import JobRunner
from p2prc.node.post import Post
from p2prc.node.tasks import Tasks
from p2prc.protocol import messages
from p2prc.protocol.placement import NodeOffer
from p2prc.storage.blobs import BlobStore
from p2prc.storage.schema import StoredJob
from p2prc.storage.state import State
from p2prc.wire.codec import encode

OFFERS_DELAY_S = 0.1

log = logging.getLogger(__name__)


class Jobs:
    """Every job that was submitted here."""

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
    ) -> None:
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
        for stored in self._state.jobs():
            try:
                runner = self._runner(stored)
                self._runners[stored.id] = runner
                if not runner.ledger.is_ended:
                    log.info("job carried on", extra={"job": stored.id})
                    runner.start(self._offers())
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
        self._state.add_job(stored)
        runner = self._runner(stored)
        self._runners[job.id] = runner
        runner.start(self._offers())
        return runner

    def all(self) -> list[JobRunner]:
        """Return every job, oldest first."""
        return list(self._runners.values())

    def get(self, job: JobId) -> JobRunner:
        """Return one job; KeyError when there is none."""
        return self._runners[job]

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
        live = self._live()
        offers = self._offers() if live else []
        for runner in live:
            runner.offers_changed(offers)

    def _live(self) -> list[JobRunner]:
        return [runner for runner in self._runners.values() if not runner.coordinator.is_settled]

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
        )
