"""`demo`: three nodes of one network on this machine render an animation."""

from __future__ import annotations

import ctypes
import json
import os
import platform
import shlex
import shutil
import sys
import time
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from p2prc.api.schema import JobDetail, JobEnded, JobProgress
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.progress import open_display
from p2prc.cli.render.progress_text import last_progress
from p2prc.cli.render.text import plain, plain_lines
from p2prc.demo.network import NAMES, DemoNode, open_network
from p2prc.errors import NodeNotRunning, PathInvalid, TimedOut, WorkFailed

TASK_MEMORY_MIB = 512
TASK_DISK_MIB = 256
STANDSTILL_TIMEOUT_S = 600.0
RENDERER = "mitsuba==3.9.1"
RENDERER_FOR_BARE_SYSTEMS = "mitsuba==3.7.1"
"""Newer ones need the system's libatomic, which a minimal Debian lacks; this brings its own."""
FACTS = "facts.json"
GALLERY = ("index.html", "contact-sheet.png", "animation.webp")


@dataclass(frozen=True, slots=True)
class Rendering:
    """How the job went: who rendered which frame, and what all of them took."""

    rendered_by: dict[int, str]
    submitted_at: float
    makespan_s: float
    cores: int
    core_s: float
    first_began_s: float

    @property
    def share(self) -> dict[str, int]:
        """Frames per node."""
        counted = Counter(self.rendered_by.values())
        return {name: counted[name] for name in NAMES}

    @property
    def ideal_s(self) -> float:
        """What the frames take at least on this machine's cores."""
        return self.core_s / self.cores


@command("demo")
@click.option(
    "--frames",
    type=click.IntRange(1, 1000),
    default=24,
    show_default=True,
    metavar="N",
    help="How many to render.",
)
@click.option(
    "--to", default="demo-output", show_default=True, metavar="DIR", help="What was made."
)
@click.option(
    "--homes",
    default="demo-home",
    show_default=True,
    metavar="DIR",
    help="Where the three nodes live; kept, so that the next time is quicker.",
)
@click.option("--keep", is_flag=True, help="Leave the three nodes running.")
@click.pass_obj
def demo(invocation: Invocation, /, *, frames: int, to: str, homes: str, keep: bool) -> None:
    """See three nodes render an animation.

    Starts three nodes on this machine, each a daemon with a home of its own, makes them one
    network, renders an animation on all of them and leaves pictures and a page to look at.
    """
    output, home = Path(to), Path(homes).absolute()
    _prepare(output)
    if not home.exists():
        note("the first time takes longer: the nodes fetch the renderer, Mitsuba 3 (65 MB)")
    with open_network(home, _cores_each(), is_kept=keep) as nodes:
        rendering = _render(nodes[0], frames, output)
        _make_gallery(nodes[0], rendering, output)
    if invocation.as_json:
        write_json(_as_json(rendering, output))
    else:
        write(_summary(rendering, output))
        write(_next_steps(Path(homes), is_kept=keep))


