"""Jobs of others that come here: to be kept, or to be read by whoever has their key."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from weakref import WeakValueDictionary

from p2prc.errors import (
    JobInvalid,
    JobUnknown,
    P2prcError,
    PeerBusy,
    PeerMisbehaved,
    PolicyRefuses,
)
from p2prc.model.identity import BlobId, JobId, NodeId
from p2prc.model.job import TASKS_LIMIT, Job
from p2prc.node.bulk import Bulk
from p2prc.node.job_keeping import DESCRIPTION
from p2prc.node.post import Post
from p2prc.protocol.jobs.check import check_job, job_codec
from p2prc.protocol.jobs.keys import proof_of
from p2prc.protocol.jobs.parameters import task_count
from p2prc.protocol.messages import AskJob, JobShown, KeepJob
from p2prc.storage.blobs import BlobStore
from p2prc.storage.schema import StoredJob

KEPT_JOBS_LIMIT = 200
"""How many jobs that have not ended one submitter may leave with this node."""
KEPT_TASKS_LIMIT = TASKS_LIMIT
"""How many tasks those may have together: each takes some memory while the job is kept."""
WAITING_LIMIT = 100
"""How many jobs of one peer wait to be handed over, one after another."""
ASK_TIMEOUT_S = 10.0
ASKED_LIMIT = 256


class JobIntake:
    """Brings descriptions and inputs here. `keeps_for` says whether a peer may ask for that."""

    def __init__(
        self,
        own: NodeId,
        *,
        blobs: BlobStore,
        bulk: Bulk,
        post: Post,
        keeps_for: Callable[[NodeId], bool],
    ) -> None:
        self._own = own
        self._blobs = blobs
        self._bulk = bulk
        self._post = post
        self._keeps_for = keeps_for
        # A lock lives as long as somebody hands over or waits.
        self._turns: WeakValueDictionary[NodeId, asyncio.Lock] = WeakValueDictionary()
        self._waiting: Counter[NodeId] = Counter()

    async def take(
        self, peer: NodeId, body: KeepJob, kept: Callable[[], Sequence[Job]]
    ) -> StoredJob:
        """Return a peer's job once its description and inputs are here, and pinned for it.

        Raises PolicyRefuses, PeerBusy, JobInvalid, PeerMisbehaved, DiskFull, LimitExceeded.
        """
        if not self._keeps_for(peer):
            raise PolicyRefuses("this node keeps no jobs of yours: it does not lend to you now")
        if self._waiting[peer] >= WAITING_LIMIT:
            raise PeerBusy("too many jobs of yours are just being handed over")
        turn = self._turns.setdefault(peer, asyncio.Lock())
        self._waiting[peer] += 1
        try:
            async with turn:
                return await self._taken(peer, body, kept())
        finally:
            self._waiting -= Counter([peer])

    async def _taken(self, peer: NodeId, body: KeepJob, kept: Sequence[Job]) -> StoredJob:
        owner = f"job-{body.job}"
        try:
            content, job = await self._described(peer, body.job, body.tree, owner)
            self._see_room([other for other in kept if other.submitter == job.submitter], job)
            for name in sorted({step.command.inputs or "" for step in job.steps} - {""}):
                tree = await self._bulk.obtain_inputs(peer, BlobId(name), owner)
                self._blobs.pin_tree(owner, tree, survives=True)
        except P2prcError:
            self._blobs.unpin(owner)
            raise
        return StoredJob(body.job, content, "", "queued", time.time(), role="keeper")

    def _see_room(self, others: Sequence[Job], job: Job) -> None:
        if len(others) >= KEPT_JOBS_LIMIT:
            raise PeerBusy(f"{len(others)} jobs of that submitter are kept here already")
        tasks = sum(task_count(step) for each in (*others, job) for step in each.steps)
        if tasks > KEPT_TASKS_LIMIT:
            raise PeerBusy(f"jobs of that submitter with {tasks} tasks are too many to keep here")

    async def _described(
        self, peer: NodeId, wanted: JobId, tree_id: BlobId, owner: str
    ) -> tuple[bytes, Job]:
        tree = await self._bulk.obtain_inputs(peer, tree_id, owner)
        if [entry.path for entry in tree.files] != [DESCRIPTION]:
            raise PeerMisbehaved("a job's description is one file")
        content = await asyncio.to_thread(self._blobs.read, tree.files[0].blob)
        job = await asyncio.to_thread(_checked, content)
        if job.id != wanted:
            raise PeerMisbehaved("a description of another job")
        return content, job

    # -- reading --

    async def find(self, wanted: JobId, secret: str, nodes: Sequence[NodeId]) -> StoredJob:
        """Return a job whose key somebody here has, from whichever member holds it.

        Raises JobUnknown.
        """
        asked = [self._ask(node, wanted, secret) for node in nodes[:ASKED_LIMIT]]
        for found in await asyncio.gather(*asked):
            if found is None:
                continue
            node, tree = found
            owner = f"reading-{wanted}"
            try:
                content, job = await self._described(node, wanted, tree, owner)
            except P2prcError:
                continue
            finally:
                self._blobs.unpin(owner)
            if job.salt == secret:
                return StoredJob(wanted, content, "", "queued", time.time(), role="reader")
        raise JobUnknown(
            "no node that can be reached holds a job with this key",
            hint="see who is there: `p2prc nodes`",
        )

    async def _ask(self, node: NodeId, wanted: JobId, secret: str) -> tuple[NodeId, BlobId] | None:
        request = AskJob(wanted, proof_of(secret, asker=self._own, holder=node))
        try:
            said = await self._post.ask(node, request, JobShown, timeout_s=ASK_TIMEOUT_S)
        except P2prcError:
            return None
        return node, said.tree


def _checked(content: bytes) -> Job:
    job = job_codec.decode(content)
    check_job(job)
    if not job.steps:
        raise JobInvalid("a job without steps")
    return job
