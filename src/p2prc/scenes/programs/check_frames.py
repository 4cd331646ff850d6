"""Look at rendered frames that strangers made; runs in a sandbox, with Pillow, nothing of p2prc.

`FOLDER OUT WIDTHxHEIGHT|-` decodes every picture, says what is wrong with which in
`OUT/checked.json`, and makes `OUT/contact.jpg` and, with ffmpeg there, `OUT/video.mp4`.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from PIL import Image

CELL_PIXELS = 160
COLUMNS = 8
CELLS = 400
FRAMES_PER_SECOND = 24


def main(folder: str, out: str, wanted: str) -> None:
    """Check all, then make what shows them together."""
    paths = sorted(Path(folder).glob("*.png"))
    problems: dict[str, str] = {}
    sizes: dict[str, tuple[int, int]] = {}
    cells: list[Image.Image] = []
    step = max(1, -(-len(paths) // CELLS))
    for number, path in enumerate(paths):
        try:
            with Image.open(path) as picture:
                picture.load()
                sizes[path.name] = picture.size
                if all(low == high for low, high in bands_of(picture)):
                    problems[path.name] = "it has one colour alone"
                if number % step == 0:
                    cells.append(cell_of(picture))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            problems[path.name] = f"it cannot be read: {error}"[:200]
    usual = Counter(sizes.values()).most_common(1)
    right = usual[0][0] if usual else (0, 0)
    if wanted != "-":
        width, height = wanted.split("x")
        right = (int(width), int(height))
    for name, size in sizes.items():
        if size != right:
            problems[name] = f"it is {size[0]}x{size[1]}, not {right[0]}x{right[1]}"
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    if cells:
        sheet_of(cells).save(target / "contact.jpg", quality=88)
    good = [path for path in paths if path.name not in problems and sizes.get(path.name) == right]
    has_video = make_video(good, target / "video.mp4")
    told = {"frames": len(paths), "problems": problems, "video": has_video}
    (target / "checked.json").write_text(json.dumps(told))


def bands_of(picture: Image.Image) -> list[tuple[int, int]]:
    """Return the least and the largest value of each colour."""
    found = picture.convert("RGB").getextrema()
    return [(int(low), int(high)) for low, high in found]  # type: ignore[misc]


def cell_of(picture: Image.Image) -> Image.Image:
    """Return it small."""
    small = picture.convert("RGB")
    small.thumbnail((CELL_PIXELS, CELL_PIXELS))
    return small


def sheet_of(cells: list[Image.Image]) -> Image.Image:
    """Return all on one picture."""
    width = max(cell.width for cell in cells) + 4
    height = max(cell.height for cell in cells) + 4
    columns = min(COLUMNS, len(cells))
    rows = -(-len(cells) // columns)
    sheet = Image.new("RGB", (columns * width + 4, rows * height + 4), "#14161a")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (4 + number % columns * width, 4 + number // columns * height))
    return sheet


def make_video(frames: list[Path], out: Path) -> bool:
    """Make a video of the frames in their order, where there is a program for it."""
    program = shutil.which("ffmpeg")
    if program is None or len(frames) < 2:
        return False
    listing = out.with_suffix(".txt")
    lines = [f"file '{frame.resolve()}'\nduration {1 / FRAMES_PER_SECOND:.6f}" for frame in frames]
    listing.write_text("\n".join(lines))
    argv = [program, "-v", "error", "-y", "-f", "concat", "-safe", "0", "-i", str(listing)]
    even = "pad=ceil(iw/2)*2:ceil(ih/2)*2"
    argv += ["-vf", even, "-r", str(FRAMES_PER_SECOND), "-pix_fmt", "yuv420p", str(out)]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, check=False)
    listing.unlink()
    if done.returncode != 0:
        out.unlink(missing_ok=True)
    return done.returncode == 0


if __name__ == "__main__":
    main(*sys.argv[1:])
