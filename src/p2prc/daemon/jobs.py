"""Jobs as the control API shows them: submitted, followed, collected, cancelled, tried again."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from pathlib import Path

import msgspec

from p2prc.api import schema
from p2prc.daemon.names import find_job
from p2prc.daemon.orders import command_of, environment_of, folder_of, workload_of
from p2prc.daemon.rows import instant
from p2prc.daemon.templates import RETRIES, job_of_template
from p2prc.errors import FileUnknown, JobUnknown, NotAllowed, PeerError, WireError
from p2prc.files.place import write_outputs
from p2prc.model.identity import JobId, NodeId
from p2prc.model.job import IntegerRange, Job, Step
from p2prc.node.job_runner import JobRunner
from p2prc.node.node import Node
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.check import check_job
from p2prc.protocol.jobs.keys import job_key, read_job_key
from p2prc.protocol.jobs.ledger import TaskCounts
from p2prc.protocol.jobs.parameters import parse_over, with_chunk
from p2prc.protocol.jobs.step_ledger import Failure, StepLedger, TaskState

SNAPSHOT_S = 0.2
_FRAMES = ("frame", "frames")


class JobDesk:
    """Everything a person does with jobs, on one node."""

    def __init__(self, node: Node, find_node: Callable[[str], NodeId]) -> None:
        self._node = node
        self._find_node = find_node

    def find(self, typed: str) -> JobRunner:
        """Return the job that is meant. Raises JobUnknown, NameAmbiguous."""
        runners = {runner.id: runner for runner in self._node.jobs.all()}
        keys = {job: _key(job, runner.job) for job, runner in runners.items()}
        return runners[find_job(typed, keys)]

    async def found(self, typed: str) -> JobRunner:
        """Return the job that is meant; one whose key was typed from whoever holds it, up to date.

        Raises JobUnknown, NameAmbiguous.
        """
        key = read_job_key(typed)
        if key is None:
            runner = self.find(typed)
        else:
            runner = await self._node.jobs.follow(*key)
        with suppress(PeerError, JobUnknown):
            await runner.refresh()
        return runner

    async def submit(self, request: schema.JobRequest) -> schema.JobCreated:
        """Store a job and begin it. Raises InvalidInput, FileUnknown, DiskFull."""
        parameters = tuple(parse_over(text) for text in request.over)
        if request.chunk > 1:
            parameters = with_chunk(parameters, request.chunk)
        owner = f"submitting/{secrets.token_hex(8)}"
        try:
            environment = await environment_of(request.requirements)
            step = Step(
                name=request.name[:200] or "map",
                command=await command_of(request, self._node.blobs, owner=owner),
                workload=workload_of(request, environment),
                parameters=parameters,
                retries=RETRIES if request.retries is None else request.retries,
                is_isolated=request.is_isolated,
                verify=request.verify,
            )
            job = Job(
                name=request.name or " ".join(request.argv)[:200],
                submitter=self._node.id,
                salt=secrets.token_hex(16),
                steps=(step,),
                nodes=tuple(self._find_node(typed) for typed in request.on),
                priority=request.priority or msgspec.UNSET,
            )
            check_job(job)
            runner, notices = self._begin(job, str(folder_of(request)), again=request.again)
        finally:
            self._node.blobs.unpin(owner)
        return _created(runner, notices)

    async def submit_template(self, request: schema.TemplateRequest) -> schema.JobCreated:
        """Store the job of a template and begin it. Raises InvalidInput, FileUnknown, DiskFull."""
        owner = f"submitting/{secrets.token_hex(8)}"
        try:
            written = await job_of_template(request, self._node.blobs, owner=owner)
            job = Job(
                name=written.name,
                submitter=self._node.id,
                salt=secrets.token_hex(16),
                steps=written.steps,
                nodes=tuple(self._find_node(typed) for typed in request.on),
                priority=request.priority or msgspec.UNSET,
            )
            check_job(job)
            runner, notices = self._begin(job, str(written.to), again=request.again)
        finally:
            self._node.blobs.unpin(owner)
        return _created(runner, [*notices, *written.notices])

    def _begin(self, job: Job, folder: str, *, again: bool) -> tuple[JobRunner, list[str]]:
        """Begin a job, or take up the very same that is not done; say so then."""
        if not again:
            unsalted = msgspec.structs.replace(job, salt="")
            for runner in self._node.jobs.all():
                if runner.ledger.is_ended or runner.stored.to_folder != folder:
                    continue
                if msgspec.structs.replace(runner.job, salt="") == unsalted:
                    notice = f"the very same is running already: taking up {runner.id[:10]}"
                    return runner, [f"{notice} (`--again` begins another)"]
        return self._node.jobs.submit(job, folder), []

    # -- looking --

    def rows(self) -> list[schema.JobRow]:
        """Return every job, newest first."""
        return [self.row(runner) for runner in reversed(self._node.jobs.all())]

    def row(self, runner: JobRunner) -> schema.JobRow:
        """Return one job in short."""
        ledger = runner.ledger
        finished_at = ledger.finished_at
        return schema.JobRow(
            id=runner.id,
            name=runner.job.name,
            state=ledger.state,
            tasks=_counts(ledger.counts),
            created_at=instant(runner.stored.created_at),
            finished_at=None if finished_at is None else instant(finished_at),
            eta_s=ledger.eta_s(time.time()),
            is_safe=runner.holder.is_safe,
        )

    def detail(self, runner: JobRunner) -> schema.JobDetail:
        """Return one job in full."""
        ledger = runner.ledger
        short = msgspec.structs.asdict(self.row(runner))
        return schema.JobDetail(
            **short,
            steps=[
                schema.StepRow(name=step.name, tasks=_step_counts(ledger.steps[number]))
                for number, step in enumerate(runner.job.steps)
            ],
            nodes=self._shares(runner),
            failures=self._failures(runner),
            outputs_bytes=ledger.output_bytes,
            to=runner.stored.to_folder,
            blocked=_blocked(runner),
            safety=runner.holder.safety_reason,
            verification=_verification(runner),
            priority=runner.job.priority or 0,
        )

    async def events(self, runner: JobRunner) -> AsyncIterator[schema.JobEvent]:
        """Yield a snapshot at once, then at most five a second, and the end."""
        while not runner.ledger.is_ended:
            yield self._progress(runner)
            await asyncio.sleep(SNAPSHOT_S)
            try:
                # The rate and the time left change even when nothing happens.
                async with asyncio.timeout(1.0):
                    if not runner.ledger.is_ended:
                        await runner.wait_changed()
            except TimeoutError:
                continue
        yield schema.JobEnded(job=self.detail(runner))

    def logs(self, runner: JobRunner, task: str | None) -> list[schema.TaskLog]:
        """Return how failed attempts ended; one task's result or failure when it is named."""
        wanted = None if task is None else _task_key(task)
        if wanted is not None and (result := self._result(runner, wanted)) is not None:
            return [result]
        newest: dict[TaskKey, Failure] = {}
        for failure in runner.ledger.failures():
            key = TaskKey(failure.step, failure.task)
            if wanted is None or key == wanted:
                newest[key] = failure
        if wanted is not None and not _has_task(runner, wanted):
            raise FileUnknown(
                f"the job has no task {task}: they begin at 0", hint="see `p2prc job show JOB`"
            )
        if wanted is not None and not newest:
            raise FileUnknown(f"nothing is kept of task {task}: it has not ended")
        tails = runner.log_tails()
        return [
            schema.TaskLog(
                task=_task_text(failure),
                attempt=failure.attempt,
                node=failure.node,
                state="failed",
                log=_log_text(tails, failure),
                node_name=self._node.name_of(NodeId(failure.node)),
                reason=failure.reason,
            )
            for failure in newest.values()
        ]

    def _result(self, runner: JobRunner, key: TaskKey) -> schema.TaskLog | None:
        """Return whose result counts; what a succeeded task printed is not kept."""
        if not _has_task(runner, key):
            return None
        steps = runner.ledger.steps
        accepted, node = steps[key.step].accepted(key.task), runner.ledger.node_of(key)
        if accepted is None or node is None:
            return None
        return schema.TaskLog(
            task=_task_text(key),
            attempt=accepted.attempt,
            node=node,
            state="succeeded",
            log="",
            node_name=self._node.name_of(node),
        )

    def _progress(self, runner: JobRunner) -> schema.JobProgress:
        ledger, now_at = runner.ledger, time.time()
        rates = {} if ledger.is_ended else ledger.node_rates_per_s(now_at)
        return schema.JobProgress(
            id=runner.id,
            state=ledger.state,
            tasks=_counts(ledger.counts),
            nodes={
                node: msgspec.structs.replace(share, rate_per_s=rates.get(NodeId(node), 0.0))
                for node, share in self._shares(runner).items()
            },
            rate_per_s=ledger.rate_per_s(now_at) or 0.0,
            eta_s=ledger.eta_s(now_at),
            blocked=_blocked(runner),
            frames_per_task=frames_per_task(runner.job),
        )

    def _shares(self, runner: JobRunner) -> dict[str, schema.NodeShare]:
        caught = {node: fact.reason for node, fact in runner.ledger.caught.items()}
        left_out = {**runner.holder.left_out, **caught}
        return {
            node: schema.NodeShare(
                succeeded=counts.succeeded,
                failed=counts.failed,
                running=counts.running,
                name=self._node.name_of(node),
                says=runner.notes.get(node, "") if counts.running else "",
                left_out=left_out.get(node, ""),
            )
            for node, counts in runner.ledger.nodes.items()
        }

    def _failures(self, runner: JobRunner) -> list[schema.TaskFailure]:
        failures = runner.ledger.failures()
        tails = runner.log_tails() if failures else {}
        return [
            schema.TaskFailure(
                task=_task_text(failure),
                attempt=failure.attempt,
                node=failure.node,
                reason=failure.reason,
                node_name=self._node.name_of(NodeId(failure.node)),
                log=_log_text(tails, failure),
                values=runner.values_of(TaskKey(failure.step, failure.task)),
            )
            for failure in failures
        ]

    # -- doing --

    async def cancel(self, runner: JobRunner) -> schema.JobRow:
        """Stop everything; the facts that say so are on disk when this returns.

        Raises NotAllowed where the job is another's.
        """
        _see_own(runner, "cancels")
        runner.cancel()
        return self.row(runner)

    async def retry(self, runner: JobRunner) -> schema.JobRow:
        """Queue the failed tasks again. Raises NotAllowed for a cancelled or another's job."""
        _see_own(runner, "tries it again")
        if runner.ledger.is_cancelled:
            raise NotAllowed(
                "the job was cancelled: nothing of it runs again",
                hint="its outputs: `p2prc results JOB --to DIR`; to go on, submit it again",
            )
        runner.retry()
        runner.offers_changed(self._node.offers())
        return self.row(runner)

    async def results(self, runner: JobRunner, to: Path) -> schema.Collected:
        """Write what is finished to another folder: from the store, else from who still has it."""
        blobs, files, size_bytes, missing = self._node.blobs, 0, 0, 0
        owner = f"results/{secrets.token_hex(8)}"
        for task, name in runner.outputs().items():
            folder = runner.folder_for(task, str(to))
            try:
                tree = await runner.obtain_result(task, name, owner)
                await asyncio.to_thread(write_outputs, tree, blobs, folder)
            except (FileUnknown, WireError, PeerError):
                missing += 1
            else:
                files += len(tree.files)
                size_bytes += tree.size_bytes
            finally:
                blobs.unpin(owner)
        return schema.Collected(
            id=runner.id, to=str(to), files=files, bytes=size_bytes, missing=missing
        )


