"""Looks at every lease and at the machine, again and again: usage for the owner, and its needs.

One loop. Without leases it looks only where the owner has rules about being away, and seldom.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from p2prc.model.quiet_hours import QuietSpan
from p2prc.node.machine import busy_core_s, input_idle_s
from p2prc.node.provider import Provider
from p2prc.protocol.owner_needs import AwayRule, OwnerSample, OwnerWatch

SAMPLE_S = 1.0
IDLE_SAMPLE_S = 5.0
SAVE_EVERY_S = 10.0
LOAD_WINDOW_S = 5.0


@dataclass(frozen=True, slots=True)
class OwnerRules:
    """When the owner needs the machine."""

    quiet_hours: tuple[QuietSpan, ...] = ()
    away: AwayRule = field(default_factory=AwayRule)


class Collector:
    """Samples leases once a second, and tells the provider when the owner needs the machine."""

    def __init__(self, provider: Provider, rules: Callable[[], OwnerRules]) -> None:
        self._provider = provider
        self._rules = rules
        self._watch = OwnerWatch()
        self._saved_at = float("-inf")
        self._looks: deque[tuple[float, float, float]] = deque()
        self._changed = asyncio.Event()
        self._may_run = asyncio.Event()
        self._may_run.set()

    def rules_changed(self) -> None:
        """Look again at once."""
        self._changed.set()

    def pause(self) -> None:
        """Look at nothing until `resume`: to measure what looking costs."""
        self._may_run.clear()

    def resume(self) -> None:
        """Look again."""
        self._may_run.set()

    async def run(self) -> None:
        """Collect until cancelled."""
        clock = asyncio.get_running_loop().time
        while True:
            await self._may_run.wait()
            self._changed.clear()
            is_lent = bool(self._provider.leases())
            await self.look(clock())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SAMPLE_S if is_lent else IDLE_SAMPLE_S):
                    await self._changed.wait()

    async def look(self, now: float) -> None:
        """Take one sample of everything."""
        leased_cpu_s = await self._provider.collect(now)
        if now - self._saved_at >= SAVE_EVERY_S:
            self._saved_at = now
            self._provider.save_usage()
        rules = self._rules()
        sample = await self._sample(rules, leased_cpu_s, now)
        reason = self._watch.look(rules.quiet_hours, rules.away, sample, now)
        self._provider.owner_needs(reason)

    async def _sample(self, rules: OwnerRules, leased_cpu_s: float, now: float) -> OwnerSample:
        local = time.localtime()
        load, idle_s = None, None
        if rules.away.load_limit is not None:
            load = self._load(leased_cpu_s, now)
        else:
            self._looks.clear()
        if rules.away.idle_s is not None:
            idle_s = await asyncio.to_thread(input_idle_s)
        return OwnerSample(local.tm_wday, 60 * local.tm_hour + local.tm_min, load, idle_s)

    def _load(self, leased_cpu_s: float, now: float) -> float | None:
        """Return how many cores others than leases and this node kept busy in the last seconds."""
        looks = self._looks
        looks.append((now, busy_core_s(), leased_cpu_s))
        # The oldest is just older than the window: a moment's work is not yet the owner's.
        while len(looks) > 2 and now - looks[1][0] >= LOAD_WINDOW_S:
            looks.popleft()
        then, busy_s, leased_s = looks[0]
        if now - then < LOAD_WINDOW_S:
            return None
        others_s = (looks[-1][1] - busy_s) - max(0.0, leased_cpu_s - leased_s)
        return max(0.0, others_s) / (now - then)
