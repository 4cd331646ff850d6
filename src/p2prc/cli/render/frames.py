"""What `render` shows beside the job: the gallery while frames arrive, and what they are like."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from p2prc.api.client import ControlClient
from p2prc.api.schema import RunEnded, RunRequest
from p2prc.errors import P2prcError
from p2prc.scenes.gallery import PAGE, Checked, page_of, read_facts

PERIOD_S = 2.0
_CHECKED_LIMIT_BYTES = 16 << 20
_PROGRAM = "check_frames.py"


class Gallery:
    """The page beside the frames; written anew when there are more of them."""

    def __init__(self, name: str, folder: Path, numbers: Sequence[int]) -> None:
        self._name = name
        self._folder = folder
        self._numbers = numbers
        self._written_at = float("-inf")

    def progressed(self) -> None:
        """Frames may have come."""
        if time.monotonic() - self._written_at >= PERIOD_S:
            self.write()
            self._written_at = time.monotonic()

    def write(self, checked: Checked | None = None) -> None:
        """Write the page; a folder that cannot be written to is told by the job itself."""
        page = page_of(self._name, self._numbers, read_facts(self._folder, self._numbers), checked)
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            partial = self._folder / f".{PAGE}"
            partial.write_text(page, "utf-8")
            partial.replace(self._folder / PAGE)


def check_frames(
    client: ControlClient, folder: Path, size: tuple[int, int] | None, tell: Callable[[str], None]
) -> Checked:
    """Have the frames looked at in a sandbox; the contact sheet and the video come back too.

    Raises P2prcError when nothing can look at them.
    """
    with TemporaryDirectory(prefix="p2prc-check-") as place:
        program = Path(place) / _PROGRAM
        program.write_bytes((files("p2prc.scenes.programs") / _PROGRAM).read_bytes())
        size_bytes = sum(path.stat().st_size for path in folder.glob("*.png"))
        own = client.status()
        request = RunRequest(
            target=own.id if own.lending is not None and own.lending.enabled else "any",
            argv=[
                "python3",
                _PROGRAM,
                folder.name,
                "made",
                "-" if size is None else f"{size[0]}x{size[1]}",
            ],
            requirements=["pillow"],
            inputs=[str(program), str(folder)],
            outputs=["made"],
            to=place,
            disk_bytes=max(1 << 30, 3 * size_bytes),
            timeout_s=3600.0,
        )
        ended: RunEnded | None = None
        with closing(client.run(request)) as events:
            for event in events:
                if isinstance(event, RunEnded):
                    ended = event
        if ended is None or ended.exit != 0 or ended.code:
            reason = "" if ended is None else ended.message
            raise P2prcError(f"the frames could not be looked at: {reason or 'the check failed'}")
        return _taken(Path(place) / "made", folder, tell)


def _taken(made: Path, folder: Path, tell: Callable[[str], None]) -> Checked:
    """Move what the check made beside the frames; its words are a stranger's too."""
    try:
        with (made / "checked.json").open("rb") as file:
            checked = msgspec.json.decode(file.read(_CHECKED_LIMIT_BYTES), type=Checked)
        for name in ("contact.jpg", "video.mp4"):
            if (made / name).is_file():
                (folder / name).write_bytes((made / name).read_bytes())
                tell(f"made {folder / name}")
    except (OSError, msgspec.MsgspecError) as error:
        raise P2prcError("the check of the frames did not say what it found") from error
    return checked
