"""Lending more than there is, is told."""

from __future__ import annotations

from p2prc.daemon.main import overcommitted
from p2prc.model.resources import Capacity

GIB = 1 << 30


def test_lending_what_the_machine_has_needs_no_notice() -> None:
    lent = Capacity(cpu_millis=2000, memory_bytes=4 * GIB, disk_bytes=GIB)
    assert overcommitted(lent, cpus=2, memory=4 * GIB) == []


def test_more_cores_or_memory_than_there_are_is_told_each() -> None:
    lent = Capacity(cpu_millis=2001, memory_bytes=4 * GIB + 1, disk_bytes=GIB)
    cores, memory = overcommitted(lent, cpus=2, memory=4 * GIB)
    assert "the 2 of this machine" in cores
    assert "memory" in memory
