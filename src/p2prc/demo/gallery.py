"""What the demo rendered, made fit to look at; runs as a task on any node.

Stand-alone: it needs Pillow, which p2prc itself does not. From `frames/` (pictures, and what each
cost) and `facts.json` (who rendered which) it makes a contact sheet, an animated picture, and a
page that holds everything it shows.
"""

from __future__ import annotations

import argparse
import base64
import io
import json
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

COLOURS = ("#4c9be8", "#e8a33d", "#5fbf77", "#c678dd", "#e06c75", "#56b6c2")
BACKGROUND = "#14161a"
SHEET_COLUMNS = 6
CELL_PIXELS = 192
BAR_PIXELS = 22
GAP_PIXELS = 6
FRAMES_PER_SECOND = 12


@dataclass(frozen=True, slots=True)
class Frame:
    """A rendered frame: who made it, and when and at what cost where that is known."""

    number: int
    picture: Image.Image
    node: str
    began_s: float | None = None
    ended_s: float | None = None
    core_s: float | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """What the demo knows of the whole: times in seconds from the job's submission."""

    nodes: tuple[str, ...]
    rendered_by: dict[int, str]
    submitted_at: float
    makespan_s: float
    cores: int

    def colour(self, node: str) -> str:
        """Return the node's colour, the same everywhere."""
        return COLOURS[self.nodes.index(node) % len(COLOURS)] if node in self.nodes else "#888888"


