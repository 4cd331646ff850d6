"""The checks of Dask over the network, in a process of their own."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.skipif(
    importlib.util.find_spec("distributed") is None, reason="needs `p2prc[dask]`: not installed"
)
def test_dask_over_the_network_without_one(tmp_path: Path) -> None:
    said = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("dask_checks.py"))],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert said.stdout.endswith("all held\n"), said.stdout + said.stderr
