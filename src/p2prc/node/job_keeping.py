"""One job among those who hold it: handed over, kept level, read by whoever has its key."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from p2prc.errors import (
    JobUnknown,
    NotAllowed,
    P2prcError,
    PeerUnreachable,
)
from p2prc.model.identity import BlobId, JobId, NodeId, short
from p2prc.model.tree import FileEntry, Tree
from p2prc.node.grants import Grants
from p2prc.node.job_pages import JobPages
from p2prc.node.post import Post
from p2prc.node.tasks import Tasks
from p2prc.protocol import messages
from p2prc.protocol.jobs import holding
from p2prc.protocol.jobs.facts import Fact, TaskSucceeded
from p2prc.protocol.jobs.holder import Holder
from p2prc.protocol.jobs.keys import is_proof
from p2prc.protocol.jobs.pages import LogLength, Logs, SignedPage, open_page
from p2prc.storage.blobs import BlobStore
from p2prc.wire.signed import Envelope

DESCRIPTION = "job"
SYNC_TIMEOUT_S = 6.0
HAND_OVER_TIMEOUT_S = 3600.0
READERS_LIMIT = 100

log = logging.getLogger(__name__)


class JobKeeping:
    """Carries out what a holder wants of the other holders, and answers them."""

    def __init__(
        self,
        description: bytes,
        holder: Holder,
        pages: JobPages,
        *,
        own: NodeId,
        blobs: BlobStore,
        grants: Grants,
        post: Post,
        tasks: Tasks,
        feed: Callable[[holding.Event], None],
        is_reachable: Callable[[NodeId], bool],
    ) -> None:
        job = holder.ledger.job
        self.id: JobId = holder.ledger.job_id
        self._description = description
        self._secret = job.salt
        self._inputs = frozenset(BlobId(step.command.inputs or "") for step in job.steps)
        self._holder = holder
        self._pages = pages
        self._own = own
        self._blobs = blobs
        self._post = post
        self._tasks = tasks
        self._feed = feed
        self._is_reachable = is_reachable
        self._tree: BlobId | None = None
        self._offered: dict[NodeId, None] = {}
        self._readers: dict[NodeId, None] = {}
        self._results: set[BlobId] = set()
        grants.allow_by_rule(f"holders-{self.id}", self._may_read)

    def note(self, facts: Iterable[Fact]) -> None:
        """Know which trees are results of the job."""
        for fact in facts:
            if isinstance(fact, TaskSucceeded) and fact.outputs is not None:
                self._results.add(fact.outputs)

    def _may_read(self, peer: NodeId, tree: BlobId) -> bool:
        is_holder = peer in self._offered or peer in self._holder.ledger.holders
        if tree in self._inputs:
            return is_holder
        return (is_holder or peer in self._readers) and (
            tree == self._tree or tree in self._results
        )

    # -- what our own holder wants

    def hand_over(self, node: NodeId) -> None:
        """Give the node the job."""
        self._tasks.start_contained(self._hand_over(node), f"hand over {self.id}")

    def sync(self, effect: holding.Sync) -> None:
        """Tell the node what is here, and hear what it has."""
        self._tasks.start_contained(self._sync(effect), f"sync {self.id}")

    def succeed(self, effect: holding.Succeeds) -> None:
        """Let the nodes end what the last coordinator holds there."""
        proof = self._pages.naming(self._own, by=effect.last)
        if proof is None:
            return
        log.info("job taken over", extra={"job": self.id, "last": effect.last})
        for node in effect.nodes:
            self._post.tell(node, messages.SucceedCoordinator(self.id, effect.last, proof))

    async def _hand_over(self, node: NodeId) -> None:
        self._offered[node] = None
        try:
            await self._tasks.contained(self._offer(node), f"hand over {self.id}")
        except P2prcError as error:
            log.info("a node does not keep a job", extra={"peer": node, "why": error.message})
            self._offered.pop(node, None)
            reason = f"{short(node)} said: {error.message}"
            self._feed(holding.HandOverFailed(node, reason))
        else:
            self._feed(holding.HandedOver(node))

    async def _offer(self, node: NodeId) -> None:
        tree = await asyncio.to_thread(self.description_tree)
        request = messages.KeepJob(self.id, tree)
        await self._post.ask(node, request, messages.Done, timeout_s=HAND_OVER_TIMEOUT_S)

    def description_tree(self) -> BlobId:
        """Return the tree whose only file is the description, in our store."""
        if self._tree is None:
            blob = self._blobs.put_bytes(self._description)
            tree = Tree((FileEntry(DESCRIPTION, blob, len(self._description)),))
            self._blobs.pin_tree(f"description-{self.id}", tree)
            self._tree = self._blobs.put_tree(tree)
        return self._tree

    async def _sync(self, effect: holding.Sync) -> None:
        node = effect.node
        try:
            heard = await self._tasks.contained(self._exchange(effect), f"sync {self.id}")
        except P2prcError as error:
            is_unknown = isinstance(error, JobUnknown)
            self._feed(holding.SyncFailed(node, error.message, is_unknown=is_unknown))
        else:
            self._feed(holding.SyncAnswered(heard))

    async def _exchange(self, effect: holding.Sync) -> holding.Heard:
        node = effect.node
        if not self._is_reachable(node):
            raise PeerUnreachable(f"{short(node)} cannot be reached")
        request = messages.SyncLedger(
            self.id,
            effect.epoch,
            effect.is_safe,
            effect.logs,
            self._pages.some(effect.lacking),
        )
        said = await self._post.ask(node, request, messages.LedgerSynced, timeout_s=SYNC_TIMEOUT_S)
        new = self.take(said.pages)
        return holding.Heard(node, said.epoch, said.logs, said.is_safe, new)

    def take(self, envelopes: Sequence[Envelope]) -> tuple[SignedPage, ...]:
        """Verify pages of others and keep those that count. Raises WireError, DiskFull."""
        opened = [(open_page(envelope), envelope) for envelope in envelopes]
        originals = {id(signed): envelope for signed, envelope in opened}
        new, faults = self._holder.logs.sift(self._holder.ledger, [signed for signed, _ in opened])
        for fault in sorted(set(faults)):
            log.info("a page was not taken", extra={"job": self.id, "why": fault})
        self._pages.add([(signed, originals[id(signed)]) for signed in new])
        for signed in new:
            self.note(signed.page.facts)
        return tuple(new)

    # -- what others want

    def synced(self, peer: NodeId, body: messages.SyncLedger) -> messages.LedgerSynced:
        """Take what a holder sent, and answer with what it lacks.

        Raises NotAllowed for whoever holds nothing, WireError, DiskFull.
        """
        new = self.take(body.pages)
        named = (*self._holder.ledger.holders, *(signed.author for signed in new))
        if peer not in named:
            raise NotAllowed("you do not hold this job")
        self._feed(holding.Heard(peer, body.epoch, body.logs, body.is_safe, new))
        return self._said(body.logs)

    def read(self, peer: NodeId, body: messages.ReadLedger) -> messages.LedgerSynced:
        """Answer a reader. Raises JobUnknown."""
        self._admit(peer, body.proof)
        return self._said(body.logs)

    def show(self, peer: NodeId, body: messages.AskJob) -> messages.JobShown:
        """Let a reader have the description. Raises JobUnknown."""
        self._admit(peer, body.proof)
        return messages.JobShown(self.description_tree())

    def _admit(self, peer: NodeId, proof: bytes) -> None:
        is_full = len(self._readers) >= READERS_LIMIT and peer not in self._readers
        if is_full or not is_proof(proof, self._secret, asker=peer, holder=self._own):
            # Whoever lacks the key learns nothing, not even that the job is here.
            raise JobUnknown(f"no job {short(self.id)} is kept here for you")
        self._readers[peer] = None

    def _said(self, theirs: Sequence[LogLength]) -> messages.LedgerSynced:
        holder = self._holder
        return messages.LedgerSynced(
            holder.epoch,
            holder.is_safe,
            holder.logs.lengths(),
            self._pages.some(holder.logs.lacking(Logs(theirs))),
        )