def read_facts(path: Path) -> Facts:
    """Read what the demo wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return Facts(
        nodes=tuple(found["nodes"]),
        rendered_by={int(number): node for number, node in found["rendered_by"].items()},
        submitted_at=found["submitted_at"],
        makespan_s=found["makespan_s"],
        cores=found["cores"],
    )


def read_frames(folder: Path, facts: Facts) -> list[Frame]:
    """Read the pictures, in order."""
    return [_frame(path, facts) for path in sorted(folder.glob("*.png"))]


def _frame(path: Path, facts: Facts) -> Frame:
    number = int(path.stem)
    node = facts.rendered_by.get(number, "?")
    picture = Image.open(path).convert("RGB")
    try:
        cost = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        times = [float(cost[key]) for key in ("began_at", "ended_at", "core_s")]
    except (OSError, ValueError, KeyError, TypeError):
        return Frame(number, picture, node)
    began_at, ended_at, core_s = times
    return Frame(
        number,
        picture,
        node,
        began_s=began_at - facts.submitted_at,
        ended_s=ended_at - facts.submitted_at,
        core_s=core_s,
    )


# -- pictures ---------------------------------------------------------------------------------


def contact_sheet(frames: list[Frame], facts: Facts) -> Image.Image:
    """Return all frames on one sheet; the bar below each names who rendered it."""
    columns = min(SHEET_COLUMNS, len(frames))
    rows = -(-len(frames) // columns)
    step_x, step_y = CELL_PIXELS + GAP_PIXELS, CELL_PIXELS + BAR_PIXELS + GAP_PIXELS
    sheet = Image.new(
        "RGB", (columns * step_x + GAP_PIXELS, rows * step_y + GAP_PIXELS), BACKGROUND
    )
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(14)
    for place, frame in enumerate(frames):
        x = GAP_PIXELS + place % columns * step_x
        y = GAP_PIXELS + place // columns * step_y
        sheet.paste(frame.picture.resize((CELL_PIXELS, CELL_PIXELS)), (x, y))
        bar = (x, y + CELL_PIXELS, x + CELL_PIXELS - 1, y + CELL_PIXELS + BAR_PIXELS - 1)
        draw.rectangle(bar, fill=facts.colour(frame.node))
        middle = y + CELL_PIXELS + BAR_PIXELS // 2
        draw.text((x + 6, middle), f"{frame.number:04d}", BACKGROUND, font, anchor="lm")
        draw.text((x + CELL_PIXELS - 6, middle), frame.node, BACKGROUND, font, anchor="rm")
    return sheet


def animation(frames: list[Frame]) -> bytes:
    """Return the frames as one picture that moves, for ever."""
    first, *rest = [frame.picture for frame in frames]
    return _webp(
        first,
        save_all=True,
        append_images=rest,
        duration=1000 // FRAMES_PER_SECOND,
        loop=0,
        quality=94,
    )


def _webp(picture: Image.Image, **options: Any) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, "WEBP", **options)
    return stream.getvalue()


# -- the page ---------------------------------------------------------------------------------


def page(frames: list[Frame], facts: Facts, moving: bytes) -> str:
    """Return a page that needs nothing beside it; every name in it is escaped."""
    return PAGE.format(
        hero=_picture_url(moving),
        numbers="".join(_number(value, label) for value, label in _numbers(frames, facts)),
        shares="".join(_share(node, frames, facts) for node in facts.nodes),
        lanes="".join(_lane(node, frames, facts) for node in facts.nodes),
        end=f"{facts.makespan_s:.1f} s",
        frames="".join(_thumbnail(frame, facts) for frame in frames),
    )


def _numbers(frames: list[Frame], facts: Facts) -> list[tuple[str, str]]:
    core_s = sum(frame.core_s or 0.0 for frame in frames)
    began_s = min((frame.began_s for frame in frames if frame.began_s is not None), default=0.0)
    return [
        (str(len(frames)), "frames"),
        (str(len({frame.node for frame in frames})), "nodes rendered"),
        (f"{facts.makespan_s:.1f} s", "from submission to the last frame"),
        (f"{began_s:.1f} s", "until the first frame began"),
        (f"{core_s:.1f} s", "of one core, all frames together"),
        (str(facts.cores), "cores in this machine" if facts.cores > 1 else "core in this machine"),
    ]


def _number(value: str, label: str) -> str:
    return f"<div><b>{escape(value)}</b><span>{escape(label)}</span></div>"


def _share(node: str, frames: list[Frame], facts: Facts) -> str:
    own = [frame for frame in frames if frame.node == node]
    core_s = sum(frame.core_s or 0.0 for frame in own)
    percent = 100 * len(own) / max(1, len(frames))
    mean = f"{core_s / len(own):.2f} s" if own else "-"
    return (
        f"<tr><th scope=row>{_dot(node, facts)}{escape(node)}</th><td>{len(own)}</td>"
        f"<td><div class=bar><i style='width:{percent:.1f}%;background:{facts.colour(node)}'></i>"
        f"</div></td><td>{core_s:.1f} s</td><td>{mean}</td></tr>"
    )


def _lane(node: str, frames: list[Frame], facts: Facts) -> str:
    """Return one node's line of time: a block for each frame it rendered."""
    blocks = []
    for frame in frames:
        if frame.node != node or frame.began_s is None or frame.ended_s is None:
            continue
        left = 100 * frame.began_s / facts.makespan_s
        width = 100 * (frame.ended_s - frame.began_s) / facts.makespan_s
        told = f"frame {frame.number}: {frame.ended_s - frame.began_s:.2f} s"
        blocks.append(
            f"<i title='{escape(told)}' style='left:{left:.2f}%;width:{width:.2f}%;"
            f"background:{facts.colour(node)}'></i>"
        )
    return f"<div class=lane><span>{escape(node)}</span><div>{''.join(blocks)}</div></div>"


def _thumbnail(frame: Frame, facts: Facts) -> str:
    cost = f"{frame.core_s:.2f} core-seconds" if frame.core_s is not None else ""
    return (
        f"<figure style='border-color:{facts.colour(frame.node)}'>"
        f"<img src='{_picture_url(_webp(frame.picture, quality=85))}' "
        f"alt='frame {frame.number}' title='{escape(cost)}'>"
        f"<figcaption><span>{frame.number:04d}</span>"
        f"<span>{escape(frame.node)}</span></figcaption></figure>"
    )


def _dot(node: str, facts: Facts) -> str:
    return f"<i class=dot style='background:{facts.colour(node)}'></i>"


