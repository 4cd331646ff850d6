"""One job that this node holds: its holder, driven; facts on disk before anything follows them.

A job's runner is rebuilt from its ledger after a crash and carries on: it asks the other holders
who carries the job on now, and the nodes that had its attempts what became of them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from random import Random

import msgspec

from p2prc.errors import (
    FileUnknown,
    InvalidInput,
    MachineCannot,
    P2prcError,
    PeerError,
    PeerLost,
    PeerUnreachable,
    WorkFailed,
)
from p2prc.files.place import OutputClaims, write_outputs
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId
from p2prc.model.tree import Tree
from p2prc.model.workload import Command
from p2prc.node.bulk import Bulk
from p2prc.node.drive import Driver
from p2prc.node.earlier_outputs import EarlierOutputs
from p2prc.node.grants import Grants
from p2prc.node.job_keeping import JobKeeping
from p2prc.node.job_pages import JobPages
from p2prc.node.pictures import Pictures
from p2prc.node.post import Post
from p2prc.node.runs import LEASE_TIMEOUT_S
from p2prc.node.tasks import Tasks, Work
from p2prc.plugins.hooks import HookSet, JobEvent
from p2prc.protocol import messages
from p2prc.protocol.jobs import events as coordination
from p2prc.protocol.jobs import holding
from p2prc.protocol.jobs.attempts import TaskKey, parse_attempt_id
from p2prc.protocol.jobs.check import job_codec
from p2prc.protocol.jobs.expansion import expand_text
from p2prc.protocol.jobs.facts import AttemptFailed, TaskSucceeded
from p2prc.protocol.jobs.holder import Holder
from p2prc.protocol.jobs.keys import proof_of
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.parameters import TaskSpace
from p2prc.protocol.placement import NodeOffer
from p2prc.storage.blobs import BlobStore
from p2prc.storage.schema import StoredJob
from p2prc.storage.state import State

DISK_RETRY_S = 5.0
TOLD_FOR_S = 86400.0
"""How long after a job's end a restarted node tells the other holders of it."""
READ_EVERY_S, READ_ENDED_EVERY_S = 1.0, 30.0
SUBMITTER, KEEPER, READER = "submitter", "keeper", "reader"

log = logging.getLogger(__name__)


