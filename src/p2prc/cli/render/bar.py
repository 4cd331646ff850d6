"""The progress bar on a terminal; the only importer of rich."""

from __future__ import annotations

from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from p2prc.api.schema import JobProgress
from p2prc.cli.render.progress_text import facts, node_lines, share_of


class Bar(AbstractContextManager["Bar"]):
    """A bar with the figures below it, redrawn in place on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self._live = Live(
            console=console or Console(stderr=True), auto_refresh=False, transient=False
        )

    def __enter__(self) -> Bar:
        self._live.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._live.__exit__(kind, error, trace)

    def show(self, progress: JobProgress) -> None:
        tasks = progress.tasks
        top = Table.grid(padding=(0, 1), expand=True)
        top.add_column(ratio=1)
        top.add_column(no_wrap=True)
        bar = ProgressBar(total=max(1, tasks.total), completed=tasks.succeeded + tasks.failed)
        top.add_row(bar, share_of(progress))
        lines = [Text(", ".join(facts(progress)), overflow="fold")]
        # A line that wraps would be counted wrong when it is drawn anew.
        for line in node_lines(progress, self._live.console.width):
            lines.append(Text(line, overflow="ellipsis", no_wrap=True))
        self._live.update(Group(top, *lines), refresh=True)

    def tell(self, lines: str) -> None:
        """Print above the bar; they stay."""
        self._live.console.print(Text(lines), soft_wrap=True)

    def draw(self, picture: str) -> None:
        """Write what a terminal turns into a picture above the bar; it stays."""
        self._live.update(Text(""), refresh=True)
        self._live.stop()
        self._live.console.file.write(picture + "\n")
        self._live.console.file.flush()
        self._live.start()
