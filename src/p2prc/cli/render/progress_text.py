"""How far a job is, in a few words: what the bar and the plain lines have in common."""

from __future__ import annotations

from p2prc.api.schema import JobDetail, JobProgress
from p2prc.cli.render.job_text import share_name
from p2prc.cli.render.text import duration, plain

NODES_SHOWN = 6


def last_progress(job: JobDetail) -> JobProgress:
    """Return the end of a job as a snapshot: the last thing drawn is not one task short."""
    return JobProgress(id=job.id, state=job.state, tasks=job.tasks, nodes=job.nodes)


def share_of(progress: JobProgress) -> str:
    """Return `12/24 done`."""
    return f"{progress.tasks.succeeded}/{progress.tasks.total} done"


def facts(progress: JobProgress) -> list[str]:
    """Return what else matters, each a few words."""
    tasks = progress.tasks
    found = [f"{tasks.running} running"]
    if tasks.failed:
        found.append(f"{tasks.failed} failed")
    if progress.blocked:
        # Nobody knows how long that takes.
        return [*found, f"waits: {plain(progress.blocked)}"]
    if progress.rate_per_s:
        found.append(_rate(progress.rate_per_s))
    if progress.eta_s:
        found.append(f"{duration(progress.eta_s)} left")
    left_out = (pair for pair in progress.nodes.items() if pair[1].left_out)
    if (without := next(left_out, None)) is not None:
        found.append(f"{share_name(*without)} left out")
    said = ((node, share) for node, share in progress.nodes.items() if share.says)
    if (first := next(said, None)) is not None:
        found.append(f"{share_name(*first)}: {plain(first[1].says)}")
    return found


def _rate(rate_per_s: float) -> str:
    if rate_per_s >= 1:
        return f"{rate_per_s:.1f}/s"
    return f"{rate_per_s * 60:.1f}/min"


def shares(progress: JobProgress) -> str:
    """Return who did how much, the busiest first: `alpha 12 · beta 9`."""
    ranked = sorted(progress.nodes.items(), key=lambda each: -each[1].succeeded)
    shown = [f"{share_name(node, share)} {share.succeeded}" for node, share in ranked]
    more = len(shown) - NODES_SHOWN
    return " · ".join(shown[:NODES_SHOWN] + ([f"{more} more"] if more > 0 else []))
