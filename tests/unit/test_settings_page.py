"""The page about settings lists exactly the settings there are."""

from __future__ import annotations

import re
from pathlib import Path

from p2prc.settings import SETTING_KEYS

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_every_setting_has_a_row_and_no_row_is_invented() -> None:
    rows = re.findall(r"^\| `([a-z_.]+)` \|", PAGE.read_text(), flags=re.MULTILINE)
    assert sorted(rows) == sorted(SETTING_KEYS)
