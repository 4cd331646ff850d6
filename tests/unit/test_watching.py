"""What is shown of a job that goes on: rates, failures as they come, small pictures."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from p2prc.api import schema
from p2prc.cli.render.bar import Bar
from p2prc.cli.render.pictures import (
    PIXELS_LIMIT,
    Kind,
    Picture,
    drawn,
    kind_of,
    pixels_for,
    read_ppm,
)
from p2prc.cli.render.progress_text import facts, node_lines
from p2prc.daemon.jobs import frames_per_task
from p2prc.errors import InvalidInput
from p2prc.model.identity import NodeId
from p2prc.model.job import IntegerRange, IntegerSpan, Job, Step
from p2prc.model.workload import Command
from p2prc.scenes.programs import preview_frame

NODES = {
    "a" * 64: schema.NodeShare(succeeded=3, running=1, name="ada", rate_per_s=0.5),
    "b" * 64: schema.NodeShare(succeeded=9, failed=2, name="grace\x1b[2J", rate_per_s=1.5),
}
PROGRESS = schema.JobProgress(
    id="x",
    state="running",
    tasks=schema.TaskCounts(total=20, queued=7, running=1, succeeded=12),
    nodes=NODES,
    rate_per_s=2.0,
    eta_s=4.0,
    frames_per_task=2.0,
)


def test_frames_a_minute_and_what_waits() -> None:
    assert facts(PROGRESS) == ["1 running", "7 waiting", "240.0 frames/min", "4.0 s left"]


@pytest.mark.parametrize("width", [20, 40, 80])
def test_each_node_has_a_line_that_fits(width: int) -> None:
    lines = node_lines(PROGRESS, width)
    assert [line[:3] for line in lines] == ["gra", "ada"]
    assert all(len(line) <= width for line in lines)
    assert "\x1b" not in "".join(lines)
    if width == 80:
        assert "180.0 frames/min" in lines[0]
        assert "2 failed" in lines[0]


@pytest.mark.parametrize("width", [40, 80])
def test_the_bar_fits_and_has_no_colour_where_none_is_wanted(width: int) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, height=20, force_terminal=True, no_color=True)
    with Bar(console) as bar:
        bar.show(PROGRESS)
        bar.tell("task 3, attempt 0 on ada: status 1")
        bar.draw("<picture>")
        bar.show(PROGRESS)
    said = out.getvalue()
    assert "status 1" in said
    assert said.count("<picture>") == 1
    assert not re.search(r"\x1b\[3[0-7]m|\x1b\[38;", said)
    drawn_lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", said).replace("\r", "\n").split("\n")
    assert max(map(len, drawn_lines)) <= width


def _job(name: str, *spans: tuple[int, int], chunk: int = 1) -> Job:
    parameter = IntegerRange(name, tuple(IntegerSpan(*span) for span in spans), chunk)
    step = Step(name="render", command=Command(("true",)), parameters=(parameter,))
    return Job("render", NodeId("a" * 64), "salt", (step,))


def test_tasks_of_a_rendering_are_some_frames() -> None:
    assert frames_per_task(_job("Frames", (1, 10), chunk=4)) == pytest.approx(10 / 3)
    assert frames_per_task(_job("frame", (1, 5), (9, 9))) == 1
    assert frames_per_task(_job("i", (1, 10))) == 0


@pytest.mark.parametrize(
    ("variables", "is_asked", "kind"),
    [
        ({"TERM": "xterm-kitty"}, False, "kitty"),
        ({"TERM": "xterm-256color", "TERM_PROGRAM": "iTerm.app"}, False, "iterm2"),
        ({"TERM": "xterm-kitty", "TMUX": "/tmp/x"}, False, None),
        ({"TERM": "tmux-256color", "COLORTERM": "truecolor"}, False, None),
        ({"TERM": "tmux-256color", "COLORTERM": "truecolor"}, True, "blocks"),
        ({"TERM": "xterm", "COLORTERM": "truecolor", "NO_COLOR": "1"}, True, None),
        ({"TERM": "dumb"}, True, None),
    ],
)
def test_which_terminals_show_pictures(
    variables: Mapping[str, str], is_asked: bool, kind: Kind | None
) -> None:
    assert kind_of(variables, is_asked=is_asked) == kind


def test_a_frame_made_small_is_drawn_by_each_kind(tmp_path: Path) -> None:
    frame = tmp_path / "frame_0001.png"
    Image.new("RGBA", (1920, 1080), (10, 20, 30, 255)).save(frame)
    preview_frame.main(str(frame), str(tmp_path / "made"), *map(str, pixels_for("kitty", 80)))
    picture = read_ppm((tmp_path / "made" / "preview.ppm").read_bytes())
    assert (picture.width, picture.height) == (320, 180)

    kitty = drawn(picture, "kitty", 80)
    pieces = re.findall(r"\x1b_G[^;]*;([^\x1b]*)\x1b\\", kitty)
    assert base64.b64decode("".join(pieces)) == picture.pixels
    assert max(map(len, pieces)) <= 4096

    found = re.fullmatch(r"\x1b\]1337;File=[^:]*:(.*)\x07", drawn(picture, "iterm2", 80))
    assert found is not None
    with Image.open(io.BytesIO(base64.b64decode(found[1]))) as image:
        assert image.convert("RGB").tobytes() == picture.pixels

    small = Picture(3, 2, bytes(range(18)))
    lines = drawn(small, "blocks", 80).splitlines()
    assert [line.count("\u2580") for line in lines] == [3]
    assert lines[0].startswith("\x1b[38;2;0;1;2m\x1b[48;2;9;10;11m")


@given(st.binary(max_size=200) | st.binary(max_size=60).map(lambda tail: b"P6\n4 4\n255\n" + tail))
def test_what_a_sandbox_wrote_is_a_small_picture_or_refused(content: bytes) -> None:
    try:
        picture = read_ppm(content)
    except InvalidInput:
        return
    assert max(picture.width, picture.height) <= PIXELS_LIMIT
    assert len(picture.pixels) == picture.width * picture.height * 3