def _created(runner: JobRunner, notices: list[str]) -> schema.JobCreated:
    return schema.JobCreated(
        id=runner.id,
        key=_key(runner.id, runner.job),
        tasks=runner.ledger.counts.total,
        notices=notices,
    )


def _key(job: JobId, description: Job) -> str:
    return job_key(job, description.salt)


def _verification(runner: JobRunner) -> schema.Verification | None:
    share = max(step.verify for step in runner.job.steps)
    if not share:
        return None
    compared, unverified = runner.ledger.checks
    return schema.Verification(
        share=share,
        compared=compared,
        unverified=unverified,
        reason=runner.ledger.unverified_reason,
    )


def _see_own(runner: JobRunner, does: str) -> None:
    if not runner.is_own:
        raise NotAllowed(
            f"only the node that submitted the job {does}",
            hint="with the job's key you can follow it and get its results",
        )


def _task_text(of: Failure | TaskKey) -> str:
    return f"{of.step}/{of.task}" if of.step else str(of.task)


def _has_task(runner: JobRunner, key: TaskKey) -> bool:
    steps = runner.ledger.steps
    return key.step < len(steps) and key.task < steps[key.step].total


def _log_text(tails: Mapping[tuple[TaskKey, int], bytes], failure: Failure) -> str:
    tail = tails.get((TaskKey(failure.step, failure.task), failure.attempt), b"")
    return tail.decode("utf-8", "replace")


