"""Jobs of others on a node: kept, refused, read by their key, and taken over."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import pytest

from p2prc.errors import DiskFull, JobUnknown, NotAllowed, P2prcError, PolicyRefuses, WireError
from p2prc.model.identity import BlobId, JobId, LeaseId, NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.tree import FileEntry, Tree
from p2prc.model.workload import Command, Workload
from p2prc.node.job_pages import JobPages
from p2prc.node.job_runner import JobRunner
from p2prc.node.node import Node
from p2prc.protocol import messages
from p2prc.protocol.jobs.facts import (
    CoordinatorTook,
    Fact,
    JobCancelled,
    KeepersNamed,
    TaskAssigned,
)
from p2prc.protocol.jobs.keys import proof_of
from p2prc.protocol.jobs.pages import LogName, Page, in_pages, open_page, sign_page
from p2prc.protocol.lending import LendingPolicy
from p2prc.storage.schema import StoredJob
from p2prc.storage.state import open_state
from p2prc.transport.memory import MemoryNetwork
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope
from tests.unit.test_node_in_memory import DAY_S, node_of, two_nodes
from tests.unit.test_node_troubles import until

ADA, GRACE, EVE = (name.encode().ljust(32, b"\0") for name in ("ada", "grace", "eve"))
LIFE = "0" * 20
SECRET = "5" * 32


def waiting_job(submitter: NodeId, inputs: BlobId | None = None) -> Job:
    """A job that no node can run: it stays."""
    step = Step("step", Command(("true",), inputs=inputs), workload=Workload(tiers=("container",)))
    return Job("job", submitter, SECRET, (step,))


def tree_of(node: Node, content: bytes) -> BlobId:
    tree = Tree((FileEntry("file", node.blobs.put_bytes(content), len(content)),))
    return node.blobs.put_tree(tree)


@asynccontextmanager
async def kept_by_grace(folder: Path) -> AsyncIterator[tuple[Node, Node, JobRunner]]:
    """A job of ada's that grace keeps."""
    async with two_nodes(folder) as (ada, grace):
        runner = ada.jobs.submit(waiting_job(ada.id, tree_of(ada, b"content")), "/")
        await until(lambda: bool(grace.jobs.kept()))
        await until(lambda: runner.ledger.keepers == [grace.id])
        await until(lambda: grace.jobs.kept()[0].ledger.keepers == [grace.id])
        yield ada, grace, runner


async def test_a_keeper_has_all_that_the_job_needs_and_shows_it_in_no_list(tmp_path: Path) -> None:
    async with kept_by_grace(tmp_path) as (_, grace, runner):
        (kept,) = grace.jobs.kept()
        assert kept.job == runner.job
        inputs = runner.job.steps[0].command.inputs
        assert inputs is not None
        assert grace.blobs.missing(grace.blobs.tree(inputs)) == []
        assert grace.jobs.all() == []
        # Two are wanted, and there is one.
        assert not runner.holder.is_safe
        await until(lambda: "1 of 2 other nodes" in runner.holder.safety_reason)
        assert "no other node could" in runner.holder.safety_reason


async def test_two_keepers_make_a_job_safe_and_a_cancellation_reaches_them(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        node_of(network, tmp_path, "ada") as ada,
        node_of(network, tmp_path, "grace") as grace,
        node_of(network, tmp_path, "bob") as bob,
    ):
        for node in (grace, bob):
            ticket, _ = ada.inviting.invite(expires_s=DAY_S, may_invite=False, reach="lan")
            await node.joining.join(ticket)
        runner = ada.jobs.submit(waiting_job(ada.id), "/")
        await until(lambda: runner.holder.is_safe)
        assert runner.holder.safety_reason == ""
        runner.cancel()
        await until(
            lambda: all(node.jobs.kept()[0].ledger.state == "cancelled" for node in (grace, bob))
        )


async def test_a_keeper_whose_disk_is_full_refuses_and_the_submitter_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):

        async def full(*_: object) -> None:
            raise DiskFull("the disk is full: cannot write a blob")

        monkeypatch.setattr(grace.bulk, "obtain_inputs", full)
        runner = ada.jobs.submit(waiting_job(ada.id), "/")
        await until(lambda: "the disk is full" in runner.holder.safety_reason)
        assert not runner.holder.is_safe
        assert grace.jobs.kept() == []


