"""Background work with a parent: expected errors go to whoever waits, bugs end the node.

A plain TaskGroup ends all its tasks when one fails. Here a failure in our own words (`P2prcError`)
belongs to that piece of work alone: it is kept in the returned future and logged when nobody
waits for it. Anything else is a bug and reaches the group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from p2prc.errors import P2prcError

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Tasks:
    """Starts work inside one task group, which is given when the node starts."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._live: set[Work[Any]] = set()

    def start(self, work: Coroutine[Any, Any, Result], name: str) -> Work[Result]:
        """Start it now; cancelling the node cancels it."""
        started = Work(self._group, work, name)
        self._live.add(started)
        started.add_done_callback(self._live.discard)
        return started

    def stop_all(self) -> None:
        """Cancel everything that still runs; the group then ends."""
        for work in list(self._live):
            work.stop()


class Work(asyncio.Future[Result]):
    """A piece of background work: await it for its result, or cancel it with `stop`."""

    def __init__(
        self, group: asyncio.TaskGroup, work: Coroutine[Any, Any, Result], name: str
    ) -> None:
        super().__init__()
        self.add_done_callback(_retrieve)
        self._task = group.create_task(self._guard(work, name), name=name)
        self._task.add_done_callback(lambda _: self._settle(work))

    def stop(self) -> None:
        """Cancel the work; twice is safe."""
        self._task.cancel()

    def _settle(self, work: Coroutine[Any, Any, Result]) -> None:
        # Stopped before it began: nothing inside ever ran.
        work.close()
        if not self.done():
            self.cancel()

    async def _guard(self, work: Coroutine[Any, Any, Result], name: str) -> None:
        try:
            result = await work
        except P2prcError as error:
            self._fail(error, name)
        except BaseExceptionGroup as group:
            expected, bugs = group.split(P2prcError)
            if bugs is not None or expected is None:
                raise
            self._fail(_first(expected), name)
        else:
            if not self.done():
                self.set_result(result)

    def _fail(self, error: P2prcError, name: str) -> None:
        log.info("background work failed", extra={"work": name, "reason": error.message})
        if not self.done():
            self.set_exception(error)


def _first(group: BaseExceptionGroup[P2prcError]) -> P2prcError:
    # The others failed because of it, as far as anybody can tell.
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _retrieve(future: asyncio.Future[Any]) -> None:
    # Says "somebody looked", so that an error nobody waits for is not reported as lost.
    if not future.cancelled():
        future.exception()
