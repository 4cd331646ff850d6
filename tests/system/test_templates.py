"""Templates on real nodes, as a person submits them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.system.conftest import MakeNodes
from tests.system.nodes import NodeUnderTest

EXAMPLES = Path(__file__).parents[2] / "examples" / "templates"

FAILING = """
specificationVersion: jobtemplate-2023-09
name: fails
steps:
  - name: one
    stepEnvironments:
      - name: Broken
        script:
          actions:
            onEnter:
              command: sh
              args: ["-c", "echo openjd_fail: no licence is free; exit 3"]
    script: {actions: {onRun: {command: "true"}}}
"""


@pytest.fixture
def pair(make_nodes: MakeNodes) -> list[NodeUnderTest]:
    return make_nodes(2, "--cpus", "1")


def test_templates_run_their_files_chunks_steps_and_environments(
    pair: list[NodeUnderTest], tmp_path: Path
) -> None:
    asking, to = pair[0], str(tmp_path)
    asking.p2prc("submit", str(EXAMPLES / "frames.yaml"), "-p", "Last=3", "--to", to, "--watch")
    frames = {path.name: path.read_text() for path in (tmp_path / "frames").iterdir()}
    assert frames == {f"000{n}.txt": f"hello {n}\n" for n in (1, 2, 3)}

    asking.p2prc("submit", str(EXAMPLES / "study.json"), "--to", to, "--watch")
    study = {path.name: path.read_text() for path in (tmp_path / "study").iterdir()}
    assert study["large-2.txt"] == "0.01\n"
    assert study["report.txt"] == "0.01\n0.10\n"

    asking.p2prc("submit", str(EXAMPLES / "server.yaml"), "--to", to, "--watch")
    answers = sorted(path.read_text() for path in (tmp_path / "answers").iterdir())
    assert len(answers) == 6
    # Each place started its server once: nobody but the first asks a server for the first time.
    assert sum(answer.split()[2] == "1" for answer in answers) <= 2

    scene = tmp_path / "scene.txt"
    scene.write_text("a scene")
    asking.p2prc(
        "render", str(scene), "--engine", "command", "--frames", "1-2", "--to", str(tmp_path / "f"),
        "--memory", "256M", "--watch", "--", "cp", "{scene}", "{out}/{frames}.txt",
    )  # fmt: skip
    assert (tmp_path / "f" / "2.txt").read_text() == "a scene"

    bad = tmp_path / "bad.yaml"
    bad.write_text(FAILING)
    said = asking.p2prc("submit", str(bad), "--retries", "0", "--watch", status=7)
    assert "no licence is free" in said.out
    bad.write_text(FAILING + "wrong: 1\n")
    said = asking.p2prc("submit", str(bad), status=3)
    assert "bad.yaml:14: wrong" in said.err
    assert not asking.json("leases")