def _cores_each() -> int:
    """Return what each node lends: together about as many cores as there are, at least three."""
    return -(-_cores() // len(NAMES))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(output: Path) -> None:
    """Empty what an earlier demo left; touch no other folder."""
    if not output.exists() or not any(output.iterdir()):
        return
    if not (output / FACTS).is_file():
        raise PathInvalid(
            f"`{output}` holds something else",
            hint="choose another folder: `p2prc demo --to DIR`",
        )
    shutil.rmtree(output)


# -- the job ----------------------------------------------------------------------------------


def _render(node: DemoNode, frames: int, output: Path) -> Rendering:
    _cancel_leftovers(node)
    output.mkdir(parents=True, exist_ok=True)
    # From now on the folder is known as the demo's own, also when this run is cut off.
    (output / FACTS).write_text("{}", encoding="utf-8")
    scene = ["python", "scene.py", "--frame", "{frame}", "--of", str(frames)]
    words = ["--over", f"frame=1-{frames}", "--in", _source("scene.py")]
    words += ["--requirement", _renderer(), *_limits(), "--out", "frames/*", "--to", str(output)]
    words += ["--name", "demo", "--", *scene, "--out", "frames/{frame:04d}.png"]
    note(f"rendering {frames} frames: `{_typed(node, 'map', words)}`")
    submitted_at = time.time()
    job = json.loads(node.p2prc("map", *words))["id"]
    ended = _followed(node, job)
    makespan_s = time.time() - submitted_at
    if ended.state != "succeeded":
        raise _failure(ended)
    costs = [_cost(path) for path in sorted((output / "frames").glob("*.json"))]
    return Rendering(
        rendered_by=_rendered_by(node, job, frames),
        submitted_at=submitted_at,
        makespan_s=makespan_s,
        cores=_cores(),
        core_s=sum(cost["core_s"] for cost in costs),
        first_began_s=min(cost["began_at"] for cost in costs) - submitted_at,
    )


def _limits() -> list[str]:
    return ["--memory", f"{TASK_MEMORY_MIB}M", "--disk", f"{TASK_DISK_MIB}M"]


def _followed(node: DemoNode, job: str) -> JobDetail:
    """Show how far the job is; return how it ended. Whatever stops us stops the job."""
    done, moved_at = 0, time.monotonic()
    try:
        with open_display() as display, closing(node.client.job_events(job)) as events:
            for event in events:
                match event:
                    case JobEnded():
                        display.show(last_progress(event.job))
                        return event.job
                    case JobProgress():
                        display.show(event)
                        if event.tasks.succeeded != done:
                            done, moved_at = event.tasks.succeeded, time.monotonic()
                        _give_up_on_standstill(moved_at, event.blocked)
    except BaseException:
        _cancel_leftovers(node)
        raise
    raise NodeNotRunning(f"{node.name} stopped before the end", hint=f"see `{node.home}/log`")


def _give_up_on_standstill(moved_at: float, blocked: str) -> None:
    if time.monotonic() > moved_at + STANDSTILL_TIMEOUT_S:
        reason = f"; {plain(blocked)}" if blocked else ""
        raise TimedOut(f"no frame was done for {STANDSTILL_TIMEOUT_S / 60:.0f} minutes{reason}")


def _cancel_leftovers(node: DemoNode) -> None:
    """Cancel jobs of a demo that was cut off: the node would carry them on."""
    if node.status() is None:
        return
    for row in node.client.jobs():
        if row.state in ("queued", "running"):
            node.client.cancel(row.id)


def _rendered_by(node: DemoNode, job: str, frames: int) -> dict[int, str]:
    """Ask for each frame whose result was taken."""
    logs = (node.client.task_logs(job, str(number)) for number in range(frames))
    return {number: log[-1].node_name for number, log in enumerate(logs, start=1)}


def _cost(path: Path) -> dict[str, float]:
    cost: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return cost


def _failure(ended: JobDetail) -> WorkFailed:
    for failure in ended.failures[:1]:
        note(f"{plain(failure.node_name)}: {plain(failure.reason)}")
        for line in plain_lines(failure.log)[-12:]:
            note(f"  | {line}")
    return WorkFailed(
        f"{ended.tasks.failed} of {ended.tasks.total} frames were not rendered",
        hint="if the renderer could not be fetched, check this machine's way to pypi.org",
    )


def _renderer() -> str:
    try:
        ctypes.CDLL("libatomic.so.1")
    except OSError:
        return RENDERER_FOR_BARE_SYSTEMS if platform.machine() == "x86_64" else RENDERER
    return RENDERER


# -- what it made -----------------------------------------------------------------------------


def _make_gallery(node: DemoNode, rendering: Rendering, output: Path) -> None:
    facts = {
        "nodes": list(NAMES),
        "rendered_by": rendering.rendered_by,
        "submitted_at": rendering.submitted_at,
        "makespan_s": rendering.makespan_s,
        "cores": rendering.cores,
    }
    (output / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
    words = ["any", "--requirement", "pillow", "--in", _source("gallery.py")]
    words += ["--in", str(output / "frames"), "--in", str(output / FACTS), *_limits()]
    for name in GALLERY:
        words += ["--out", name]
    words += ["--to", str(output), "--", "python", "gallery.py", "frames", "--facts", FACTS]
    note(f"making the gallery: `{_typed(node, 'run', words)}`")
    node.p2prc("run", *words)


def _source(name: str) -> str:
    return str(Path(__file__).with_name(name))


def _typed(node: DemoNode, name: str, words: list[str]) -> str:
    """Return the command as a person would type it, without the folders of the package."""
    folder = f"{Path(__file__).parent}{os.sep}"
    shown = (shlex.quote(word.removeprefix(folder)) for word in words)
    return " ".join([f"p2prc --home {_shortest(node.home)}", name, *shown])


def _shortest(path: str | Path) -> str:
    return min(os.path.relpath(path), os.path.abspath(path), key=len)  # noqa: PTH100


def _summary(rendering: Rendering, output: Path) -> str:
    shares = ", ".join(f"{name} {count}" for name, count in rendering.share.items())
    frames = len(rendering.rendered_by)
    ratio = rendering.makespan_s / rendering.ideal_s
    return "\n".join(
        [
            "",
            f"{frames} frames in {rendering.makespan_s:.1f} s: {shares}",
            f"the first began after {rendering.first_began_s:.1f} s",
            f"{rendering.core_s:.1f} core-seconds on {rendering.cores} cores take at least "
            f"{rendering.ideal_s:.1f} s; this took {ratio:.2f} times that",
            "",
            f"look at it:  {output / 'index.html'}",
            f"             {output / 'contact-sheet.png'}, {output / 'animation.webp'}, "
            f"{output / 'frames'}/",
        ]
    )


def _next_steps(homes: Path, *, is_kept: bool) -> str:
    # Beside the interpreter, where a checkout that is not on the PATH has it.
    beside = Path(sys.executable).with_name("p2prc")
    program = "p2prc" if shutil.which("p2prc") else os.path.relpath(beside)
    kept = f"{program} --home {homes / NAMES[0]}"
    if is_kept:
        first = [
            ("the three nodes", f"{kept} nodes"),
            ("a command on one of them", f"{kept} run any -- uname -a"),
            (
                "stop them",
                f"for node in {' '.join(NAMES)}; do {program} --home {homes}/$node down; done",
            ),
        ]
    else:
        first = [("the same with nodes that stay", f"{program} demo --keep")]
    steps = [
        *first,
        ("your own node", f"{program} up --detach"),
        ("a ticket for another machine", f"{program} invite"),
        ("what your network can do", f"{program} --help"),
        ("have the disk back", f"rm -r {homes}"),
    ]
    width = max(len(what) for what, _ in steps)
    return "\n".join(["", "next, type:", *(f"  {what:<{width}}  {typed}" for what, typed in steps)])


def _as_json(rendering: Rendering, output: Path) -> dict[str, Any]:
    return {
        "to": str(output.absolute()),
        "index": str((output / "index.html").absolute()),
        "frames": len(rendering.rendered_by),
        "nodes": rendering.share,
        "makespan_s": round(rendering.makespan_s, 3),
        "core_s": round(rendering.core_s, 3),
        "cores": rendering.cores,
        "ratio": round(rendering.makespan_s / rendering.ideal_s, 3),
    }
