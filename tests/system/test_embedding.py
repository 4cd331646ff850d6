"""A program with a node of its own: the project that `new` makes, run as it is."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line


def new(*words: str) -> int:
    return run_command_line(["new", *words], Invocation(""))


def test_a_new_project_passes_its_own_test(tmp_path: Path) -> None:
    assert new(str(tmp_path / "My-Primes"), "--module", "primes") == 0
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:asyncio", "-p", "no:cacheprovider"],
        cwd=tmp_path / "My-Primes",
        env={**os.environ, "P2PRC_RUNTIME": "process"},
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 passed" in done.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["1st"], "no name of a project"),
        (["json"], "--module"),
        (["fine", "--module", "Not One"], "cannot be a module"),
    ],
)
def test_what_is_no_project_is_refused(
    words: list[str],
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert new(*words) == 3
    assert says in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "kept").write_text("mine")
    assert new(str(tmp_path)) == 3
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
