"""A scene of Blender's own, made and rendered by the real program from its wheel."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.system.conftest import MakeNodes

VERSION = "4.5.15"
WANTED = "P2PRC_TEST_BLENDER"
SCENE = """
import bpy, os
bpy.ops.wm.read_homefile(use_factory_startup=True)
scene = bpy.context.scene
scene.render.engine = 'CYCLES'
scene.cycles.samples = 4
scene.render.resolution_x, scene.render.resolution_y = 64, 48
# Where the cube is, a script of the scene says: without it all frames are the same.
driver = bpy.data.objects['Cube'].driver_add('location', 0).driver
driver.expression = 'wander(frame)'
script = bpy.data.texts.new('wander.py')
script.use_module = True
script.write("import bpy\\nbpy.app.driver_namespace['wander'] = lambda frame: 0.3 * frame\\n")
bpy.ops.wm.save_as_mainfile(filepath='scene.blend')
os._exit(0)
"""


@pytest.mark.skipif(not os.environ.get(WANTED), reason=f"fetches Blender's 400 MB: {WANTED}=1")
@pytest.mark.timeout(900)
def test_a_scene_with_a_script_is_rendered_frame_by_frame(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    [ada] = make_nodes(1, "--cpus", "2")
    (tmp_path / "make.py").write_text(SCENE)
    ada.p2prc(
        "run", "any", "--requirement", f"bpy=={VERSION}", "--in", str(tmp_path / "make.py"),
        "--out", "scene.blend", "--to", str(tmp_path), "--memory", "2G", "--disk", "4G",
        "--", "python", "make.py", timeout_s=800,
    )  # fmt: skip
    film = tmp_path / "film"
    ada.p2prc(
        "render", str(tmp_path / "scene.blend"), "--frames", "1-3", "--to", str(film), "--watch",
        timeout_s=800,
    )  # fmt: skip
    frames = [(film / f"frame_000{number}.png").read_bytes() for number in (1, 2, 3)]
    assert len(set(frames)) == 3
    facts = json.loads((film / "frame_0001.json").read_text())
    assert (facts["width"], facts["height"], facts["samples"]) == (64, 48, 4)
    assert facts["version"].startswith(VERSION)
    assert (film / "index.html").exists()
