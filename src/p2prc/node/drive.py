"""One driver for every machine: feeds it events and its deadline, and performs what it asks.

It contains no decisions, so there is nothing in it to simulate.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from p2prc.errors import P2prcError

EventIn = TypeVar("EventIn", contravariant=True)
EffectOut = TypeVar("EffectOut", covariant=True)
Event = TypeVar("Event")
Effect = TypeVar("Effect")


class Machine(Protocol[EventIn, EffectOut]):
    """Anything that decides: `handle(event, now) -> effects`, and when it wants to be woken."""

    @property
    def deadline(self) -> float | None: ...

    def handle(self, event: EventIn, now: float) -> Sequence[EffectOut]: ...


class Driver(Generic[Event, Effect]):
    """Feeds one machine. `perform` hands over and returns; what it feeds back waits its turn."""

    def __init__(
        self,
        machine: Machine[Event, Effect],
        perform: Callable[[Effect], None],
        *,
        tick: Callable[[], Event],
        broken: Callable[[Exception], None] | None = None,
    ) -> None:
        """With `broken` a bug in this machine stops it alone; without, it is everybody's."""
        self._broken = broken
        self._machine = machine
        self._perform = perform
        self._tick = tick
        self._inbox: deque[Event] = deque()
        self._is_feeding = False
        self._alarm: asyncio.TimerHandle | None = None
        self._is_stopped = False

    def feed(self, event: Event) -> None:
        """Give the machine an event and perform its effects before returning."""
        if self._is_stopped:
            return
        self._inbox.append(event)
        if self._is_feeding:
            return
        self._is_feeding = True
        try:
            while self._inbox:
                now = asyncio.get_running_loop().time()
                for effect in self._machine.handle(self._inbox.popleft(), now):
                    self._perform(effect)
        except P2prcError:
            # A peer's illegal event: nothing has changed.
            raise
        except Exception as error:
            if self._broken is None:
                raise
            self.stop()
            self._broken(error)
        finally:
            self._is_feeding = False
        self._arm()

    def stop(self) -> None:
        """Ignore every later event and deadline."""
        self._is_stopped = True
        if self._alarm is not None:
            self._alarm.cancel()

    def _arm(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if (deadline := self._machine.deadline) is not None and not self._is_stopped:
            loop = asyncio.get_running_loop()
            # An overdue deadline still lets other work have the loop in between.
            self._alarm = loop.call_at(max(deadline, loop.time() + 0.001), self._wake)

    def _wake(self) -> None:
        self._alarm = None
        self.feed(self._tick())
