"""How far a job is: a bar on a terminal, a line now and then anywhere else.

Only what is drawn on a terminal needs rich, and it is slow to import.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Protocol

from p2prc.api.schema import JobProgress
from p2prc.cli.render.progress_text import facts, share_of

LINE_PERIOD_S = 5.0


class Display(Protocol):
    """Something that shows snapshots of a job."""

    def show(self, progress: JobProgress) -> None: ...

    def tell(self, lines: str) -> None: ...

    def draw(self, picture: str) -> None: ...


def open_display() -> AbstractContextManager[Display]:
    """Return what suits standard error."""
    if sys.stderr.isatty() and os.environ.get("TERM", "") not in ("", "dumb", "unknown"):
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

    def tell(self, lines: str) -> None:
        """Print at once."""
        print(lines, file=sys.stderr, flush=True)

    def draw(self, picture: str) -> None:
        """Nothing: this is no terminal that shows pictures."""