class JobRunner:
    """One job: its ledger, this node's part in it, and the work that follows."""

    def __init__(
        self,
        stored: StoredJob,
        *,
        state: State,
        blobs: BlobStore,
        bulk: Bulk,
        grants: Grants,
        post: Post,
        tasks: Tasks,
        rng: Random,
        own: NodeId,
        secret: bytes,
        is_reachable: Callable[[NodeId], bool],
        pictures: Pictures,
        hooks: HookSet,
    ) -> None:
        self._hooks = hooks
        self._told: JobEvent | None = None
        self.stored = stored
        self.job = job_codec.decode(stored.description)
        self._pages = JobPages(state, stored.id, own=own, secret=secret)
        facts = list(self._pages.facts())
        self.ledger = Ledger(self.job, facts, remembers_collected=not self.is_own)
        self.notes: dict[NodeId, str] = {}
        self._state = state
        self._own = own
        self._blobs = blobs
        self._is_reachable = is_reachable
        self._pictures = pictures
        self._bulk = bulk
        self._grants = grants
        self._post = post
        self._tasks = tasks
        self._spaces = [TaskSpace(step) for step in self.job.steps]
        self._claims = OutputClaims()
        self._earlier = EarlierOutputs(
            self.job,
            blobs=blobs,
            owner=self._reason,
            outputs=self.outputs,
            obtain=self.obtain_result,
        )
        self._changed = asyncio.Event()
        self._held: deque[holding.Effect] = deque()
        self._retrying: asyncio.TimerHandle | None = None
        self._storing: dict[AttemptId, Work[None]] = {}
        self.halted = ""
        self.blocked_reason = ""
        self._leases: dict[LeaseId, NodeId] = {}
        self._unanswered: set[NodeId] = set()
        self._reading: Work[None] | None = None
        self._candidates: tuple[NodeId, ...] = ()
        self._input_bytes = 0
        self._slot_limits: Mapping[NodeId, int] | None = None
        self._has_let_go = False
        self._seen_state = ""
        self.holder = Holder(
            own,
            self.ledger,
            rng,
            loose=self._pages.loose(),
            logs=self._pages.lengths(),
            utc_offset_s=time.time() - asyncio.get_running_loop().time(),
        )
        self._driver = Driver(
            self.holder, self._perform, tick=coordination.Tick, broken=self._break
        )
        self.keeping = JobKeeping(
            stored.description,
            self.holder,
            self._pages,
            own=own,
            blobs=blobs,
            grants=grants,
            post=post,
            tasks=tasks,
            feed=self._feed,
            is_reachable=is_reachable,
        )
        self.keeping.note(facts)

    @property
    def is_own(self) -> bool:
        """Whether the job was submitted here."""
        return self.stored.role == SUBMITTER

    @property
    def has_to_start(self) -> bool:
        """Whether there is something left to do for it, or to tell others."""
        ledger = self.ledger
        if not ledger.is_ended or not ledger.is_all_collected:
            return True
        ended_at = ledger.finished_at or 0.0
        return bool(ledger.keepers) and time.time() - ended_at < TOLD_FOR_S

    def _feed(self, event: holding.Event) -> None:
        self._driver.feed(event)
        self._look()

    def _look(self) -> None:
        """See whether the job has ended by another's hand, and whether its results may go."""
        if not self._held and self.ledger.is_ended:
            if self.ledger.state != self._seen_state:
                self._end(self.ledger.state)
            if not self.is_own and self.ledger.is_all_collected and not self._has_let_go:
                self._has_let_go = True
                self._blobs.unpin(self._results_reason)
        self._wake()

    @property
    def id(self) -> JobId:
        """The job's id."""
        return self.stored.id

    def start(self, offers: Sequence[NodeOffer]) -> None:
        """Begin, or carry on after a restart; without its inputs a job only waits to be cancelled.

        Raises FileUnknown or WireError for a damaged manifest.
        """
        if self.stored.role == READER:
            self._reading = self._tasks.start_contained(self._read(), f"read {self.id}")
            return
        self._input_bytes = 0
        for name in sorted({step.command.inputs or "" for step in self.job.steps} - {""}):
            blob = BlobId(name)
            tree = self._blobs.tree(blob) if self._blobs.has(blob) else None
            if tree is None or self._blobs.missing(tree):
                self.halted = "the job's inputs are gone from this node: cancel it, submit it again"
                return
            self._blobs.pin_tree(self._reason, tree, survives=True)
            self._input_bytes += tree.size_bytes
        self._take_claims()
        self.offers_changed(offers)

    def stop(self) -> None:
        """Do nothing more; the ledger stays."""
        if self._retrying is not None:
            self._retrying.cancel()
        if self._reading is not None:
            self._reading.stop()
        self._driver.stop()

    def forget(self) -> None:
        """Let go of everything; the ledger is deleted by whoever says this."""
        self.stop()
        for reason in (self._reason, self._results_reason, f"description-{self.id}"):
            self._blobs.unpin(reason)
        self._grants.revoke(self._reason)
        self._grants.revoke(f"holders-{self.id}")

    def offers_changed(self, offers: Sequence[NodeOffer]) -> None:
        """The network looks different."""
        self._feed(coordination.OffersChanged(tuple(self._allowed(offers))))

    def slots_allowed(self, limits: Mapping[NodeId, int] | None) -> None:
        """So many slots may be held on each node beside other jobs."""
        if limits != self._slot_limits:
            self._slot_limits = limits
            self._feed(coordination.SlotsAllowed(limits))

    def candidates_changed(self, nodes: Sequence[NodeId]) -> None:
        """These could keep the job, the most stable first."""
        wanted = self.job.nodes
        able = tuple(node for node in nodes if not wanted or node in wanted)
        if able != self._candidates:
            self._candidates = able
            self._feed(holding.CandidatesChanged(able))

    def node_lost(self, node: NodeId) -> None:
        """No link leads to the node any more."""
        self._feed(coordination.NodeLost(node))

    def node_back(self, node: NodeId) -> None:
        """A link to the node exists: ask what it holds of ours, if we wait to know."""
        if node in self._unanswered:
            self._tasks.start_contained(self._ask(node), f"ask about {self.id}")

    def cancel(self) -> None:
        """Stop everything; there is no way back."""
        self._feed(coordination.CancelRequested())

    def retry(self) -> None:
        """Try the failed tasks again."""
        self._feed(coordination.RetryRequested())

    def letter(self, peer: NodeId, body: messages.Control) -> bool:
        """Take a letter if it is about this job; say whether it was."""
        match body:
            case messages.AttemptEnded() if body.attempt.startswith(self.id):
                self.notes.pop(peer, None)
                event = coordination.AttemptEnded(peer, body.attempt, body.outcome)
                self._feed(event)
            case messages.LeaseEnded() if self._leases.get(body.lease) == peer:
                del self._leases[body.lease]
                self._feed(coordination.SlotEnded(peer, body.lease, body.ended_by, body.reason))
            case _:
                return False
        return True

    def progress(self, node: NodeId, lease: LeaseId, text: str) -> bool:
        """Remember what a node is busy with, before it runs a task or in one."""
        if self._leases.get(lease) != node:
            return False
        self.notes[node] = text
        self._wake()
        return True

    async def wait_changed(self) -> None:
        """Wait until something happens to the job."""
        await self._changed.wait()

    def log_tails(self) -> dict[tuple[TaskKey, int], bytes]:
        """Return how the output of each failed attempt ended; read from disk, not kept."""
        tails = {}
        for fact in self._pages.facts():
            if isinstance(fact, AttemptFailed):
                tails[TaskKey(fact.step, fact.task), fact.attempt] = fact.log_tail
        return tails

    def outputs(self) -> dict[TaskKey, BlobId]:
        """Return the trees of the results that count; read from disk, not kept."""
        found = {}
        for fact in self._pages.facts():
            if isinstance(fact, TaskSucceeded) and fact.outputs is not None:
                accepted = self.ledger.steps[fact.step].accepted(fact.task)
                if accepted is not None and accepted.attempt == fact.attempt:
                    found[TaskKey(fact.step, fact.task)] = fact.outputs
        return found

    def values_of(self, task: TaskKey) -> dict[str, str]:
        """Return a task's parameters as text."""
        return {
            name: str(value) for name, value in self._spaces[task.step].values(task.task).items()
        }

    def folder_for(self, task: TaskKey, to: str) -> Path:
        """Return where a task's outputs go: `{NAME}` in the folder stands for its values."""
        return Path(expand_text(to, self._spaces[task.step].values(task.task)))

    # -- effects of the coordinator --

    def _perform(self, effect: holding.Effect) -> None:
        # What follows a fact waits until the fact is on disk.
        self._held.append(effect)
        if len(self._held) == 1:
            self._perform_held()

    def _perform_held(self) -> None:
        while self._held:
            try:
                self._perform_one(self._held[0])
            except MachineCannot as error:
                log.warning("the job waits for a disk", extra={"job": self.id, "why": str(error)})
                self.halted = f"{error.message}; the job goes on when that is mended"
                loop = asyncio.get_running_loop()
                self._retrying = loop.call_later(DISK_RETRY_S, self._perform_held)
                break
            self.halted = ""
            self._held.popleft()
        self._wake()

    def _perform_one(self, effect: holding.Effect) -> None:
        match effect:
            case coordination.AppendFacts():
                self._pages.append(effect.facts)
                self.keeping.note(effect.facts)
            case holding.Seal():
                self._pages.seal(effect.pages)
            case holding.HandOver():
                self.keeping.hand_over(effect.node)
            case holding.Sync():
                self.keeping.sync(effect)
            case holding.Succeeds():
                self.keeping.succeed(effect)
            case holding.FetchResult():
                self._tasks.start_contained(self._fetch(effect), f"fetch for {self.id}")
            case holding.SafetyChanged():
                log.info("safety", extra={"job": self.id, "safe": effect.is_safe})
            case _:
                self._perform_work(effect)

    def _perform_work(self, effect: coordination.Effect) -> None:
        match effect:
            case coordination.OpenSlot():
                self._leases[effect.lease] = effect.node
                self._tasks.start_contained(self._open(effect), f"open {effect.lease}")
            case coordination.CloseSlot():
                self._leases.pop(effect.lease, None)
                self._post.tell(effect.node, messages.EndLease(effect.lease))
            case coordination.StartAttempt():
                self._tasks.start_contained(self._start(effect), f"start {effect.attempt}")
            case coordination.CancelAttempt():
                self._post.tell(effect.node, messages.CancelAttempt(effect.attempt))
                if (storing := self._storing.pop(effect.attempt, None)) is not None:
                    storing.stop()
            case coordination.StoreOutputs():
                storing = self._tasks.start_contained(
                    self._store(effect), f"store {effect.attempt}"
                )
                self._storing[effect.attempt] = storing
            case coordination.CompareOutputs():
                comparing = self._compare(effect)
                self._tasks.start_contained(comparing, f"compare for {self.id}")
            case coordination.Acknowledge():
                self._post.tell(effect.node, messages.AcknowledgeAttempt(effect.attempt))
            case coordination.AskAttempts():
                self._unanswered.add(effect.node)
                self._tasks.start_contained(self._ask(effect.node), f"ask about {self.id}")
            case coordination.JobBlocked():
                self.blocked_reason = effect.reason or ""
            case coordination.JobEnded():
                self._end(effect.state)
            case coordination.AppendFacts():
                pass

    async def _open(self, effect: coordination.OpenSlot) -> None:
        request = messages.RequestLease(
            effect.lease,
            effect.workload,
            job=self.id,
            is_isolated=effect.is_isolated,
            has_sessions=effect.has_sessions,
        )
        try:
            asking = self._post.ask(
                effect.node, request, messages.LeaseGranted, timeout_s=LEASE_TIMEOUT_S
            )
            granted = await self._tasks.contained(asking, f"open {effect.lease}")
        except P2prcError as error:
            log.info("no slot", extra={"peer": effect.node, "reason": error.message})
            self._leases.pop(effect.lease, None)
            if isinstance(error, PeerLost):
                # It may be granted all the same, after we stopped waiting.
                self._post.tell(effect.node, messages.EndLease(effect.lease))
            self._feed(
                coordination.SlotRefused(
                    effect.node,
                    effect.lease,
                    code=error.code,
                    message=error.message,
                    is_retryable=error.retryable,
                )
            )
        else:
            self._feed(coordination.SlotOpened(effect.node, effect.lease, granted.tier))
        self.notes.pop(effect.node, None)

    async def _start(self, effect: coordination.StartAttempt) -> None:
        command = await self._with_inputs(effect)
        if command is None:
            return
        request = messages.StartAttempt(effect.lease, effect.attempt, command)
        try:
            asking = self._post.ask(effect.node, request, messages.Done)
            await self._tasks.contained(asking, f"start {effect.attempt}")
        except PeerLost as error:
            # Also when the link lives and only the answer is late: what became of it is asked.
            log.info("start not confirmed", extra={"peer": effect.node, "why": error.message})
            self._feed(coordination.NodeLost(effect.node))
        except P2prcError as error:
            self._feed(
                coordination.StartRefused(effect.node, effect.attempt, error.code, error.message)
            )

    async def _with_inputs(self, effect: coordination.StartAttempt) -> Command | None:
        """Return the command with all that it finds, which its node may fetch; None if refused."""
        step = parse_attempt_id(effect.attempt)[1].step
        command = effect.command
        if self.job.steps[step].needs:
            try:
                making = self._earlier.inputs_of(step)
                inputs = await self._tasks.contained(making, f"inputs for {effect.attempt}")
            except P2prcError as error:
                self._feed(
                    coordination.StartRefused(
                        effect.node, effect.attempt, error.code, error.message
                    )
                )
                return None
            command = msgspec.structs.replace(command, inputs=inputs)
        if command.inputs is not None:
            self._grants.allow(effect.node, command.inputs, reason=self._reason)
        return command

    async def _store(self, effect: coordination.StoreOutputs) -> None:
        owner = f"storing/{effect.attempt}"
        try:
            await self._tasks.contained(self._write(effect, owner), f"store {effect.attempt}")
        except P2prcError as error:
            self._feed(
                coordination.OutputsFailed(
                    effect.attempt,
                    error.code,
                    error.message,
                    is_peer_fault=isinstance(error, PeerError),
                )
            )
        else:
            self._feed(coordination.OutputsStored(effect.attempt))
        finally:
            self._blobs.unpin(owner)
            self._storing.pop(effect.attempt, None)

    async def _compare(self, effect: coordination.CompareOutputs) -> None:
        """Bring both results and have them looked at."""
        owner = f"comparing/{effect.first.attempt}-{effect.second.attempt}"
        said = partial(
            coordination.OutputsCompared, effect.first.attempt, effect.second.attempt, None
        )
        trees: list[Tree] = []
        try:
            for made in (effect.first, effect.second):
                try:
                    bringing = self._bulk.obtain(made.node, made.outputs, owner)
                    trees.append(
                        await self._tasks.contained(bringing, f"bring {made.attempt} to compare")
                    )
                except (PeerError, FileUnknown) as error:
                    self._feed(said(reason=error.message, lost=made.attempt))
                    return
            one, other = trees
            looking = self._pictures.are_alike(one, other, within=effect.within, owner=owner)
            is_same = await self._tasks.contained(looking, f"compare for {self.id}")
        except P2prcError as error:
            self._feed(said(reason=f"it could not be looked at here: {error.message}"))
        else:
            attempts = effect.first.attempt, effect.second.attempt
            self._feed(coordination.OutputsCompared(*attempts, is_same))
        finally:
            self._blobs.unpin(owner)

    async def _write(self, effect: coordination.StoreOutputs, owner: str) -> None:
        tree = await self._bulk.obtain(effect.node, effect.outputs, owner)
        await self._put_in_place(effect.task, tree)

    async def _put_in_place(self, task: TaskKey, tree: Tree) -> None:
        """Write what a task made where it belongs; what is kept for another stays in the store."""
        if not self.is_own:
            self._blobs.pin_tree(self._results_reason, tree, survives=True)
            return
        if self._earlier.is_needed(task.step):
            self._blobs.pin_tree(self._reason, tree, survives=True)
        folder = self.folder_for(task, self.stored.to_folder)
        self._claims.claim(tree, f"{task.step}/{task.task}", to=str(folder))
        try:
            await asyncio.to_thread(write_outputs, tree, self._blobs, folder)
        except OSError as error:
            raise MachineCannot(f"the machine refuses: {error.strerror or error}") from error

    async def _fetch(self, effect: holding.FetchResult) -> None:
        """Bring the outputs of a result that another accepted."""
        owner = f"fetching/{self.id}-{effect.task.step}-{effect.task.task}"
        try:
            await self._tasks.contained(self._bring(effect, owner), f"fetch for {self.id}")
        except P2prcError as error:
            log.info("a result was not fetched", extra={"job": self.id, "why": str(error)})
            self._feed(holding.ResultNotFetched(effect.task, effect.attempt))
        else:
            self._feed(holding.ResultFetched(effect.task, effect.attempt))
        finally:
            self._blobs.unpin(owner)

    async def _bring(self, effect: holding.FetchResult, owner: str) -> None:
        tree = await self.obtain(effect.outputs, effect.sources, owner)
        await self._put_in_place(effect.task, tree)

    async def _read(self) -> None:
        while True:
            with suppress(P2prcError):
                await self._tasks.contained(self.refresh(), f"read {self.id}")
            await asyncio.sleep(READ_ENDED_EVERY_S if self.ledger.is_ended else READ_EVERY_S)

    async def refresh(self) -> None:
        """Where the job is another's and only read here: hear all that its holders know.

        Raises PeerError, JobUnknown.
        """
        if self.stored.role != READER:
            return
        failed: P2prcError = PeerUnreachable("nobody who holds the job can be reached")
        for holder in (*reversed(self.ledger.holders), *self._candidates):
            if holder == self._own or not self._is_reachable(holder):
                continue
            try:
                await self._read_from(holder)
            except P2prcError as error:
                failed = error
            else:
                return
        raise failed

    async def _read_from(self, holder: NodeId) -> None:
        proof = proof_of(self.job.salt, asker=self._own, holder=holder)
        while True:
            request = messages.ReadLedger(self.id, proof, self.holder.logs.lengths())
            said = await self._post.ask(holder, request, messages.LedgerSynced)
            new = self.keeping.take(said.pages)
            if not new:
                return
            self._feed(holding.Heard(holder, None, said.logs, said.is_safe, new))

    async def obtain_result(self, task: TaskKey, outputs: BlobId, owner: str) -> Tree:
        """Return the tree of an accepted result, from our store or from who has it.

        Raises PeerError, FileUnknown, DiskFull.
        """
        maker = self.ledger.node_of(task)
        sources = [self._own, *reversed(self.ledger.holders), *([maker] if maker else [])]
        return await self.obtain(outputs, tuple(dict.fromkeys(sources)), owner)

    async def obtain(self, outputs: BlobId, sources: Sequence[NodeId], owner: str) -> Tree:
        """Return a tree, pinned for the owner, from the first node that gives it.

        Raises PeerError, FileUnknown, DiskFull.
        """
        failed: P2prcError = FileUnknown("nobody who can be reached has these outputs")
        for source in sources:
            if not self._is_reachable(source):
                continue
            try:
                return await self._bulk.obtain(source, outputs, owner)
            except (PeerError, FileUnknown) as error:
                failed = error
        raise failed

    async def _ask(self, node: NodeId) -> None:
        request = messages.AskAttempts(self.id)
        held = await self._post.ask(node, request, messages.Attempts)
        self._unanswered.discard(node)
        if self.holder.is_settled:
            # It was away when the job ended: what it still holds for the job is in vain.
            for lease in held.leases:
                self._post.tell(node, messages.EndLease(lease))
            return
        for lease in held.leases:
            self._leases.setdefault(lease, node)
        self._feed(coordination.AttemptsReported(node, held.leases, held.running, held.finished))

    def _end(self, state: str) -> None:
        self._seen_state = state
        self._grants.revoke(self._reason)
        if state != "failed":
            # A failed job may be tried again: its inputs stay.
            self._blobs.unpin(self._reason)
        stored = self._state.job(self.id)
        if stored is None or stored.state != state:
            self._state.set_job_state(self.id, state, finished_at=self.ledger.finished_at)
            log.info("job ended", extra={"job": self.id, "state": state})

    def _break(self, error: Exception) -> None:
        """End this job's work for good: what nobody foresaw must not end the node."""
        self._tasks.note_bug(error, f"job {self.id}")
        self.halted = (
            f"a bug of p2prc ({type(error).__name__}) stopped it: start the node anew "
            "(`p2prc down`, `p2prc up --detach`) to let it go on"
        )
        for storing in list(self._storing.values()):
            storing.stop()
        for lease, node in self._leases.items():
            self._post.tell(node, messages.EndLease(lease))
        self._wake()

    # -- small things --

    @property
    def _reason(self) -> str:
        return f"job-{self.id}"

    @property
    def _results_reason(self) -> str:
        return f"results-{self.id}"

    def _allowed(self, offers: Sequence[NodeOffer]) -> list[NodeOffer]:
        wanted = self.job.nodes
        named = [each for each in offers if not wanted or each.node in wanted]
        return [self._with_path(each) for each in self._hooks.place(named, self.job.name)]

    def _with_path(self, offer: NodeOffer) -> NodeOffer:
        """Say how long our inputs take to come there, as far as transfers showed."""
        if offer.node == self._own:
            return offer
        return replace(offer, brings_s=self._bulk.speeds.brings_s(offer.node, self._input_bytes))

    def _take_claims(self) -> None:
        """Know again which task gave which path, as far as the manifests are still here."""
        for task, name in self.outputs().items():
            if self._blobs.has(name):
                folder = str(self.folder_for(task, self.stored.to_folder))
                with suppress(FileUnknown, InvalidInput, PeerError, WorkFailed):
                    tree = self._blobs.tree(name)
                    self._claims.claim(tree, f"{task.step}/{task.task}", to=folder)

    def _tell_plugins(self) -> None:
        counts = self.ledger.counts
        event = JobEvent(
            job=str(self.id),
            name=self.job.name,
            state=self.ledger.state,
            total=counts.total,
            running=counts.running,
            succeeded=counts.succeeded,
            failed=counts.failed,
        )
        if event != self._told:
            self._told = event
            self._hooks.job_event(event)

    def _wake(self) -> None:
        if self._hooks and self.is_own:
            self._tell_plugins()
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
