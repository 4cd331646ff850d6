"""How far a job is, in a few words: what the bar and the plain lines have in common."""

from __future__ import annotations

from p2prc.api.schema import JobDetail, JobProgress, NodeShare
from p2prc.cli.render.job_text import share_name
from p2prc.cli.render.text import duration, plain, shortened

NODES_SHOWN = 6
NAME_WIDTH = 20
_COLUMNS = 6


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
    if tasks.queued:
        found.append(f"{tasks.queued} waiting")
    if tasks.failed:
        found.append(f"{tasks.failed} failed")
    if progress.blocked:
        # Nobody knows how long that takes.
        return [*found, f"waits: {plain(progress.blocked)}"]
    if progress.rate_per_s:
        found.append(rate(progress.rate_per_s, progress.frames_per_task))
    if progress.eta_s:
        found.append(f"{duration(progress.eta_s)} left")
    left_out = (pair for pair in progress.nodes.items() if pair[1].left_out)
    if (without := next(left_out, None)) is not None:
        found.append(f"{share_name(*without)} left out")
    said = ((node, share) for node, share in progress.nodes.items() if share.says)
    if (first := next(said, None)) is not None:
        found.append(f"{share_name(*first)}: {plain(first[1].says)}")
    return found


def rate(tasks_per_s: float, frames_per_task: float = 0.0) -> str:
    """Return `12.0 frames/min`; of tasks, where a task is not some frames, without a word."""
    if frames_per_task:
        return f"{tasks_per_s * frames_per_task * 60:.1f} frames/min"
    if tasks_per_s >= 1:
        return f"{tasks_per_s:.1f}/s"
    return f"{tasks_per_s * 60:.1f}/min"


def node_lines(progress: JobProgress, width: int) -> list[str]:
    """Return a line for each of the busiest nodes: `alpha  12 done  3.1/min  2 running`.

    No line is wider than `width`; what a node's task says is cut first, then columns from the end.
    """
    ranked = sorted(progress.nodes.items(), key=lambda each: -each[1].succeeded)
    rows = [_node_cells(progress, node, share) for node, share in ranked[:NODES_SHOWN]]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(_COLUMNS)]
    lines = []
    for row in rows:
        cells = [f"{cell:<{wide}}" for cell, wide in zip(row, widths, strict=True) if wide]
        lines.append(shortened("  ".join(cells).rstrip(), width))
    if len(ranked) > NODES_SHOWN:
        lines.append(f"and {len(ranked) - NODES_SHOWN} more")
    return lines


def _node_cells(progress: JobProgress, node: str, share: NodeShare) -> tuple[str, ...]:
    return (
        shortened(share_name(node, share), NAME_WIDTH),
        f"{share.succeeded} done",
        rate(share.rate_per_s, progress.frames_per_task) if share.rate_per_s else "",
        f"{share.running} running" if share.running else "",
        f"{share.failed} failed" if share.failed else "",
        "left out" if share.left_out else plain(share.says),
    )
