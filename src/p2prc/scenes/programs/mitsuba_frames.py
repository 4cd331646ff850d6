"""Render frames of a Mitsuba scene; runs in a sandbox, nothing of p2prc.

`frames SCENE OPTIONS A-B FOLDER`. A scene in which `$frame` stands is loaded for each frame with
its number there; any other differs from frame to frame by its noise alone.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any


def frames(scene: str, given: str, chunk: str, folder: str) -> None:
    """Render a chunk of frames."""
    import drjit  # noqa: PLC0415 - takes long
    import mitsuba  # noqa: PLC0415

    options: dict[str, Any] = json.loads(given)
    drjit.set_thread_count(len(os.sched_getaffinity(0)))
    mitsuba.set_variant("scalar_rgb")
    first, _, end = chunk.partition("-")
    last = int(end or first)
    moves = "$frame" in Path(scene).read_text(errors="replace")
    for number in range(int(first), last + 1):
        began = time.monotonic()
        loaded = mitsuba.load_file(scene, **({"frame": str(number)} if moves else {}))
        sensor = loaded.sensors()[0]
        if options.get("width"):
            parameters = mitsuba.traverse(sensor)
            parameters["film.size"] = [options["width"], options["height"]]
            parameters.update()
        width, height = (int(each) for each in sensor.film().size())
        samples = options.get("samples") or 0
        image = mitsuba.render(loaded, seed=number, spp=samples)
        base = os.path.join(folder, f"frame_{number:04d}")  # noqa: PTH118
        mitsuba.util.write_bitmap(base + ".png", image, write_async=False)
        told = {
            "frame": number,
            "seconds": round(time.monotonic() - began, 3),
            "width": width,
            "height": height,
            "samples": samples,
            "device": "CPU",
            "engine": "Mitsuba",
            "version": mitsuba.__version__,
        }
        Path(base + ".json").write_text(json.dumps(told))
        done = 100 * (number - int(first) + 1) / (last - int(first) + 1)
        print(f"openjd_progress: {done:.1f}\nopenjd_status: frame {number}", flush=True)


if __name__ == "__main__":
    frames(*sys.argv[2:])
