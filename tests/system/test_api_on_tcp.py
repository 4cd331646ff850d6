"""The control API on TCP of a real node; and clients in other languages, generated and run."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, stop_all

CLIENTS = Path(__file__).parents[2] / "examples" / "clients"
WANTED = "P2PRC_TEST_CLIENTS"


@pytest.fixture
def ada(tmp_path: Path) -> Iterator[NodeUnderTest]:
    node = NodeUnderTest(tmp_path / "ada", "ada", variables={"P2PRC_API_LISTEN": "0"})
    node.up()
    yield node
    stop_all([node])


def test_over_tcp_only_with_the_token(ada: NodeUnderTest) -> None:
    status = ada.json("status")
    url = status["api"]
    assert url.startswith("http://127.0.0.1:")
    path = ada.home / "api.token"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    request = urllib.request.Request(f"{url}/v1/status")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(request, timeout=30)
    request.add_header("Authorization", f"Bearer {path.read_text().strip()}")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert json.load(answer)["id"] == status["id"]


def test_clients_in_other_languages_speak_with_a_live_node(
    ada: NodeUnderTest, tmp_path: Path
) -> None:
    if os.environ.get(WANTED) != "1":
        pytest.skip(
            f"takes a minute and the registries of npm and Go: `make clients`, or {WANTED}=1"
        )
    folder = tmp_path / "clients"
    shutil.copytree(CLIENTS, folder)
    document = ada.p2prc("openapi").out
    surroundings = {
        **os.environ,
        "P2PRC_API": ada.json("status")["api"],
        "P2PRC_TOKEN": (ada.home / "api.token").read_text().strip(),
    }
    ran = []
    for language, tool in (("typescript", "npm"), ("go", "go")):
        if shutil.which(tool) is None:
            continue
        place = folder / language
        (place / "openapi.json").write_text(document)
        done = subprocess.run(
            ["sh", "run.sh"],
            cwd=place,
            env=surroundings,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.returncode == 0, (language, done.stdout[-2000:], done.stderr[-2000:])
        said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        assert said == [
            {"nodes": ["ada"]},
            {"told": {"from": language}},
            {"refused": "node-unknown", "status": 404},
            {"printed": "42\n", "exit": 0},
            {"withoutToken": 401},
        ]
        ran.append(language)
    if not ran:
        pytest.skip("neither npm nor go is here")
    assert ada.json("metadata") == {"from": ran[-1]}
