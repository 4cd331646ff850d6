"""Which cores a lease may use: those that others use least, never more than the owner lends.

A lease gets whole cores, its thousandths rounded up: a part of a core is what it may expect when
the machine is full, not a cap while others leave the core idle. Leases share cores only when
there are more of them than cores, all at the lowest priority. What they use together stays on
the lent cores whatever they ask for.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

_STICKINESS = 0.3
_MILLIS = 1000


@dataclass(frozen=True, slots=True)
class Ticks:
    """What one core has done for others than polite, low-priority work, and in all."""

    others: int
    total: int


def read_ticks(text: str) -> dict[int, Ticks]:
    """Return what /proc/stat says about each core.

    Work at low priority is ours or as polite as ours: it does not keep us away.
    """
    found: dict[int, Ticks] = {}
    for line in text.splitlines():
        name, *rest = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, waiting, hard, soft, stolen = map(int, rest[:8])
            others = user + system + hard + soft + stolen
            found[int(name[3:])] = Ticks(others, others + nice + idle + waiting)
    return found


def foreign_loads(before: Mapping[int, Ticks], after: Mapping[int, Ticks]) -> dict[int, float]:
    """Return the part of each core, 0 to 1, that others used between two readings."""
    loads: dict[int, float] = {}
    for core, now in after.items():
        then = before.get(core, Ticks(0, 0))
        loads[core] = (now.others - then.others) / max(1, now.total - then.total)
    return loads


@dataclass(slots=True)
class CoreBook:
    """Who runs on which cores. `lent` is how many cores all leases may use together."""

    usable: tuple[int, ...]
    lent: int
    rng: Random
    loads: dict[int, float] = field(default_factory=dict)
    _demands: dict[str, int] = field(default_factory=dict)
    _chosen: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _allowed: tuple[int, ...] = ()
    _lots: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Equal cores are taken in an order of our own, or every program picks the first.
        self._lots = {core: self.rng.random() / 100 for core in self.usable}

    def start(self, lease: str, cpu_millis: int) -> tuple[int, ...]:
        """Note that the lease runs something; return its cores."""
        if not self._demands:
            self._allowed = self._least_loaded()
        self._demands[lease] = cpu_millis
        self._chosen[lease] = self._pick(lease, cpu_millis)
        return self._chosen[lease]

    def stop(self, lease: str) -> None:
        """Note that the lease runs nothing; fine when it did not."""
        self._demands.pop(lease, None)
        self._chosen.pop(lease, None)

    @property
    def is_idle(self) -> bool:
        return not self._demands

    def rebalance(self) -> dict[str, tuple[int, ...]]:
        """Choose anew by the loads of now; return the leases that move."""
        self._allowed = self._least_loaded()
        before, self._chosen = self._chosen, {}
        for lease, cpu_millis in self._demands.items():
            self._chosen[lease] = self._pick(lease, cpu_millis, before.get(lease, ()))
        return {lease: cores for lease, cores in self._chosen.items() if before[lease] != cores}

    def _least_loaded(self) -> tuple[int, ...]:
        def cost(core: int) -> float:
            stay = _STICKINESS if core in self._allowed else 0.0
            return self.loads.get(core, 0.0) + self._lots[core] - stay

        return tuple(sorted(self.usable, key=cost)[: max(1, self.lent)])

    def _pick(self, lease: str, cpu_millis: int, before: tuple[int, ...] = ()) -> tuple[int, ...]:
        taken = dict.fromkeys(self._allowed, 0.0)
        for other, cores in self._chosen.items():
            for core in cores:
                if other != lease and core in taken:
                    taken[core] += self._demands[other] / _MILLIS / len(cores)

        def cost(core: int) -> float:
            stay = _STICKINESS if core in before else 0.0
            return taken[core] + self.loads.get(core, 0.0) + self._lots[core] - stay

        count = max(1, -(-cpu_millis // _MILLIS))
        return tuple(sorted(sorted(self._allowed, key=cost)[:count]))


def present_ticks() -> dict[int, Ticks]:
    """Return what each core has done up to now; nothing where the machine does not say."""
    try:
        return read_ticks(Path("/proc/stat").read_text(encoding="ascii"))
    except OSError:
        return {}


def usable_cores() -> tuple[int, ...]:
    """Return the cores that this process may use."""
    return tuple(sorted(os.sched_getaffinity(0)))
