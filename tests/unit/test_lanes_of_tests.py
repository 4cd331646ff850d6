"""`make test` runs every folder of tests, each in one of its lanes."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_folder_of_tests_is_in_one_lane() -> None:
    script = (ROOT / "scripts" / "test.sh").read_text()
    lanes = re.findall(r'^(?:waiting|working)="([^"]+)"$', script, re.MULTILINE)
    assert len(lanes) == 2
    listed = [Path(word) for lane in lanes for word in lane.split()]
    there = {path.parent.relative_to(ROOT) for path in (ROOT / "tests").glob("**/test_*.py")}
    assert sorted(listed) == sorted(there)