def _picture_url(content: bytes) -> str:
    return "data:image/webp;base64," + base64.b64encode(content).decode("ascii")


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark light">
<title>p2prc: rendered by three nodes</title>
<style>
:root {{ --page: #14161a; --card: #1d2026; --text: #e7e9ee; --quiet: #9aa3b2; --line: #2c313a }}
@media (prefers-color-scheme: light) {{
  :root {{ --page: #f6f7f9; --card: #ffffff; --text: #1c1f25; --quiet: #5d6675; --line: #dfe3ea }}
}}
* {{ box-sizing: border-box }}
body {{ margin: 0; background: var(--page); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif }}
main {{ max-width: 1060px; margin: 0 auto; padding: 32px 20px 56px }}
h1 {{ font-size: 28px; margin: 0 0 4px }} h2 {{ font-size: 18px; margin: 40px 0 12px }}
p {{ margin: 0; color: var(--quiet) }}
.top {{ display: grid; grid-template-columns: minmax(220px, 400px) 1fr; gap: 28px;
  margin-top: 24px; align-items: center }}
.top img {{ width: 100%; border-radius: 12px; display: block }}
.numbers {{ display: grid; grid-template-columns: 1fr 1fr; gap: 12px }}
.numbers div {{ background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  padding: 12px 16px }}
.numbers b {{ display: block; font-size: 24px; line-height: 1.25 }}
.numbers span, figcaption, .lane span, .scale {{ color: var(--quiet); font-size: 13px }}
table {{ width: 100%; border-collapse: collapse; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px }}
th, td {{ text-align: left; padding: 9px 14px; border-top: 1px solid var(--line);
  font-weight: normal; white-space: nowrap }}
thead th {{ border: 0; color: var(--quiet); font-size: 13px }}
td:nth-child(3) {{ width: 50% }}
.bar {{ height: 12px; border-radius: 6px; background: var(--line); overflow: hidden }}
.bar i {{ display: block; height: 100% }}
.dot {{ display: inline-block; width: 11px; height: 11px; border-radius: 50%; margin-right: 9px }}
.lane {{ display: grid; grid-template-columns: 84px 1fr; align-items: center; margin: 5px 0 }}
.lane span {{ overflow: hidden; text-overflow: ellipsis }}
.lane div {{ position: relative; height: 22px; background: var(--card); border-radius: 5px;
  overflow: hidden }}
.lane i {{ position: absolute; top: 0; bottom: 0; border-radius: 4px;
  box-shadow: inset -1px 0 var(--page) }}
.scale {{ display: flex; justify-content: space-between; margin-left: 84px }}
.frames {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 12px }}
figure {{ margin: 0; background: var(--card); border-radius: 8px; overflow: hidden;
  border-bottom: 4px solid }}
figure img {{ width: 100%; display: block }}
figcaption {{ display: flex; justify-content: space-between; padding: 4px 9px }}
@media (max-width: 700px) {{
  .top {{ grid-template-columns: 1fr }}
  th, td {{ padding: 9px 8px }} th:nth-child(3), td:nth-child(3) {{ display: none }}
}}
</style></head><body><main>
<h1>An animation, rendered by a network of nodes</h1>
<p>Every frame was one task of one job. This page was made by a task, too.</p>
<div class="top"><img src="{hero}" alt="the animation"><div class="numbers">{numbers}</div></div>
<h2>Who rendered what</h2>
<table><thead><tr><th>node</th><th>frames</th><th></th><th>core time</th><th>per frame</th></tr>
</thead><tbody>{shares}</tbody></table>
<h2>When</h2>
{lanes}<div class="scale"><span>submitted</span><span>{end}</span></div>
<h2>Every frame</h2>
<div class="frames">{frames}</div>
</main></body></html>
"""


def main() -> None:
    """Read the folders from the command line and make everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("frames", type=Path)
    parser.add_argument("--facts", type=Path, required=True)
    parser.add_argument("--to", type=Path, default=Path())
    arguments = parser.parse_args()
    facts = read_facts(arguments.facts)
    frames = read_frames(arguments.frames, facts)
    moving = animation(frames)
    arguments.to.mkdir(parents=True, exist_ok=True)
    contact_sheet(frames, facts).save(arguments.to / "contact-sheet.png", optimize=True)
    (arguments.to / "animation.webp").write_bytes(moving)
    (arguments.to / "index.html").write_text(page(frames, facts, moving), encoding="utf-8")


if __name__ == "__main__":
    main()
