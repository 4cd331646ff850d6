"""Which cores a lease may use: those that others use least, never more than the owner lends.

A lease gets whole cores, its thousandths rounded up: a part of a core is what it may expect when
the machine is full, not a cap while others leave the core idle. Leases share cores only when
there are more of them than cores, all at the lowest priority. What they use together stays on
the lent cores whatever they ask for.

Several programs may choose cores on one machine, each without knowing of the others: so equal
cores are taken by lot, and a full core is left for an idle one. Who fills a core cannot be seen,
it may be we alone; then moving gains nothing and costs nothing. A coin decides, or all who share
a core would leave it together.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

_STICKINESS = 0.45
_LOT = 0.2
_POLITE_WEIGHT = 0.8
"""A core full of work as polite as ours is better than one that its owner uses, worse than idle."""
_MILLIS = 1000


@dataclass(frozen=True, slots=True)
class Ticks:
    """What one core has done for others than polite, low-priority work; for that; and in all."""

    others: int
    polite: int
    total: int


@dataclass(frozen=True, slots=True)
class Load:
    """The parts of a core, 0 to 1, that others used, and that work as polite as ours did."""

    others: float
    polite: float = 0.0


def read_ticks(text: str) -> dict[int, Ticks]:
    """Return what /proc/stat says about each core.

    Work at low priority is ours or as polite as ours.
    """
    found: dict[int, Ticks] = {}
    for line in text.splitlines():
        name, *rest = line.split()
        if name.startswith("cpu") and name != "cpu":
            user, nice, system, idle, waiting, hard, soft, stolen = map(int, rest[:8])
            others = user + system + hard + soft + stolen
            found[int(name[3:])] = Ticks(others, nice, others + nice + idle + waiting)
    return found


def loads_between(before: Mapping[int, Ticks], after: Mapping[int, Ticks]) -> dict[int, Load]:
    """Return what each core did between two readings."""
    loads: dict[int, Load] = {}
    for core, now in after.items():
        then = before.get(core, Ticks(0, 0, 0))
        total = max(1, now.total - then.total)
        loads[core] = Load((now.others - then.others) / total, (now.polite - then.polite) / total)
    return loads


@dataclass(slots=True)
class CoreBook:
    """Who runs on which cores. `lent` is how many cores all leases may use together."""

    usable: tuple[int, ...]
    lent: int
    rng: Random
    loads: dict[int, Load] = field(default_factory=dict)
    _demands: dict[str, int] = field(default_factory=dict)
    _chosen: dict[str, tuple[int, ...]] = field(default_factory=dict)
    _allowed: tuple[int, ...] = ()
    _lots: dict[int, float] = field(default_factory=dict)
    _heeds_polite: bool = True

    def __post_init__(self) -> None:
        # Equal cores are taken in an order of our own, or every program picks the first.
        self._lots = {core: self.rng.random() * _LOT for core in self.usable}

    def start(self, lease: str, cpu_millis: int) -> tuple[int, ...]:
        """Note that the lease runs something; return its cores."""
        if not self._demands:
            self._allow()
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
        self._allow()
        before, self._chosen = self._chosen, {}
        for lease, cpu_millis in self._demands.items():
            self._chosen[lease] = self._pick(lease, cpu_millis, before.get(lease, ()))
        return {lease: cores for lease, cores in self._chosen.items() if before[lease] != cores}

    def _allow(self) -> None:
        """Choose the cores that all leases together may use now."""
        self._heeds_polite = not self._allowed or self.rng.random() < 0.5

        def cost(core: int) -> float:
            return self._cost(core) - (_STICKINESS if core in self._allowed else 0.0)

        self._allowed = tuple(sorted(self.usable, key=cost)[: max(1, self.lent)])

    def _cost(self, core: int) -> float:
        load = self.loads.get(core, Load(0.0))
        polite = _POLITE_WEIGHT * load.polite if self._heeds_polite else 0.0
        return load.others + polite + self._lots[core]

    def _pick(self, lease: str, cpu_millis: int, before: tuple[int, ...] = ()) -> tuple[int, ...]:
        taken = dict.fromkeys(self._allowed, 0.0)
        for other, cores in self._chosen.items():
            for core in cores:
                if other != lease and core in taken:
                    taken[core] += self._demands[other] / _MILLIS / len(cores)

        def cost(core: int) -> float:
            return taken[core] + self._cost(core) - (_STICKINESS if core in before else 0.0)

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