async def test_a_keeper_whose_state_is_full_refuses_pages_and_keeps_its_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with kept_by_grace(tmp_path) as (_, grace, runner):

        def full(*_: object, **__: object) -> None:
            raise DiskFull("the disk is full: cannot write the state")

        with monkeypatch.context() as patch:
            patch.setattr(grace._adapters.state, "add_pages", full)
            runner.cancel()
            custody = runner.holder._custody
            assert custody is not None
            await until(lambda: "disk is full" in custody._peer(grace.id).trouble)
        (kept,) = grace.jobs.kept()
        await until(lambda: kept.ledger.state == "cancelled")


async def test_who_is_lent_nothing_has_no_job_kept(tmp_path: Path) -> None:
    nobody = LendingPolicy(lends_to=frozenset())
    async with two_nodes(tmp_path, nobody) as (ada, grace):
        runner = ada.jobs.submit(waiting_job(ada.id), "/")
        await until(lambda: "keeps no jobs of yours" in runner.holder.safety_reason)
        request = messages.KeepJob(runner.id, BlobId("0" * 64))
        with pytest.raises(PolicyRefuses):
            await ada.post.ask(grace.id, request, messages.Done)


async def test_a_description_of_another_job_is_not_kept(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        job = waiting_job(ada.id)
        tree = Tree((FileEntry("job", ada.blobs.put_bytes(encode(job)), len(encode(job))),))
        ada.grants.allow(grace.id, ada.blobs.put_tree(tree), reason="test")
        with pytest.raises(P2prcError, match="another job"):
            await ada.post.ask(
                grace.id, messages.KeepJob(JobId("0" * 20), tree.digest), messages.Done
            )
        assert grace.jobs.kept() == []


def page_by(secret: bytes, job: JobId, *facts: Fact) -> Envelope:
    return sign_page(secret, Page(job, LIFE, 0, facts))


async def test_pages_count_only_from_holders_and_only_signed(tmp_path: Path) -> None:
    async with kept_by_grace(tmp_path) as (ada, grace, runner):
        (kept,) = grace.jobs.kept()

        async def sync(page: Envelope) -> messages.LedgerSynced:
            request = messages.SyncLedger(runner.id, 0, is_safe=False, logs=(), pages=(page,))
            return await ada.post.ask(grace.id, request, messages.LedgerSynced)

        # Another's signature over what the submitter alone may say.
        true = page_by(ADA, runner.id, JobCancelled(1.0))
        with pytest.raises(WireError):
            await sync(Envelope(true.author, true.payload, b"\0" * 64))
        await sync(page_by(EVE, runner.id, CoordinatorTook(9, _node(EVE), 1.0)))
        await sync(page_by(GRACE, runner.id, JobCancelled(1.0)))
        assert not kept.ledger.is_cancelled
        assert kept.ledger.claim == (0, ada.id)
        await sync(true)
        assert kept.ledger.is_cancelled


def _node(secret: bytes) -> NodeId:
    return open_page(page_by(secret, JobId("0" * 20), JobCancelled(1.0))).author


async def test_who_holds_nothing_is_told_nothing(tmp_path: Path) -> None:
    async with kept_by_grace(tmp_path) as (ada, grace, runner):
        (kept,) = grace.jobs.kept()
        request = messages.SyncLedger(runner.id, 0, is_safe=True, logs=())
        with pytest.raises(NotAllowed):
            kept.keeping.synced(_node(EVE), request)
        unknown = messages.SyncLedger(JobId("0" * 20), 0, is_safe=True, logs=())
        with pytest.raises(JobUnknown):
            await ada.post.ask(grace.id, unknown, messages.LedgerSynced)


async def test_a_reader_needs_the_key_and_may_read_only(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        node_of(network, tmp_path, "ada") as ada,
        node_of(network, tmp_path, "eve") as eve,
    ):
        ticket, _ = ada.inviting.invite(expires_s=DAY_S, may_invite=False, reach="lan")
        await eve.joining.join(ticket)
        nodes_alone = Job("job", ada.id, SECRET, waiting_job(ada.id).steps, nodes=(ada.id,))
        runner = ada.jobs.submit(nodes_alone, "/")
        await until(lambda: len(eve.network.nodes()) == 2)
        said = []
        for job, secret in ((runner.id, "6" * 32), (JobId("0" * 20), SECRET)):
            proof = proof_of(secret, asker=eve.id, holder=ada.id)
            with pytest.raises(JobUnknown) as refused:
                await eve.post.ask(ada.id, messages.AskJob(job, proof), messages.JobShown)
            said.append(refused.value.message.replace(job[:10], "ID"))
        # Whether it is there at all is not told.
        assert said[0] == said[1]
        with pytest.raises(JobUnknown):
            await eve.jobs.follow(runner.id, "6" * 32)
        read = await eve.jobs.follow(runner.id, SECRET)
        assert (read.job, read.is_own) == (runner.job, False)
        runner.cancel()
        await until(lambda: runner.ledger.is_cancelled)
        # A proof for one holder says nothing to another.
        assert proof_of(SECRET, asker=eve.id, holder=ada.id) != proof_of(
            SECRET, asker=eve.id, holder=eve.id
        )


async def test_only_whom_it_named_ends_a_coordinators_leases(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        job = JobId("a" * 20)
        request = messages.RequestLease(LeaseId("b" * 20), Workload(), job)
        await ada.post.ask(grace.id, request, messages.LeaseGranted)
        forged = page_by(EVE, job, KeepersNamed((_node(EVE),), 1.0))
        other = page_by(ADA, JobId("c" * 20), KeepersNamed((_node(EVE),), 1.0))
        for proof in (forged, other):
            grace.provider.succeed(_node(EVE), messages.SucceedCoordinator(job, ada.id, proof))
        assert len(grace.provider.leases()) == 1
        named = page_by(ADA, job, KeepersNamed((_node(EVE),), 1.0))
        grace.provider.succeed(_node(EVE), messages.SucceedCoordinator(job, ada.id, named))
        await until(lambda: not grace.provider.leases())


def assigned(task: int) -> Fact:
    return TaskAssigned(0, task, 0, _node(GRACE), LeaseId("1" * 20), 1.0)


def test_facts_survive_sealing_and_a_restart_in_between(tmp_path: Path) -> None:
    numbers = IntegerRange("i", (IntegerSpan(1, 9),))
    job = Job("job", _node(ADA), "salt", (Step("s", Command(("true",)), parameters=(numbers,)),))
    stored = StoredJob(job.id, encode(job), "/", "queued", 1.0)
    with open_state(tmp_path / "state.db") as state:
        state.add_job(stored)
        pages = JobPages(state, job.id, own=_node(ADA), secret=ADA)
        pages.append([assigned(0), assigned(1)])
        (facts,) = in_pages([assigned(0), assigned(1)])
        pages.seal([Page(job.id, LIFE, 0, facts)])
        pages.append([assigned(2)])
    with open_state(tmp_path / "state.db") as state:
        pages = JobPages(state, job.id, own=_node(ADA), secret=ADA)
        assert list(pages.facts()) == [assigned(0), assigned(1), assigned(2)]
        assert pages.loose() == [assigned(2)]
        (sent,) = pages.some([(LogName(_node(ADA), LIFE), 0)])
        assert open_page(sent).page.facts == facts
        assert pages.some([(LogName(_node(ADA), LIFE), 1)]) == ()
        assert pages.naming(_node(GRACE), by=_node(ADA)) is None
        pages.seal([Page(job.id, LIFE, 1, (KeepersNamed((_node(GRACE),), 1.0),))])
        assert pages.naming(_node(GRACE), by=_node(ADA)) is not None
        assert [tuple(one)[2] for one in state.log_lengths(job.id)] == [2]


def test_a_message_takes_as_many_pages_as_fit(tmp_path: Path) -> None:
    job = JobId("d" * 20)
    with open_state(tmp_path / "state.db") as state:
        state.add_job(StoredJob(job, b"", "/", "queued", 1.0))
        pages = JobPages(state, job, own=_node(ADA), secret=ADA)
        rng = Random(1)
        large = [
            Page(job, LIFE, number, tuple(assigned(rng.randint(0, 8)) for _ in range(900)))
            for number in range(9)
        ]
        pages.seal(large)
        sent = pages.some([(LogName(_node(ADA), LIFE), 0)])
        assert 0 < len(sent) < 9
        assert sum(len(one.payload) for one in sent) <= messages.SYNC_BYTES_LIMIT
        letter = messages.Letter(1, False, messages.SyncLedger(job, 0, False, (), sent))
        assert messages.letter_codec.decode(encode(letter)) == letter
