"""Jobs as text: lists, one in full, how one ended."""

from __future__ import annotations

from p2prc.api.schema import (
    JobDetail,
    JobRow,
    NodeShare,
    TaskCounts,
    TaskFailure,
    TaskLog,
    Verification,
)
from p2prc.cli.render.text import (
    NOTHING,
    counted,
    duration,
    pairs,
    plain,
    plain_lines,
    shortened,
    since,
    size,
    table,
)

FAILURES_SHOWN = 5
LOG_LINES_SHOWN = 10
NAME_WIDTH = 28


def jobs_table(jobs: list[JobRow]) -> str:
    """Return a line for each job."""
    headings = ("JOB", "NAME", "STATE", "DONE", "FAILED", "LEFT", "AGE")
    return table(headings, [_job_cells(job) for job in jobs])


def _job_cells(job: JobRow) -> tuple[str, ...]:
    return (
        job.id[:10],
        shortened(job.name, NAME_WIDTH),
        job.state,
        f"{job.tasks.succeeded}/{job.tasks.total}",
        str(job.tasks.failed),
        NOTHING if job.eta_s is None else duration(job.eta_s),
        since(job.created_at),
    )


def job_text(job: JobDetail) -> str:
    """Return everything about one job."""
    entries = [
        ("job", job.id),
        ("name", job.name),
        ("state", job.state),
        ("tasks", _counts(job.tasks)),
        ("created", job.created_at),
        ("finished", job.finished_at or NOTHING),
        ("time left", NOTHING if job.eta_s is None else duration(job.eta_s)),
        ("outputs", size(job.outputs_bytes) + (f" in {job.to}" if job.to else "")),
    ]
    if job.is_safe:
        entries.append(("safe", "yes: it would survive this node"))
    elif job.safety and job.finished_at is None:
        entries.append(("safe", f"no: {job.safety}"))
    if job.verification is not None:
        entries.append(("verified", verification_text(job.verification)))
    if job.priority:
        entries.append(("priority", str(job.priority)))
    if job.blocked:
        entries.append(("waits for", job.blocked))
    parts = [pairs(entries), _steps(job), shares_table(job), failures_text(job.id, job.failures)]
    return "\n\n".join(part for part in parts if part)


def _counts(tasks: TaskCounts) -> str:
    return (
        f"{tasks.total} in all: {tasks.succeeded} done, {tasks.running} running, "
        f"{tasks.queued} queued, {tasks.failed} failed"
    )


def _steps(job: JobDetail) -> str:
    if len(job.steps) < 2:
        return ""
    return pairs((f"step {plain(step.name)}", _counts(step.tasks)) for step in job.steps)


def verification_text(of: Verification) -> str:
    """Return how many results were compared, and why others were not."""
    told = f"{counted(of.compared, 'task')} compared with another node's result"
    if of.unverified:
        told += f"; {of.unverified} could not be: {plain(of.reason)}"
    return told


def shares_table(job: JobDetail) -> str:
    """Return who did how much."""
    if not job.nodes:
        return ""
    rows = [
        (share_name(node, share), str(share.succeeded), str(share.failed), str(share.running))
        for node, share in job.nodes.items()
    ]
    said = [_said(share) for share in job.nodes.values()]
    if not any(said):
        return table(("NODE", "DONE", "FAILED", "RUNNING"), rows)
    told = [(*row, says) for row, says in zip(rows, said, strict=True)]
    return table(("NODE", "DONE", "FAILED", "RUNNING", "SAYS"), told)


def _said(share: NodeShare) -> str:
    return f"left out: {share.left_out}" if share.left_out else share.says


def share_name(node: str, share: NodeShare) -> str:
    """Return the node's name, or the beginning of its id."""
    return plain(share.name) or node[:10]


def summary(job: JobDetail) -> str:
    """Return how a job ended: what came of it, who did it, what failed."""
    done = f"{job.state}: {job.tasks.succeeded} of {counted(job.tasks.total, 'task')} done"
    if job.tasks.failed:
        done += f", {job.tasks.failed} failed"
    if job.outputs_bytes:
        done += f"; {size(job.outputs_bytes)}" + (f" in {plain(job.to)}" if job.to else "")
    if job.verification is not None:
        done += f"\nverified: {verification_text(job.verification)}"
    parts = [shares_table(job), failures_text(job.id, job.failures), done]
    return "\n\n".join(part for part in parts if part)


def failures_text(job: str, failures: list[TaskFailure]) -> str:
    """Return the first failures with the ends of their logs."""
    blocks = [failure_text(failure) for failure in failures[:FAILURES_SHOWN]]
    if len(failures) > FAILURES_SHOWN:
        more = len(failures) - FAILURES_SHOWN
        blocks.append(f"and {more} more: `p2prc job show {job[:10]} --json`")
    return "\n".join(blocks)


def failure_text(failure: TaskFailure, lines: int = LOG_LINES_SHOWN) -> str:
    """Return which attempt failed where and why, with the last lines of its log."""
    where = plain(failure.node_name) or failure.node[:10]
    values = ", ".join(f"{plain(name)}={plain(value)}" for name, value in failure.values.items())
    named = f"task {plain(failure.task)}" + (f" ({values})" if values else "")
    head = f"{named}, attempt {failure.attempt} on {where}: "
    return "\n".join([head + plain(failure.reason), *_log_lines(failure.log, lines)])


def logs_text(logs: list[TaskLog]) -> str:
    """Return how tasks' output ended."""
    return "\n".join(_task_log(log) for log in logs)


def _task_log(log: TaskLog) -> str:
    where = plain(log.node_name) or log.node[:10]
    reason = f": {plain(log.reason)}" if log.reason else ""
    head = f"task {plain(log.task)}, attempt {log.attempt} on {where}, {plain(log.state)}{reason}"
    return "\n".join([head, *_log_lines(log.log, None)])


def _log_lines(log: str, limit: int | None) -> list[str]:
    lines = plain_lines(log)
    return [f"  | {line}" for line in (lines if limit is None else lines[-limit:])]
