"""One frame of the demo's animation, rendered with Mitsuba 3; runs as a task on any node.

Stand-alone on purpose: nothing of p2prc is imported, so it is what a user's own script looks
like. The same frame number gives the same picture on every machine. Beside the picture it
leaves a small JSON file that says when it was made and what it cost.
"""

from __future__ import annotations

import argparse
import colorsys
import json
import math
import os
import time
from pathlib import Path
from typing import Any

BEGAN_AT = time.time()

import drjit  # noqa: E402 - loading the renderer is part of the frame's time
import mitsuba  # noqa: E402

SIZE_PIXELS = 256
SAMPLES = 9
MOONS = 5
SMOOTHING_STEPS = (1, 2, 4, 7, 3, 1)


def colour(turn: float, *, strength: float, value: float) -> dict[str, Any]:
    """Return the colour at `turn` (0 to 1) of the colour wheel, as Mitsuba writes it."""
    return {"type": "rgb", "value": list(colorsys.hsv_to_rgb(turn % 1, strength, value))}


def animated_scene(turn: float) -> dict[str, Any]:
    """Return the Cornell box at one moment of the loop: `turn` runs from 0 to 1."""
    scene: dict[str, Any] = mitsuba.cornell_box()
    scene["integrator"]["max_depth"] = 4
    scene["sensor"]["fov"] = 38.2
    scene["sensor"]["film"].update(width=SIZE_PIXELS, height=SIZE_PIXELS)
    scene["sensor"]["sampler"] = {"type": "multijitter", "sample_count": SAMPLES}
    scene["red"]["reflectance"] = colour(turn, strength=0.8, value=0.75)
    scene["green"]["reflectance"] = colour(turn + 0.45, strength=0.8, value=0.65)
    scene["white"]["reflectance"]["value"] = [0.8, 0.8, 0.8]
    scene["gold"] = {"type": "roughconductor", "material": "Au", "alpha": 0.12}
    del scene["small-box"]
    return scene | lights() | pedestal(turn) | moons(turn)


def lights() -> dict[str, Any]:
    """Two large lights: soft shadows, and little noise from few samples."""
    at = mitsuba.ScalarTransform4f
    above = at().translate([0, 0.99, 0]).rotate([1, 0, 0], 90).scale([0.7, 0.7, 1])
    behind_camera = at().translate([0, 0.6, 5]).rotate([1, 0, 0], 180).scale([2.5, 1.5, 1])
    return {
        "light": area_light(above, radiance=[3.3, 3.05, 2.7]),
        "fill": area_light(behind_camera, radiance=[0.55, 0.65, 0.8]),
    }


def area_light(place: Any, *, radiance: list[float]) -> dict[str, Any]:
    """A rectangle that shines."""
    emitter = {"type": "area", "radiance": {"type": "rgb", "value": radiance}}
    return {"type": "rectangle", "to_world": place, "emitter": emitter}


def pedestal(turn: float) -> dict[str, Any]:
    """A block that turns once, and a golden ball that floats above it."""
    at = mitsuba.ScalarTransform4f
    height = -0.18 + 0.07 * math.sin(2 * math.pi * turn)
    return {
        "large-box": {
            "type": "cube",
            "to_world": at()
            .translate([0, -0.75, -0.1])
            .rotate([0, 1, 0], 20 + 90 * turn)
            .scale([0.28, 0.25, 0.28]),
            "bsdf": {"type": "ref", "id": "white"},
        },
        "sun": {
            "type": "sphere",
            "to_world": at().translate([0, height, -0.1]).scale(0.27),
            "bsdf": {"type": "ref", "id": "gold"},
        },
    }


def moons(turn: float) -> dict[str, Any]:
    """Lacquered balls in all colours that circle the golden one, rising and falling."""
    at = mitsuba.ScalarTransform4f
    shapes: dict[str, Any] = {}
    for number in range(MOONS):
        angle = 2 * math.pi * (turn + number / MOONS)
        place = [0.68 * math.cos(angle), -0.3 + 0.3 * math.sin(2 * angle), 0.6 * math.sin(angle)]
        shapes[f"moon-{number}"] = {
            "type": "sphere",
            "to_world": at().translate(place).scale(0.13),
            "bsdf": {
                "type": "plastic",
                "diffuse_reflectance": colour(number / MOONS, strength=0.85, value=0.8),
            },
        }
    return shapes


def smooth(colours: Any, surfaces: Any) -> Any:
    """Average out the noise among neighbours that show the same surface in similar light.

    `surfaces` says what each pixel shows (its own colour and its direction). It is nearly free
    of noise, so it tells where an edge must stay sharp.
    """
    for steps in SMOOTHING_STEPS:
        total, weights = colours, 1.0
        for move in (rows_down, columns_right):
            for distance in (steps, -steps):
                near = move(colours, distance)
                unlike = 60.0 * difference(surfaces, move(surfaces, distance))
                weight = 1.0 / (1.0 + unlike + 8.0 * difference(colours, near))
                total, weights = total + near * weight, weights + weight
        colours = total / weights
    return colours


def difference(image: Any, other: Any) -> Any:
    """Return per pixel how far two images are apart, as one channel."""
    return drjit.sum(drjit.square(image - other), axis=2)[:, :, None]


def rows_down(image: Any, distance: int) -> Any:
    """Return the image moved by some rows; its border repeats."""
    return image[moved(distance), :, :]


def columns_right(image: Any, distance: int) -> Any:
    """Return the image moved by some columns; its border repeats."""
    return image[:, moved(distance), :]


def moved(distance: int) -> Any:
    """Return where each row or column comes from."""
    sources = (min(max(at - distance, 0), SIZE_PIXELS - 1) for at in range(SIZE_PIXELS))
    return drjit.scalar.ArrayXu(list(sources))


def render(frame: int, *, of: int, out: Path) -> None:
    """Render frame `frame` (1 to `of`) into a PNG, on the cores this process may use."""
    drjit.set_thread_count(len(os.sched_getaffinity(0)))
    mitsuba.set_variant("scalar_rgb")
    scene = mitsuba.load_dict(animated_scene((frame - 1) / of))
    looks = mitsuba.load_dict({"type": "aov", "aovs": "colour:albedo,direction:sh_normal"})
    colours = mitsuba.render(scene, seed=frame)
    seen = mitsuba.render(scene, integrator=looks, spp=4)
    image = smooth(colours, seen[:, :, 0:3] + 0.7 * seen[:, :, 3:6])
    out.parent.mkdir(parents=True, exist_ok=True)
    mitsuba.util.write_bitmap(str(out), image, write_async=False)


def write_cost(frame: int, *, out: Path) -> None:
    """Say when the frame was made and how many seconds of a core it took."""
    cost = {
        "frame": frame,
        "began_at": BEGAN_AT,
        "ended_at": time.time(),
        "core_s": time.process_time(),
    }
    out.write_text(json.dumps(cost), encoding="utf-8")


def main() -> None:
    """Read the frame's number from the command line and render it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frame", type=int, required=True)
    parser.add_argument("--of", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    render(arguments.frame, of=arguments.of, out=arguments.out)
    write_cost(arguments.frame, out=arguments.out.with_suffix(".json"))


if __name__ == "__main__":
    main()
