"""How far a job is: a bar on a terminal, a line now and then anywhere else.

Only what is drawn on a terminal needs rich, and it is slow to import.
"""

from __future__ import annotations

import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from p2prc.api.schema import JobProgress
from p2prc.cli.render.job_text import share_name
from p2prc.cli.render.text import duration, plain

LINE_PERIOD_S = 5.0
NODES_SHOWN = 6


class Display(Protocol):
    """Something that shows snapshots of a job."""

    def show(self, progress: JobProgress) -> None: ...


def open_display() -> AbstractContextManager[Display]:
    """Return what suits standard error."""
    if sys.stderr.isatty():
        from p2prc.cli.render.bar import Bar  # noqa: PLC0415 - loads rich

        return Bar()
    return Lines()


class Lines(AbstractContextManager["Lines"]):
    """A line when something begins to wait or fail, and otherwise every few seconds."""

    def __init__(self) -> None:
        self._shown_at = float("-inf")
        self._shown: tuple[str, int] = ("", 0)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None

    def show(self, progress: JobProgress) -> None:
        now = time.monotonic()
        matters = (progress.blocked, progress.tasks.failed)
        if matters == self._shown and now < self._shown_at + LINE_PERIOD_S:
            return
        self._shown, self._shown_at = matters, now
        print(", ".join([share_of(progress), *facts(progress)]), file=sys.stderr, flush=True)


def share_of(progress: JobProgress) -> str:
    """Return `12/24 done`."""
    return f"{progress.tasks.succeeded}/{progress.tasks.total} done"


def facts(progress: JobProgress) -> list[str]:
    """Return what else matters, each a few words."""
    tasks = progress.tasks
    found = [f"{tasks.running} running"]
    if tasks.failed:
        found.append(f"{tasks.failed} failed")
    if progress.rate_per_s:
        found.append(_rate(progress.rate_per_s))
    if progress.eta_s:
        found.append(f"{duration(progress.eta_s)} left")
    if progress.blocked:
        found.append(f"waits: {plain(progress.blocked)}")
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
