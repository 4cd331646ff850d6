"""Say whether pictures that strangers made show the same; runs in a sandbox, with Pillow alone.

`ONE OTHER WITHIN` compares the files of two folders by name. The status is 0 where each pair has
one size and differs by no more than WITHIN levels of 255 on the mean of any tile, and 10 where
not: a mean over a whole picture would hide a change of a small part of it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageChops

TILE_PIXELS = 32
DIFFERENT = 10
_UNREADABLE = (OSError, ValueError, SyntaxError, MemoryError)


def main(one: str, other: str, within: str) -> int:
    """Compare all; say what differs first."""
    for path in sorted(Path(one).rglob("*")):
        if path.is_dir():
            continue
        twin = Path(other) / path.relative_to(one)
        told = difference_of(path, twin, float(within))
        if told:
            print(f"{path.name}: {told}")
            return DIFFERENT
    return 0


def difference_of(one: Path, other: Path, within: float) -> str:
    """Return how the pictures differ, or nothing."""
    opened = []
    for path in (one, other):
        try:
            with Image.open(path) as picture:
                # Both the colours and how much of them is seen.
                opened.append(picture.convert("RGBA"))
        except (
            OSError,
            ValueError,
            SyntaxError,
            MemoryError,
            Image.DecompressionBombError,
        ) as error:
            return f"cannot be read: {error}"[:200]
    first, second = opened
    if first.size != second.size:
        return f"{first.width}x{first.height} and {second.width}x{second.height}"
    # Band by band: where nothing differs in how much is seen, colours of a whole would be dropped.
    bands = ImageChops.difference(first, second).split()
    worst = max(int(band.reduce(TILE_PIXELS).getextrema()[1]) for band in bands)  # type: ignore[arg-type]
    return f"differs by {worst} levels in a tile" if worst > within else ""


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
