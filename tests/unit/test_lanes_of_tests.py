"""`make test` runs every folder of tests, each in one of its lanes."""

from __future__ import annotations

import runpy
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_of_tests_is_in_one_lane() -> None:
    lanes = runpy.run_path(str(ROOT / "scripts" / "test.py"))
    listed = [Path(folder) for lane in lanes["LANES"] for folder in lane]
    there = {path.parent.relative_to(ROOT) for path in (ROOT / "tests").glob("**/test_*.py")}
    assert sorted(listed) == sorted(there)
