"""Let go of the library's objects at a time when it holds no lock.

Python may find that an object of the bindings is garbage on any thread and in the middle of
anything, also inside a call back from Rust that holds the lock of a connection. Freeing a stream of
that connection there would wait for that lock for ever, and with it the node. So what is to be
freed waits for the event loop, which frees it between two callbacks of its own.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from iroh import iroh_ffi

Free = Callable[[Any], Any]


class _Release:
    """What waits to be freed, and the loop that will do it."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Free, Any]] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_called = False
        self._is_bound = False

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        if not self._is_bound:
            self._is_bound = True
            for each in vars(iroh_ffi).values():
                if isinstance(each, type) and "__del__" in vars(each):
                    _defer(each)
        loop.call_soon(self._free_all)

    def later(self, free: Free, handle: Any) -> None:
        loop = self._loop
        if loop is None or loop.is_closed():
            free(handle)
            return
        self._waiting.append((free, handle))
        # Any thread may be here: twice does no harm.
        if not self._is_called:
            self._is_called = True
            try:
                loop.call_soon_threadsafe(self._free_all)
            except RuntimeError:
                # It was closed just now: the next one frees it.
                self._is_called = False

    def _free_all(self) -> None:
        # First: what is added from here on calls again.
        self._is_called = False
        while self._waiting:
            free, handle = self._waiting.popleft()
            free(handle)


_release = _Release()


def free_on(loop: asyncio.AbstractEventLoop) -> None:
    """Have this loop free what was let go of, from now on."""
    _release.bind(loop)


def free_later(free: Free, handle: Any) -> None:
    """Free it from the loop; at once where there is none that runs. Safe on every thread."""
    _release.later(free, handle)


def _defer(kind: type) -> None:
    """Let objects of a class of the bindings be freed by the loop."""
    free_of_bindings = kind.__del__  # type: ignore[attr-defined]

    def free(handle: Any) -> None:
        # Theirs looks at nothing but the handle.
        free_of_bindings(SimpleNamespace(_handle=handle))

    def let_go(lost: Any) -> None:
        handle = getattr(lost, "_handle", None)
        if handle is not None:
            free_later(free, handle)

    kind.__del__ = let_go  # type: ignore[attr-defined]
