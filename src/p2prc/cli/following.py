"""Follow a job to its end, as `watch`, `map` and `submit` do."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Protocol

import click

from p2prc.api.client import ControlClient
from p2prc.api.schema import JobCreated, JobDetail, JobEnded, JobProgress
from p2prc.cli.failures import INTERRUPTED_STATUS, note
from p2prc.cli.invocation import Invocation
from p2prc.cli.render.job_text import failure_text, summary
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.progress import Display, open_display
from p2prc.cli.render.progress_text import last_progress
from p2prc.cli.render.text import counted
from p2prc.errors import NodeNotRunning, WorkFailed

SAFE_POLL_S = 0.2
FAILURES_TOLD = 20
LOG_LINES_TOLD = 3

wait_safe_option = click.option(
    "--wait-safe",
    "waits_safe",
    is_flag=True,
    help="Return once the job would survive this node.",
)


class Companion(Protocol):
    """Something that goes along with a job that is followed."""

    def progressed(self, display: Display) -> None:
        """Something happened to the job."""
        ...

    def ended(self, job: JobDetail) -> bool:
        """The job is over; say whether all is well with what it made."""
        ...


def announce(
    invocation: Invocation,
    created: JobCreated,
    *,
    is_watched: bool,
    companion: Companion | None = None,
    waits_safe: bool = False,
) -> None:
    """Say that a job was begun, once it is safe where that is wanted, or follow it to its end."""
    for notice in created.notices:
        note(notice)
    if waits_safe:
        _wait_safe(invocation, created)
    if is_watched:
        if not invocation.as_json:
            note(f"job {created.id}: {counted(created.tasks, 'task')}")
        follow(invocation.client, created.id, as_json=invocation.as_json, companion=companion)
    elif invocation.as_json:
        write_json(created)
    else:
        write(f"job  {created.id}\nkey  {created.key}")
        note(f"follow it: `p2prc watch {created.id[:10]}`")


def _wait_safe(invocation: Invocation, created: JobCreated) -> None:
    """Return once the job survives this node, or has ended; say why it does not yet."""
    told = ""
    while True:
        job = invocation.client.job(created.id)
        if job.is_safe or job.finished_at is not None:
            return
        if job.safety and job.safety != told:
            told = job.safety
            note(f"not safe yet: {told}")
        time.sleep(SAFE_POLL_S)


def follow(
    client: ControlClient, job: str, *, as_json: bool, companion: Companion | None = None
) -> None:
    """Show how far a job is, then how it ended; Ctrl-C stops the showing only.

    Exits with the status of failed work unless the job succeeded.
    """
    try:
        ended = _shown_to_end(client, job, companion)
    except KeyboardInterrupt:
        note("the job goes on")
        note(f"follow it: `p2prc watch {job}`; stop it: `p2prc cancel {job}`")
        raise click.exceptions.Exit(INTERRUPTED_STATUS) from None
    is_well = companion is None or companion.ended(ended)
    if as_json:
        write_json(ended)
    else:
        write(summary(ended))
    if ended.state != "succeeded" or not is_well:
        raise click.exceptions.Exit(WorkFailed.exit_status)


def _shown_to_end(client: ControlClient, job: str, companion: Companion | None) -> JobDetail:
    failures = _Failures(client, job)
    with open_display() as display, closing(client.job_events(job)) as events:
        for event in events:
            match event:
                case JobProgress():
                    failures.progressed(event, display)
                    display.show(event)
                    if companion is not None:
                        companion.progressed(display)
                case JobEnded():
                    display.show(last_progress(event.job))
                    return event.job
    raise NodeNotRunning("the node stopped before the end of the job")


class _Failures:
    """Tells of attempts that fail while the job goes on, each once."""

    def __init__(self, client: ControlClient, job: str) -> None:
        self._client = client
        self._job = job
        self._count = 0
        self._told: set[tuple[str, int]] = set()

    def progressed(self, progress: JobProgress, display: Display) -> None:
        """Ask what failed when there is more of it than before."""
        count = sum(share.failed for share in progress.nodes.values())
        if count <= self._count or len(self._told) >= FAILURES_TOLD:
            return
        self._count = count
        for failure in self._client.job(self._job).failures:
            key = failure.task, failure.attempt
            if key in self._told:
                continue
            if len(self._told) >= FAILURES_TOLD:
                display.tell("more fail; all of them: `p2prc job show JOB`")
                return
            self._told.add(key)
            display.tell(failure_text(failure, LOG_LINES_TOLD))
