"""A container's process by its number out here: waited for, and killed where it is that one."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from p2prc.runtime.docker import handles
from p2prc.runtime.process import watch

ANY = ":"
"""Every process's groups have this in their names: any process passes for the container's."""
PATIENCE_S = 15.0


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process
        process.kill()


def test_the_first_process_is_killed_and_waited_for(sleeper: subprocess.Popen[bytes]) -> None:
    async def kill() -> bool:
        async with asyncio.timeout(PATIENCE_S):
            return await handles.kill_with_all(sleeper.pid, ANY)

    assert asyncio.run(kill())
    assert sleeper.wait(PATIENCE_S) == -signal.SIGKILL


def test_a_process_of_somebody_else_is_left_alone(sleeper: subprocess.Popen[bytes]) -> None:
    async def kill() -> bool:
        async with asyncio.timeout(PATIENCE_S):
            # To wait for it is to return at once.
            await handles.gone(sleeper.pid, "f" * 64)
            return await handles.kill_with_all(sleeper.pid, "f" * 64)

    assert not asyncio.run(kill())
    assert sleeper.poll() is None


def test_what_has_gone_is_not_here() -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait(PATIENCE_S)
    assert not asyncio.run(handles.kill_with_all(process.pid, ANY))


def test_who_is_about_to_die_comes_first_where_we_may(sleeper: subprocess.Popen[bytes]) -> None:
    before = os.sched_getscheduler(sleeper.pid), os.getpriority(os.PRIO_PROCESS, sleeper.pid)
    watch.hasten(sleeper.pid)
    after = os.sched_getscheduler(sleeper.pid), os.getpriority(os.PRIO_PROCESS, sleeper.pid)
    assert (after != before) == (os.geteuid() == 0)
