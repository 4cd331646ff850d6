"""A container's process as this machine numbers it: waited for, and killed with all of its kind.

Behind a virtual machine's wall the same number is somebody else's: nothing is done to that one.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from p2prc.runtime.process import watch


async def gone(pid: int, container: str) -> None:
    """Wait for a process of a container to end; return at once for one that is not here."""
    with _handle(pid, container) as handle:
        if handle is not None:
            await _ended(handle)


async def kill_with_all(first: int, container: str) -> bool:
    """Kill a container's first process and wait until it has ended: no other is left by then.

    The kernel kills the others with it and lets nothing be born meanwhile (`pid_namespaces(7)`), so
    no bomb outruns this. False where the process is not here, or not ours to kill.
    """
    with _handle(first, container) as handle:
        if handle is None:
            return False
        # Among a bomb's processes it would wait long for its turn to die.
        watch.hasten(first)
        try:
            signal.pidfd_send_signal(handle, signal.SIGKILL)
        except PermissionError:
            return False
        except ProcessLookupError:
            return True
        await _ended(handle)
        return True


@contextmanager
def _handle(pid: int, container: str) -> Iterator[int | None]:
    """Hold on to a process, if it is one of the container's: a handle stays one process's."""
    try:
        handle = os.pidfd_open(pid)
    except (OSError, AttributeError):
        yield None
        return
    try:
        yield handle if _is_in(pid, container) else None
    finally:
        os.close(handle)


def _is_in(pid: int, container: str) -> bool:
    try:
        return container in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii")
    except OSError:
        return False


async def _ended(handle: int) -> None:
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    loop.add_reader(handle, _set, ended)
    try:
        await ended
    finally:
        loop.remove_reader(handle)


def _set(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
