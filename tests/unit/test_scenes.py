"""Claims about scene files and the templates that render them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zstandard
from PIL import Image

from p2prc.errors import JobInvalid, SceneInvalid
from p2prc.scenes.blend import BlenderVersion, read_version
from p2prc.scenes.gallery import Checked, frame_name, page_of, read_facts
from p2prc.scenes.programs import blender_frames
from p2prc.scenes.rendering import (
    Rendering,
    blender_requirement,
    template_of,
    values_of,
)
from p2prc.templates.child import plan_of
from p2prc.templates.plan import Order, Plan

PROGRAMS = Path(blender_frames.__file__).parent
OLD, NEW = b"BLENDER-v405REND" + bytes(500), b"BLENDER17-01v0500REND" + bytes(500)


def plan(rendering: Rendering) -> Plan:
    text = json.dumps(template_of(rendering))
    return plan_of(Order(text, "render.json", "/", "/", values_of(rendering)))


@pytest.mark.parametrize(
    ("content", "version"),
    [
        (OLD, "4.5"),
        (NEW, "5.0"),
        (b"BLENDER_V279", "2.79"),
        (gzip.compress(OLD), "4.5"),
        (zstandard.ZstdCompressor().compress(OLD), "4.5"),
        (zstandard.ZstdCompressor().compress(NEW), "5.0"),
        (zstandard.ZstdCompressor(write_content_size=False).compress(OLD), "4.5"),
    ],
)
def test_the_version_is_read_compressed_or_not(content: bytes, version: str) -> None:
    assert str(read_version(content)) == version


@pytest.mark.parametrize(
    "content",
    [b"", b"BLENDER", b"PNG" * 99, gzip.compress(b"x" * 99), gzip.compress(OLD)[:12] + b"\xff" * 9],
)
def test_what_is_no_scene_is_refused(content: bytes) -> None:
    with pytest.raises(SceneInvalid):
        read_version(content)


def test_a_compressed_bomb_is_not_unpacked() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(1 << 28))
    with pytest.raises(SceneInvalid):
        read_version(bomb)
    with pytest.raises(SceneInvalid):
        read_version(gzip.compress(bytes(1 << 24)))


def test_the_blender_that_wrote_the_scene_renders_it_and_no_other() -> None:
    assert blender_requirement(BlenderVersion(4, 5), None, "3.11") == "bpy>=4.5,<4.6"
    with pytest.raises(
        SceneInvalid, match=r"Blender 3\.6: with Python 3\.11 there is: 4\.2, .*5\.0"
    ):
        blender_requirement(BlenderVersion(3, 6), None, "3.11")
    with pytest.raises(SceneInvalid, match=r"Blender 5\.1 needs Python 3\.13, here is 3\.11"):
        blender_requirement(BlenderVersion(5, 1), None, "3.11")
    assert blender_requirement(BlenderVersion(3, 6), "4.2", "3.11") == "bpy>=4.2,<4.3"
    with pytest.raises(JobInvalid):
        blender_requirement(BlenderVersion(3, 6), "4; import os", "3.11")


def test_a_scene_is_loaded_by_what_is_entered_and_its_frames_are_chunks() -> None:
    rendering = Rendering(
        "/s/a b.blend", "1-10", "/o/frames", chunk=4, samples=8, width=2, height=1
    )
    found = plan(rendering)
    [planned] = found.steps
    [around] = planned.step.command.surroundings
    assert around.enter is not None
    assert around.enter.argv[2:4] == (
        "enter",
        "{{Session.WorkingDirectory}}/inputs/Scene/a b.blend",
    )
    assert json.loads(around.enter.argv[4])["samples"] == 8
    assert planned.step.command.argv[-2:] == (
        "{{Task.Param.Frames}}", "{{Session.WorkingDirectory}}/frames",
    )  # fmt: skip
    assert planned.step.command.outputs == ("frames",)


def test_a_folder_goes_along_and_the_scene_is_found_in_it() -> None:
    rendering = Rendering("/p/scenes/a.xml", "1-3", "/o/f", engine="mitsuba", folder="/p")
    [planned] = plan(rendering).steps
    assert "{{Session.WorkingDirectory}}/inputs/Folder/scenes/a.xml" in planned.step.command.argv
    with pytest.raises(JobInvalid):
        template_of(Rendering("/q/a.xml", "1", "/o/f", engine="mitsuba", folder="/p"))


def test_a_command_of_ones_own_gets_scene_frames_and_folder() -> None:
    argv = ["r", "{scene}", "-f={frames}", "{out}/x", "{other}"]
    rendering = Rendering("/s/a.x", "1-3", "/o/f", engine="command", argv=argv)
    [planned] = plan(rendering).steps
    work = "{{Session.WorkingDirectory}}"
    assert planned.step.command.argv == (
        "r", f"{work}/inputs/Scene/a.x", "-f={{Task.Param.Frames}}", f"{work}/f/x", "{other}",
    )  # fmt: skip
    for bad in ([], ["{{x}}"]):
        with pytest.raises(JobInvalid):
            template_of(Rendering("/s/a.x", "1", "/o/f", engine="command", argv=bad))


def test_the_program_for_blender_says_what_is_missing() -> None:
    class Image:
        source, users, packed_file, library, filepath = "FILE", 1, None, None, "//wood.png"

    class Blender:
        class path:  # noqa: N801
            @staticmethod
            def abspath(path: str, library: Any = None) -> str:
                return path.replace("//", "/nowhere/")

        class data:  # noqa: N801
            images, libraries = (Image(), Image()), ()

    assert blender_frames.missing_files(Blender()) == ["//wood.png"]
    assert sys.modules.get("bpy") is None


def picture(path: Path, size: tuple[int, int] = (8, 4)) -> None:
    made = Image.new("RGB", size, "red")
    made.putpixel((0, 0), (1, 2, 3))
    made.save(path)


def test_frames_are_looked_at_and_what_is_wrong_is_told_by_name(tmp_path: Path) -> None:
    frames, out = tmp_path / "frames", tmp_path / "made"
    frames.mkdir()
    for number in range(1, 5):
        picture(frames / frame_name(number))
    picture(frames / frame_name(5), (4, 4))
    (frames / frame_name(6)).write_bytes((frames / frame_name(1)).read_bytes()[:60])
    (frames / frame_name(7)).write_bytes(b"")
    Image.new("RGB", (8, 4), "black").save(frames / frame_name(8))
    argv = [sys.executable, str(PROGRAMS / "check_frames.py"), str(frames), str(out), "-"]
    subprocess.run(argv, check=True, timeout=60)
    checked = msgspec.json.decode((out / "checked.json").read_bytes(), type=Checked)
    assert sorted(checked.problems) == [frame_name(number) for number in (5, 6, 7, 8)]
    assert "4x4, not 8x4" in checked.problems[frame_name(5)]
    assert (out / "contact.jpg").stat().st_size


def test_the_gallery_escapes_what_strangers_wrote(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    (tmp_path / "frame_0001.json").write_text(json.dumps({"seconds": 1.5, "device": evil}))
    (tmp_path / "frame_0002.json").write_text(json.dumps({"seconds": "long"}))
    (tmp_path / "frame_0003.json").write_text("x" * 5000)
    facts = read_facts(tmp_path, range(1, 5))
    assert list(facts) == [1]
    page = page_of(evil, [1, 2], facts, Checked(problems={frame_name(2): '">' + evil}))
    assert evil not in page
    assert "1.5 s" in page
    assert "damaged" in page


def compared(tmp_path: Path, one: Image.Image, other: Image.Image, within: str = "4") -> int:
    for name, picture in (("one", one), ("other", other)):
        (tmp_path / name).mkdir(exist_ok=True)
        picture.save(tmp_path / name / "frame.png")
    argv = [sys.executable, str(PROGRAMS / "compare_frames.py"), "one", "other", within]
    return subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode


def test_frames_are_alike_up_to_what_processors_round_and_a_changed_corner_is_seen(
    tmp_path: Path,
) -> None:
    grey = Image.new("RGB", (200, 100), (100, 100, 100))
    assert compared(tmp_path, grey, grey.point(lambda level: level + 2)) == 0
    assert compared(tmp_path, grey, grey.point(lambda level: level + 9)) == 10
    corner = grey.copy()
    corner.paste((255, 255, 255), (190, 90, 200, 100))
    assert compared(tmp_path, grey, corner) == 10
    assert compared(tmp_path, grey, grey.resize((100, 50))) == 10


def test_a_frame_that_cannot_be_read_is_like_none(tmp_path: Path) -> None:
    picture = Image.new("RGB", (20, 20), (1, 2, 3))
    assert compared(tmp_path, picture, picture) == 0
    (tmp_path / "other" / "frame.png").write_bytes(b"no picture")
    argv = [sys.executable, str(PROGRAMS / "compare_frames.py"), "one", "other", "4"]
    assert subprocess.run(argv, cwd=tmp_path, capture_output=True, check=False).returncode == 10
