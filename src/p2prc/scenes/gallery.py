"""The page that shows an animation while its frames arrive: text alone, for any browser.

Whatever a frame says about itself was written by a stranger: it is read as bounded values, and
escaped. The page runs no script but its own, which asks again for pictures that are not there yet.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

PAGE = "index.html"
FRAMES_LIMIT = 20_000
_FACTS_LIMIT_BYTES = 4096
_Text = Annotated[str, Meta(max_length=100)]
_Number = Annotated[int, Meta(ge=0, le=1 << 40)]


class FrameFacts(msgspec.Struct, frozen=True):
    """What a frame says of itself."""

    seconds: Annotated[float, Meta(ge=0, le=1e9)] = 0.0
    device: _Text = ""
    engine: _Text = ""
    version: _Text = ""
    samples: _Number = 0
    width: _Number = 0
    height: _Number = 0


class Checked(msgspec.Struct, frozen=True):
    """What looking at all frames found: problems by file name."""

    frames: _Number = 0
    problems: Annotated[
        dict[_Text, Annotated[str, Meta(max_length=300)]], Meta(max_length=50_000)
    ] = {}
    video: bool = False


def frame_name(number: int) -> str:
    """Return the name of a frame's picture."""
    return f"frame_{number:04d}.png"


def read_facts(folder: Path, numbers: Sequence[int]) -> dict[int, FrameFacts]:
    """Return what the frames that are there say; what is not understood is left out."""
    found: dict[int, FrameFacts] = {}
    for number in numbers:
        path = folder / f"frame_{number:04d}.json"
        try:
            with path.open("rb") as file:
                found[number] = decode_facts(file.read(_FACTS_LIMIT_BYTES + 1))
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            continue
    return found


def decode_facts(content: bytes) -> FrameFacts:
    """Return a frame's facts. Raises MsgspecError."""
    if len(content) > _FACTS_LIMIT_BYTES:
        raise msgspec.ValidationError("too long")
    return msgspec.json.decode(content, type=FrameFacts)


def page_of(
    name: str,
    numbers: Sequence[int],
    facts: Mapping[int, FrameFacts],
    checked: Checked | None = None,
) -> str:
    """Return the page: every frame, and what is known of it."""
    problems = {} if checked is None else checked.problems
    cells = "\n".join(_cell(number, facts.get(number), problems) for number in numbers)
    seconds = sum(each.seconds for each in facts.values())
    done = f"{len(facts)} of {len(numbers)} frames, {seconds:.0f} s of rendering"
    extras = ""
    if checked is not None:
        extras = '<p><a href="contact.jpg">contact sheet</a>'
        extras += ' · <a href="video.mp4">video</a></p>' if checked.video else "</p>"
    return _PAGE.format(title=escape(name), done=escape(done), extras=extras, cells=cells)


def _cell(number: int, facts: FrameFacts | None, problems: Mapping[str, str]) -> str:
    name = frame_name(number)
    told = "waiting"
    if facts is not None:
        words = [f"{facts.seconds:.1f} s", facts.device]
        words += [f"{facts.samples} samples"] if facts.samples else []
        told = " · ".join(word for word in words if word)
    problem = f'<b title="{escape(problems[name])}">damaged</b> ' if name in problems else ""
    return (
        f'<figure><a href="{name}"><img src="{name}" alt=""></a>'
        f"<figcaption>{number} {problem}<span>{escape(told)}</span></figcaption></figure>"
    )


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src 'self' file:; style-src 'unsafe-inline';
 script-src 'unsafe-inline'">
<style>
body {{ background: #14161a; color: #ddd; font: 14px system-ui, sans-serif; margin: 24px }}
main {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(180px, 1fr)); gap: 12px }}
figure {{ margin: 0 }}
img {{ width: 100%; min-height: 80px; background: #22262d; display: block }}
span, a {{ color: #8ab }}
b {{ color: #e06c75 }}
</style></head><body>
<h1>{title}</h1><p>{done}</p>{extras}
<main>
{cells}
</main>
<script>
for (const image of document.images) {{
  const source = image.getAttribute("src");
  image.onerror = () => setTimeout(() => {{ image.src = source + "?" + Date.now(); }}, 5000);
}}
</script>
</body></html>
"""
