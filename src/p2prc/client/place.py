"""Which node a program speaks with: the home it names, or the one its environment names."""

from __future__ import annotations

import os
from pathlib import Path

_VARIABLES = ("P2PRC_HOME", "P2PRC")
_DEFAULT = "~/.p2prc"


def home_folder(home: str | Path | None) -> str:
    """Return the home of the node to speak with, as an absolute path."""
    named = home or next(
        (os.environ[name] for name in _VARIABLES if os.environ.get(name)), _DEFAULT
    )
    return os.path.abspath(os.path.expanduser(named))  # noqa: PTH100, PTH111 - links stay links