def _step_counts(step: StepLedger) -> schema.TaskCounts:
    return schema.TaskCounts(
        total=step.total,
        queued=step.count(TaskState.QUEUED),
        running=step.count(TaskState.RUNNING),
        succeeded=step.count(TaskState.SUCCEEDED),
        failed=step.count(TaskState.FAILED),
    )


def _counts(counts: TaskCounts) -> schema.TaskCounts:
    return schema.TaskCounts(
        total=counts.total,
        queued=counts.queued,
        running=counts.running,
        succeeded=counts.succeeded,
        failed=counts.failed,
    )


def frames_per_task(job: Job) -> float:
    """Return how many frames a task has on average; 0 for a job that is not of frames alone."""
    if len(job.steps) != 1:
        return 0.0
    for parameter in job.steps[0].parameters:
        if isinstance(parameter, IntegerRange) and parameter.name.lower() in _FRAMES:
            frames = sum(span.count for span in parameter.spans)
            tasks = sum(-(-span.count // parameter.chunk) for span in parameter.spans)
            return frames / tasks if tasks else 0.0
    return 0.0


def _blocked(runner: JobRunner) -> str:
    if runner.halted:
        return runner.halted
    if runner.blocked_reason:
        return runner.blocked_reason
    if runner.ledger.counts.running == 0 and runner.notes:
        return next(iter(runner.notes.values()))
    return ""


def _task_key(typed: str) -> TaskKey:
    step, _, task = typed.rpartition("/")
    if not (task.isascii() and task.isdigit() and (not step or step.isdigit())):
        raise JobUnknown(f"`{typed[:40]}` is not a task's number", hint="see `p2prc job show`")
    return TaskKey(int(step or 0), int(task))
