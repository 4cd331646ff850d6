"""`jobs`, `job`, `watch`, `logs`, `results`, `cancel`, `retry`: jobs and what they made."""

from __future__ import annotations

import sys
from contextlib import closing
from datetime import datetime

import click

from p2prc.api.schema import RunOutput
from p2prc.cli.failures import note
from p2prc.cli.following import follow
from p2prc.cli.invocation import Command, Invocation, absolute, command, shared_options
from p2prc.cli.render.job_text import job_text, jobs_table, logs_text
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.previews import Watching, open_previews, previews_option
from p2prc.cli.render.text import counted, plain, size
from p2prc.errors import JobUnknown, LeaseUnknown


@command("jobs")
@click.pass_obj
def jobs_command(invocation: Invocation, /) -> None:
    """Show my jobs."""
    jobs = invocation.client.jobs()
    if invocation.as_json:
        write_json(jobs)
    elif jobs:
        write(jobs_table(jobs))
    else:
        note("no jobs; begin one: `p2prc map --over i=1-10 -- CMD {i}`")


@click.group("job", params=shared_options())
def job_command() -> None:
    """Show one job in full."""


@job_command.command("show", cls=Command)
@click.argument("job")
@click.pass_obj
def show_job(invocation: Invocation, /, *, job: str) -> None:
    """Show one job in full: its tasks, who ran them, what failed."""
    found = invocation.client.job(job)
    if invocation.as_json:
        write_json(found)
    else:
        write(job_text(found))


@command("watch")
@click.argument("job")
@previews_option
@click.pass_obj
def watch_command(invocation: Invocation, /, *, job: str, previews: bool | None) -> None:
    """Follow a job to its end.

    Shows what runs, how fast on which node, how long it will take, and what fails, with the last
    lines of its log. Exits with 7 when the job failed or was cancelled.
    """
    companion = None
    if previews or (previews is None and sys.stderr.isatty()):
        row = invocation.client.job(job)
        since_at = datetime.fromisoformat(row.created_at).timestamp()
        shown = open_previews(invocation.client, row.to, since_at=since_at, wanted=previews)
        companion = None if shown is None else Watching(shown)
    follow(invocation.client, job, as_json=invocation.as_json, companion=companion)


@command("logs")
@click.argument("job", metavar="[LEASE|JOB[/TASK]]", required=False)
@click.option("-f", "--follow", "follows", is_flag=True, help="Go on with a container's output.")
@click.option(
    "--lines", type=click.IntRange(1, 10_000), default=200, metavar="N", help="Of the node's log."
)
@click.pass_obj
def logs_command(invocation: Invocation, /, *, job: str | None, follows: bool, lines: int) -> None:
    """Show what a container or job printed, or this node's log.

    LEASE shows what its main process printed, as far as its node keeps it; JOB shows the tasks that
    failed, JOB/TASK any task. Nothing given: the node's own log.
    """
    if job is None:
        _show_node_log(invocation, lines)
        return
    name, _, task = job.partition("/")
    try:
        logs = invocation.client.task_logs(name, task or None)
    except JobUnknown:
        if task:
            raise
        if not _show_container_log(invocation, job, follows=follows):
            raise LeaseUnknown(
                f"no container and no job of mine is `{job[:80]}`",
                hint="see `p2prc ps` and `p2prc jobs`",
            ) from None
        return
    if invocation.as_json:
        write_json(logs)
    elif logs:
        write(logs_text(logs))
    else:
        note(f"no task of this job has failed; for another: `p2prc logs {plain(name)}/TASK`")


def _show_container_log(invocation: Invocation, lease: str, *, follows: bool) -> bool:
    """Print a container's log; False when there is no such container."""
    try:
        with closing(invocation.client.container_log(lease, follows=follows)) as events:
            for event in events:
                if isinstance(event, RunOutput):
                    stream = (sys.stdout if event.channel == 1 else sys.stderr).buffer
                    stream.write(event.content)
                    stream.flush()
    except LeaseUnknown as error:
        if not error.message.startswith("no lease"):
            raise
        return False
    return True


@command("results")
@click.argument("job")
@click.option("--to", required=True, metavar="DIR", help="Where to.")
@click.pass_obj
def results_command(invocation: Invocation, /, *, job: str, to: str) -> None:
    """Bring a job's outputs to a folder: what its tasks have made up to now."""
    collected = invocation.client.results(job, absolute(to))
    if invocation.as_json:
        write_json(collected)
        return
    write(f"{counted(collected.files, 'file')}, {size(collected.bytes)} in {plain(collected.to)}")
    if collected.missing:
        note(f"the outputs of {counted(collected.missing, 'task')} cannot be had at present")


@command("cancel")
@click.argument("job")
@click.pass_obj
def cancel_command(invocation: Invocation, /, *, job: str) -> None:
    """Stop a job everywhere. What it finished stays."""
    row = invocation.client.cancel(job)
    if invocation.as_json:
        write_json(row)
    else:
        note(f"job {row.id[:10]} is {row.state}: {row.tasks.succeeded} of {row.tasks.total} done")


@command("retry")
@click.argument("job")
@click.pass_obj
def retry_command(invocation: Invocation, /, *, job: str) -> None:
    """Queue a job's failed tasks again."""
    row = invocation.client.retry(job)
    if invocation.as_json:
        write_json(row)
    elif row.state == "succeeded":
        note(f"job {row.id[:10]} succeeded: there is nothing to try again")
    else:
        note(f"{counted(row.tasks.queued, 'task')} queued; follow: `p2prc watch {row.id[:10]}`")


def _show_node_log(invocation: Invocation, lines: int) -> None:
    log = invocation.client.node_log(lines)
    if invocation.as_json:
        write_json(log)
    elif log:
        write("\n".join(plain(line) for line in log))
