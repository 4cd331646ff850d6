"""What the machine tells of load and input."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from p2prc.node.machine import busy_core_s, input_idle_s

BURN = "import time\nuntil = time.process_time() + 0.5\nwhile time.process_time() < until: pass"


@pytest.mark.parametrize("niceness", ["0", "19"])
def test_work_of_others_is_seen_however_polite_it_is(niceness: str) -> None:
    before = busy_core_s()
    subprocess.run(["nice", "-n", niceness, sys.executable, "-c", BURN], check=True)
    assert busy_core_s() - before >= 0.4


def test_reading_a_terminal_is_input() -> None:
    ours, theirs = os.openpty()
    try:
        os.write(ours, b"a key\n")
        os.read(theirs, 100)
        idle_s = input_idle_s()
    finally:
        os.close(ours)
        os.close(theirs)
    # The kernel notes it in steps of eight seconds.
    assert idle_s is not None
    assert 0 <= idle_s < 20
