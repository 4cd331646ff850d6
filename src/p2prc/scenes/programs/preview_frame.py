"""Make a rendered frame small, for a terminal; runs in a sandbox, with Pillow, nothing of p2prc.

`FRAME OUT WIDTH HEIGHT` writes `OUT/preview.ppm`, at most so many pixels wide and high.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image


def main(frame: str, out: str, width: str, height: str) -> None:
    """Decode the frame and write it small, as bare pixels."""
    with Image.open(frame) as picture:
        small = picture.convert("RGB")
    small.thumbnail((int(width), int(height)))
    target = Path(out)
    target.mkdir(parents=True, exist_ok=True)
    small.save(target / "preview.ppm", "PPM")


if __name__ == "__main__":
    main(*sys.argv[1:])
