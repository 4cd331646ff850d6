"""Background work with a parent: expected errors go to whoever waits, bugs end the node.

Work for one peer is the exception: a peer must not be able to end a node by finding what nobody
foresaw. There a bug is logged with its traceback, counted, and the peer has failed. So it is with
work for one job or one lease: that fails alone, and uses up one of its retries.

A plain TaskGroup ends all its tasks when one fails. Here a failure in our own words (`P2prcError`)
belongs to that piece of work alone: it is kept in the returned future and logged when nobody
waits for it. Anything else is a bug and reaches the group.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from p2prc.errors import P2prcError, PeerLost

Result = TypeVar("Result")
log = logging.getLogger(__name__)


class Tasks:
    """Starts work inside one task group, which is given when the node starts."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._live: set[Work[Any]] = set()
        self.unforeseen = 0
        """How many bugs work for one peer, job or lease has met since the node started."""

    def start(self, work: Coroutine[Any, Any, Result], name: str) -> Work[Result]:
        """Start it now; cancelling the node cancels it."""
        return self._started(Work(self._group, work, name))

    def start_for_peer(self, work: Coroutine[Any, Any, Result], name: str) -> Work[Result]:
        """Start what serves one peer: a bug in it fails as PeerLost and ends nothing else."""
        return self._started(Work(self._group, work, name, contain=self._contain))

    async def for_peer(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Do what serves one peer within other work: a bug in it is raised as PeerLost."""
        try:
            return await work
        except P2prcError:
            raise
        except Exception as error:
            raise self._contain(error, name) from error

    def start_contained(self, work: Coroutine[Any, Any, Result], name: str) -> Work[Result]:
        """Start what serves one job or lease: a bug in it is its own failure, code `internal`."""
        return self._started(Work(self._group, work, name, contain=self._contain_own))

    async def contained(self, work: Coroutine[Any, Any, Result], name: str) -> Result:
        """Do what serves one job or lease within other work: a bug is raised as code `internal`."""
        try:
            return await work
        except P2prcError:
            raise
        except Exception as error:
            raise self._contain_own(error, name) from error

    def note_bug(self, error: Exception, name: str) -> None:
        """Log a bug that was contained, and count it."""
        self.unforeseen += 1
        log.error("an unforeseen error, contained", exc_info=error, extra={"work": name})

    def _started(self, work: Work[Result]) -> Work[Result]:
        self._live.add(work)
        work.add_done_callback(self._live.discard)
        return work

    def _contain(self, error: Exception, name: str) -> P2prcError:
        if isinstance(error, ExceptionGroup):
            _, bugs = error.split(P2prcError)
            if bugs is None:
                return _first(error)
        self.note_bug(error, name)
        return PeerLost(f"an unforeseen error ({type(error).__name__}) ended: {name}")

    def _contain_own(self, error: Exception, name: str) -> P2prcError:
        found = self._contain(error, name)
        return P2prcError(found.message) if isinstance(found, PeerLost) else found

    def stop_all(self) -> None:
        """Cancel everything that still runs; the group then ends."""
        for work in list(self._live):
            work.stop()


class Work(asyncio.Future[Result]):
    """A piece of background work: await it for its result, or cancel it with `stop`."""

    def __init__(
        self,
        group: asyncio.TaskGroup,
        work: Coroutine[Any, Any, Result],
        name: str,
        *,
        contain: Callable[[Exception, str], P2prcError] | None = None,
    ) -> None:
        super().__init__()
        self._contain = contain
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
            if bugs is None and expected is not None:
                self._fail(_first(expected), name)
            elif self._contain is not None and isinstance(group, Exception):
                self._fail(self._contain(group, name), name)
            else:
                raise
        except Exception as error:
            if self._contain is None:
                raise
            self._fail(self._contain(error, name), name)
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
