"""`render`: an animation, frame by frame; it writes a job template and submits it."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import click
import msgspec

from p2prc.api.schema import JobDetail, TemplateRequest
from p2prc.cli.commands.work_options import (
    again_option,
    place_options,
    priority_option,
    taken_from,
    verify_option,
)
from p2prc.cli.failures import note
from p2prc.cli.following import announce, wait_safe_option
from p2prc.cli.invocation import CommandWithTail, Invocation, absolute, command
from p2prc.cli.render.frames import Gallery, check_frames
from p2prc.cli.render.output import write
from p2prc.cli.render.previews import Previews, open_previews, previews_option
from p2prc.cli.render.progress import Display
from p2prc.cli.render.text import plain
from p2prc.errors import FileUnknown, JobInvalid, P2prcError, SceneInvalid
from p2prc.scenes.blend import HEAD_BYTES, read_version
from p2prc.scenes.gallery import FRAMES_LIMIT
from p2prc.scenes.rendering import Engine, Rendering, blender_requirement, template_of, values_of
from p2prc.templates.ranges import read_range

MEMORY_BYTES = 2 << 30
"""What a frame may need when nothing is said: Blender alone takes half a gigabyte."""
PICTURES_WITHIN = 4.0
"""Levels of 255 by which honest frames may differ: processors and devices round differently."""
_FRAMES = re.compile(r"[0-9:,-]{1,1000}", re.ASCII)
_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)


class _Render(CommandWithTail):
    positionals = 1
    is_tail_optional = True


@command("render", cls=_Render)
@click.argument("scene")
@click.option("--frames", required=True, metavar="RANGE", help="Which, like `1-250` or `1-250:10`.")
@click.option(
    "--engine",
    type=click.Choice(["blender", "bpy", "mitsuba", "command"]),
    default="blender",
    help="What renders: Blender (`bpy` is the same), Mitsuba, or the command after `--`.",
)
@click.option("--to", metavar="DIR", help="Where the frames go; else `frames`.")
@click.option("--chunk", type=click.IntRange(1, 100_000), default=1, help="Frames of one task.")
@click.option("--resolution", metavar="WxH", help="Size of the frames; else the scene's.")
@click.option("--samples", type=click.IntRange(1, 1_000_000), metavar="N", help="Samples a pixel.")
@click.option("--camera", metavar="NAME", help="Another camera of the scene.")
@click.option(
    "--renderer", metavar="NAME", help="Blender's renderer, like CYCLES; else the scene's."
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "gpu"]),
    default="auto",
    help="What Cycles renders on; `auto` takes a GPU that the place has.",
)
@click.option("--blender", metavar="VERSION", help="Another Blender than the one that wrote it.")
@click.option("--folder", metavar="DIR", help="Send this folder: the scene and what it uses.")
@click.option("--template", is_flag=True, help="Print the job template and submit nothing.")
@click.option(
    "--retries", type=click.IntRange(0, 100), metavar="N", help="Try a failed task so often again."
)
@click.option("--on", multiple=True, metavar="NODE,...", help="Only these nodes.")
@verify_option
@again_option
@priority_option
@click.option("--watch", "is_watched", is_flag=True, help="Show how far it is, to the end.")
@previews_option
@wait_safe_option
@place_options
@click.pass_obj
def render_command(
    invocation: Invocation,
    /,
    *,
    argv: list[str],
    is_watched: bool,
    waits_safe: bool,
    template: bool,
    previews: bool | None,
    **options: Any,
) -> None:
    """Render an animation; frames arrive as they are done.

    They come to --to. A `.blend` is rendered by the Blender that wrote it, as a package that nodes
    fetch once. With `--engine command`, `{scene}`, `{frames}` and `{out}` stand in the command
    after `--`.
    """
    to = absolute(options.pop("to") or "frames")
    work = taken_from(options)
    place = work.request([])
    for other in ("argv", "to"):
        del place[other]
    rendering = _rendering(argv, options, to)
    requirements = [*work.requirements, *_requirements(rendering, options["blender"])]
    document = template_of(rendering)
    if template:
        write(json.dumps(document, indent=2))
        return
    fields = {
        **place,
        "requirements": requirements,
        "memory_bytes": work.memory or MEMORY_BYTES,
        "retries": options["retries"],
        "verify": options["verify"],
        "again": options["again"],
        "priority": options["priority"],
        "pictures_within": PICTURES_WITHIN,
        "on": [
            each.strip() for names in options["on"] for each in names.split(",") if each.strip()
        ],
        "name": work.name or f"render {rendering.name}"[:200],
        "template": json.dumps(document, indent=1),
        "template_name": "render.json",
        "folder": os.getcwd(),  # noqa: PTH109 - as a text
        "current": os.getcwd(),  # noqa: PTH109
        "values": values_of(rendering),
        "has_reader": sys.stderr.isatty() and not invocation.as_json,
    }
    try:
        request = msgspec.convert(fields, TemplateRequest)
    except msgspec.ValidationError as error:
        raise JobInvalid(f"the job is not valid: {error}") from error
    created = invocation.client.submit_template(request)
    companion = None
    if rendering.engine != "command":
        # What another program calls its frames, nobody knows.
        shown = None
        if is_watched:
            shown = open_previews(invocation.client, to, since_at=time.time(), wanted=previews)
        companion = _Frames(invocation, rendering, shown)
        companion.gallery.write()
    announce(invocation, created, is_watched=is_watched, companion=companion, waits_safe=waits_safe)


class _Frames:
    """The frames of one rendering, while they arrive."""

    def __init__(
        self, invocation: Invocation, rendering: Rendering, previews: Previews | None
    ) -> None:
        self._invocation = invocation
        self._rendering = rendering
        self._folder = Path(rendering.to)
        self._previews = previews
        self.gallery = Gallery(rendering.name, self._folder, _numbers(rendering.frames))

    def progressed(self, display: Display) -> None:
        self.gallery.progressed()
        if self._previews is not None:
            self._previews.progressed(display)

    def ended(self, job: JobDetail) -> bool:
        self.gallery.write()
        if self._previews is not None:
            self._previews.end()
        if not any(self._folder.glob("*.png")):
            return True
        size = None
        if self._rendering.width and self._rendering.height:
            size = self._rendering.width, self._rendering.height
        try:
            checked = check_frames(self._invocation.client, self._folder, size, note)
        except P2prcError as error:
            note(f"{error.message}; look at them yourself")
            return True
        self.gallery.write(checked)
        for name, problem in list(checked.problems.items())[:10]:
            note(f"{plain(name)}: {plain(problem)}")
        return not checked.problems


def _numbers(frames: str) -> list[int]:
    """Return the frames that the gallery shows."""
    found: list[int] = []
    for span in read_range(frames):
        room = FRAMES_LIMIT - len(found)
        found += list(range(span.start, span.end + 1, span.step)[:room])
    return found


def _rendering(argv: list[str], options: dict[str, Any], to: str) -> Rendering:
    scene = absolute(options["scene"])
    if not Path(scene).is_file():
        raise FileUnknown(f"there is no scene `{options['scene']}`")
    if not _FRAMES.fullmatch(options["frames"]):
        raise JobInvalid(f"not a range of frames: `{options['frames'][:80]}`", hint="like `1-250`")
    read_range(options["frames"])
    width, height = _resolution(options["resolution"])
    engine: Engine = "blender" if options["engine"] == "bpy" else options["engine"]
    if argv and engine != "command":
        raise click.UsageError("a command after `--` needs `--engine command`")
    return Rendering(
        scene=scene,
        frames=options["frames"],
        to=to,
        engine=engine,
        folder=None if options["folder"] is None else absolute(options["folder"]),
        chunk=options["chunk"],
        width=width,
        height=height,
        samples=options["samples"],
        camera=options["camera"],
        renderer=options["renderer"],
        device=options["device"],
        argv=argv,
    )


def _resolution(typed: str | None) -> tuple[int | None, int | None]:
    if typed is None:
        return None, None
    match = _SIZE.fullmatch(typed)
    if match is None or not 1 <= int(match[1]) <= 65536 or not 1 <= int(match[2]) <= 65536:
        raise JobInvalid(f"not a size of frames: `{typed[:40]}`", hint="like `1920x1080`")
    return int(match[1]), int(match[2])


def _requirements(rendering: Rendering, wanted: str | None) -> list[str]:
    if rendering.engine == "mitsuba":
        return ["mitsuba"]
    if rendering.engine == "command":
        return []
    try:
        with open(rendering.scene, "rb") as file:  # noqa: PTH123 - as a text
            made_by = read_version(file.read(HEAD_BYTES))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise FileUnknown(f"cannot read the scene `{rendering.name}`: {reason}") from error
    except SceneInvalid as error:
        raise SceneInvalid(f"`{rendering.name}`: {error.message}") from error
    if wanted is not None and wanted != str(made_by):
        note(f"the scene was made by Blender {made_by}; {wanted} renders it, as you say")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    return [blender_requirement(made_by, wanted, python)]
