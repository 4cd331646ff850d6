"""The demonstration as a newcomer sees it: real nodes, the real renderer, from the registry."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import p2prc.demo
from p2prc.demo.network import NAMES, DemoNode
from p2prc.errors import NodeNotRunning
from tests.system.nodes import processes_below, wait_until

pytestmark = pytest.mark.timeout(400)

FRAMES = 6
SOURCES = Path(p2prc.demo.__file__).parent


@dataclass(frozen=True, slots=True)
class Demo:
    """A demo that has run: where its nodes live, what it made and what it said."""

    homes: Path
    output: Path
    told: dict[str, Any]

    def environment_with(self, package: str) -> Path:
        """Return an environment that a node built for the demo."""
        return next(path.parent for path in self.homes.glob(f"*/environments/*/{package}"))


def demo_argv(homes: Path, output: Path, *options: str) -> list[str]:
    places = ["--homes", str(homes), "--to", str(output)]
    return [sys.executable, "-m", "p2prc", "demo", "--json", *places, *options]


def run(argv: list[str], **settings: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=300, check=False, **settings
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    homes, output = folder / "homes", folder / "output"
    done = run(demo_argv(homes, output, "--frames", str(FRAMES)))
    assert done.returncode == 0, done.stderr
    return Demo(homes, output, json.loads(done.stdout))


def test_three_nodes_render_an_animation(demo: Demo) -> None:
    frames = sorted((demo.output / "frames").glob("*.png"))
    assert [frame.name for frame in frames] == [f"{n:04d}.png" for n in range(1, FRAMES + 1)]
    assert all(frame.read_bytes().startswith(b"\x89PNG") for frame in frames)
    assert sorted(demo.told["nodes"]) == ["ada", "grace", "linus"]
    assert min(demo.told["nodes"].values()) >= 1
    assert sum(demo.told["nodes"].values()) == FRAMES


def test_the_demo_leaves_no_process_behind(demo: Demo) -> None:
    assert processes_below(demo.homes) == []


def test_the_page_shows_every_frame_and_asks_nobody(demo: Demo) -> None:
    page = Path(demo.told["index"]).read_text(encoding="utf-8")
    assert page.count("<figure") == FRAMES
    asked_for = re.findall(r"(?:src|href)=['\"]([^'\"]*)|url\(([^)]*)|@import", page)
    assert len(asked_for) == FRAMES + 1
    assert all(address.startswith("data:image/webp;") for address, _ in asked_for)
    for name in ("contact-sheet.png", "animation.webp"):
        assert (demo.output / name).stat().st_size > 10_000


def test_a_frame_is_the_same_picture_wherever_it_is_rendered(demo: Demo, tmp_path: Path) -> None:
    command = [sys.executable, "scene.py", "--frame", "2", "--of", str(FRAMES), "--out"]
    done = run(
        [*command, str(tmp_path / "0002.png")],
        cwd=SOURCES,
        env={"PYTHONPATH": str(demo.environment_with("mitsuba"))},
    )
    assert done.returncode == 0, done.stderr
    there = (demo.output / "frames" / "0002.png").read_bytes()
    assert (tmp_path / "0002.png").read_bytes() == there


def test_a_nodes_name_cannot_write_into_the_page(demo: Demo, tmp_path: Path) -> None:
    name = "<script>alert('x')</script>"
    facts = json.loads((demo.output / "facts.json").read_text(encoding="utf-8"))
    facts["nodes"] = [name]
    facts["rendered_by"] = dict.fromkeys(facts["rendered_by"], name)
    (tmp_path / "facts.json").write_text(json.dumps(facts), encoding="utf-8")
    words = [str(demo.output / "frames"), "--facts", str(tmp_path / "facts.json")]
    done = run(
        [sys.executable, str(SOURCES / "gallery.py"), *words, "--to", str(tmp_path)],
        env={"PYTHONPATH": str(demo.environment_with("PIL"))},
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert "&lt;script&gt;alert" in page
    assert "<script" not in page


def test_an_interrupted_demo_stops_its_nodes_and_the_next_one_works(
    demo: Demo, tmp_path: Path
) -> None:
    output, told = tmp_path / "output", tmp_path / "told"
    with told.open("wb") as sink:
        running = subprocess.Popen(
            demo_argv(demo.homes, output, "--frames", "200"), stdout=sink, stderr=sink
        )
    wait_until(lambda: any(output.glob("frames/*.png")), "a frame arrives", timeout_s=120)
    running.send_signal(signal.SIGINT)
    assert running.wait(60) == 130, told.read_text()
    assert processes_below(demo.homes) == []

    done = run(demo_argv(demo.homes, output, "--frames", "3"))
    assert done.returncode == 0, done.stderr
    assert len(list(output.glob("frames/*.png"))) == 3


def test_nodes_that_are_kept_take_the_next_command(demo: Demo, tmp_path: Path) -> None:
    kept = run(demo_argv(demo.homes, tmp_path / "output", "--frames", "3", "--keep"))
    nodes = [DemoNode(name, demo.homes / name) for name in NAMES]
    try:
        assert kept.returncode == 0, kept.stderr
        ended = json.loads(nodes[0].p2prc("run", "any", "--", "true"))
        assert ended["exit"] == 0
    finally:
        for node in nodes:
            node.p2prc("down")
    assert processes_below(demo.homes) == []


def test_the_demo_works_without_bubblewrap(demo: Demo, tmp_path: Path) -> None:
    done = run(
        demo_argv(demo.homes, tmp_path / "output", "--frames", "3"),
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "output").glob("frames/*.png"))) == 3


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    done = run(demo_argv(tmp_path / "homes", tmp_path))
    assert done.returncode == 3
    assert "holds something else" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_what_a_command_tells_is_raised_as_the_error_it_is(tmp_path: Path) -> None:
    with pytest.raises(NodeNotRunning):
        DemoNode("nobody", tmp_path).p2prc("nodes")
