"""The newest frame of a rendering, small, on a terminal that shows pictures.

Strangers made the frames: they are decoded in a sandbox of this node, one at a time.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from p2prc.api.client import ControlClient
from p2prc.api.schema import JobDetail, RunEnded, RunRequest
from p2prc.cli.failures import note
from p2prc.cli.render.pictures import Kind, Picture, drawn, kind_of, pixels_for, read_ppm
from p2prc.cli.render.progress import Display
from p2prc.errors import P2prcError

PERIOD_S = 4.0
_LAST_WAITS_S = (0.0, 0.5, 1.0)
previews_option = click.option(
    "--previews/--no-previews",
    default=None,
    help="Show the newest frame on this terminal; else where it has images of its own.",
)
_PROGRAM = "preview_frame.py"
_PICTURE_LIMIT_BYTES = 1 << 20
_TIMEOUT_S = 120.0


def open_previews(
    client: ControlClient, folder: str | None, *, since_at: float, wanted: bool | None
) -> Previews | None:
    """Return what shows frames of the folder that are newer than an instant, in UTC.

    None where nobody wants or sees them. `wanted` None is: where the terminal has its own images.
    """
    if wanted is False or not sys.stderr.isatty():
        return None
    kind = kind_of(os.environ, is_asked=bool(wanted))
    lending = client.status().lending if kind is not None and folder is not None else None
    if kind is not None and folder is not None and lending is not None and lending.enabled:
        return Previews(client, Path(folder), kind, since_at)
    if kind is None:
        reason = "this terminal shows no pictures"
    elif folder is None:
        reason = "its frames do not come to this machine"
    else:
        reason = "they are made in a sandbox here, and this node lends nothing"
    if wanted:
        note(f"no previews: {reason}")
    return None


class Previews:
    """Looks for a newer frame now and then, and draws it once a sandbox has made it small."""

    def __init__(self, client: ControlClient, folder: Path, kind: Kind, since_at: float) -> None:
        self._since_at = since_at
        self._client = client
        self._folder = folder
        self._kind: Kind = kind
        self._looked_at = float("-inf")
        self._shown = ""
        self._worker: threading.Thread | None = None
        self._made: tuple[str, Picture] | None = None
        self._failures = 0

    def progressed(self, display: Display) -> None:
        """Draw what is ready; begin with the newest frame when it is time."""
        if self._worker is not None:
            if self._worker.is_alive():
                return
            self._worker = None
            if self._made is not None:
                (name, picture), self._made = self._made, None
                display.draw(f"{drawn(picture, self._kind, _columns())}\n{name}")
        now = time.monotonic()
        if now < self._looked_at + PERIOD_S * (1 + self._failures):
            return
        self._looked_at = now
        frame = _newest(self._folder, self._since_at)
        if frame is None or frame.name == self._shown:
            return
        # Not before the program ends: a person who leaves does not wait for a picture.
        self._worker = threading.Thread(target=self._make, args=(frame,), daemon=True)
        self._worker.start()

    def end(self) -> None:
        """Draw the newest frame once the job is over and its places are free again."""
        frame = _newest(self._folder, self._since_at)
        if frame is None or frame.name == self._shown:
            return
        for wait_s in _LAST_WAITS_S:
            time.sleep(wait_s)
            self._make(frame)
            if self._made is not None:
                note(f"{drawn(self._made[1], self._kind, _columns())}\n{frame.name}")
                return

    def _make(self, frame: Path) -> None:
        try:
            self._made = frame.name, _small(self._client, frame, self._kind)
            self._shown, self._failures = frame.name, 0
        except (P2prcError, OSError):
            # No room at present, or a frame that cannot be read, of which `render` tells.
            self._failures = min(self._failures + 1, 10)


class Watching:
    """Previews alone, beside a job that is followed."""

    def __init__(self, previews: Previews) -> None:
        self._previews = previews

    def progressed(self, display: Display) -> None:
        """Look for a newer frame."""
        self._previews.progressed(display)

    def ended(self, job: JobDetail) -> bool:
        """Show the last frame; nothing is wrong that the job does not say."""
        self._previews.end()
        return True


def _columns() -> int:
    return shutil.get_terminal_size().columns


def _newest(folder: Path, since_at: float) -> Path | None:
    newest: tuple[float, str] | None = None
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(".png") and entry.name.isprintable():
                found = entry.stat(follow_symlinks=False).st_mtime, entry.name
                if found[0] >= since_at:
                    newest = found if newest is None else max(newest, found)
    return None if newest is None else folder / newest[1]


def _small(client: ControlClient, frame: Path, kind: Kind) -> Picture:
    """Have a frame made small in a sandbox. Raises P2prcError, OSError."""
    width, height = pixels_for(kind, _columns())
    with TemporaryDirectory(prefix="p2prc-preview-") as place:
        program = Path(place) / _PROGRAM
        program.write_bytes((files("p2prc.scenes.programs") / _PROGRAM).read_bytes())
        request = RunRequest(
            target=client.status().id,
            argv=["python3", _PROGRAM, frame.name, "made", str(width), str(height)],
            requirements=["pillow"],
            inputs=[str(program), str(frame)],
            outputs=["made"],
            to=place,
            cpus=0.1,
            timeout_s=_TIMEOUT_S,
        )
        ended: RunEnded | None = None
        with closing(client.run(request)) as events:
            for event in events:
                if isinstance(event, RunEnded):
                    ended = event
        if ended is None or ended.exit != 0 or ended.code:
            raise P2prcError("the frame could not be made small")
        with (Path(place) / "made" / "preview.ppm").open("rb") as file:
            return read_ppm(file.read(_PICTURE_LIMIT_BYTES))
