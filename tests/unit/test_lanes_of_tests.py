"""`make test` runs every file of tests, each in one of its lanes."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_of_tests_is_in_one_lane() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "test.py"))
    listed = [name for lane in script["LANES"] for name in script["files_of"](ROOT, lane)]
    found = []
    for name in listed:
        path = ROOT / name
        found += sorted(path.glob("**/test_*.py")) if path.is_dir() else [path]
    assert sorted(found) == sorted((ROOT / "tests").glob("**/test_*.py"))
