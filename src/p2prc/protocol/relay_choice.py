"""Which relays we can be reached through: the nearest two that answer, members' before others.

Relays named by hand are always among them. Relays of strangers are used only while they are
wanted and no member's relay answers; first those that other members use, as the owner of one of
them has named it. Latency is measured here, not asked for; a relay in use
gives way only to one that is clearly nearer, and one that is silent twice only to one that answers:
a lone relay may be back at any moment, so it is never given up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

Owner = Literal["named", "member", "shared", "foreign"]

USED_LIMIT = 2
CANDIDATES_LIMIT = 16
MEASURE_USED_S = 3.0
MEASURE_OTHERS_S = 60.0
SILENT_AFTER = 2
"""Measurements without an answer, in a row."""
NEARER = 0.7
"""A relay takes the place of another when its latency is below this part of the other's."""
NOISE_S = 0.01
_WEIGHT = 0.3
_RANK: dict[Owner, int] = {"named": 0, "member": 1, "shared": 2, "foreign": 3}
_BETTER: dict[Owner, tuple[Owner, ...]] = {
    "shared": ("member",),
    "foreign": ("member", "shared"),
}
"""Whose relays must be silent before a stranger's is used."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A relay that there is.

    `owner`: named by our owner, a member's, a stranger's that members use, or a stranger's.
    """

    url: str
    owner: Owner


@dataclass(frozen=True, slots=True)
class CandidatesChanged:
    """These are the relays that there are, and whether strangers' may be used now."""

    candidates: tuple[Candidate, ...]
    is_foreign_wanted: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """A relay answered after so many seconds; None: it did not."""

    url: str
    latency_s: float | None


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


@dataclass(frozen=True, slots=True)
class MeasureAnew:
    """Somebody waits, or we have moved: what was silent may answer now."""


ChoiceEvent = CandidatesChanged | Measured | MeasureAnew | Tick


@dataclass(frozen=True, slots=True)
class Measure:
    """Ask a relay for a sign of life, and say how long it took."""

    url: str


@dataclass(frozen=True, slots=True)
class Use:
    """Be reachable through these and no others, best first."""

    relays: tuple[Candidate, ...]


ChoiceEffect = Measure | Use


@dataclass(slots=True)
class Reading:
    """What is known of one relay."""

    candidate: Candidate
    latency_s: float | None = None
    silent: int = 0
    next_at: float = 0.0
    is_asked: bool = False

    @property
    def is_alive(self) -> bool:
        """Whether it answers, as far as we know."""
        return self.latency_s is not None and self.silent < SILENT_AFTER


class RelayChoice:
    """The relays known, what was measured of them, and those in use."""

    def __init__(self) -> None:
        self._readings: dict[str, Reading] = {}
        self._used: tuple[str, ...] = ()
        self._told: tuple[Candidate, ...] = ()
        self._is_foreign_wanted = False

    @property
    def deadline(self) -> float | None:
        """When something is to be measured."""
        waiting = [each.next_at for each in self._readings.values() if not each.is_asked]
        return min(waiting, default=None)

    @property
    def used(self) -> tuple[Candidate, ...]:
        """Return the relays in use, best first."""
        return tuple(self._readings[url].candidate for url in self._used)

    @property
    def alive(self) -> tuple[str, ...]:
        """Return those in use that answer."""
        return tuple(url for url in self._used if self._readings[url].is_alive)

    @property
    def is_hopeful(self) -> bool:
        """Whether there is a relay that answers, or may do so yet."""
        return any(each.is_asked or each.silent < SILENT_AFTER for each in self.allowed())

    def allowed(self) -> list[Reading]:
        """Return what is known of those that may be used now."""
        return [each for each in self._readings.values() if self._is_allowed(each)]

    def handle(self, event: ChoiceEvent, now: float) -> list[ChoiceEffect]:
        """Take an event; return what to do."""
        match event:
            case CandidatesChanged():
                self._is_foreign_wanted = event.is_foreign_wanted
                self._replace(event.candidates, now)
            case Measured():
                self._measured(event, now)
            case MeasureAnew():
                for reading in self.allowed():
                    reading.next_at = now
            case Tick():
                pass
            case _:
                assert_never(event)
        effects: list[ChoiceEffect] = []
        self._used = self._choose()
        if self.used != self._told:
            self._told = self.used
            effects.append(Use(self._told))
        for url in self._used:
            reading = self._readings[url]
            reading.next_at = min(reading.next_at, now + MEASURE_USED_S)
        return effects + self._due(now)

    def _replace(self, candidates: Sequence[Candidate], now: float) -> None:
        ranked = sorted(candidates, key=lambda each: _RANK[each.owner])
        wanted = {each.url: each for each in reversed(ranked[:CANDIDATES_LIMIT])}
        for url in list(self._readings):
            if url not in wanted:
                del self._readings[url]
        for url, candidate in wanted.items():
            known = self._readings.setdefault(url, Reading(candidate, next_at=now))
            known.candidate = candidate
        self._used = tuple(url for url in self._used if url in self._readings)

    def _measured(self, event: Measured, now: float) -> None:
        reading = self._readings.get(event.url)
        if reading is None:
            return
        reading.is_asked = False
        if event.latency_s is None:
            reading.silent += 1
        else:
            known = event.latency_s if reading.silent else (reading.latency_s or event.latency_s)
            reading.latency_s = known + _WEIGHT * (event.latency_s - known)
            reading.silent = 0
        # One that has just fallen silent is asked again soon: it decides.
        is_in_doubt = 0 < reading.silent < SILENT_AFTER
        reading.next_at = now + (MEASURE_USED_S if is_in_doubt else MEASURE_OTHERS_S)

    def _due(self, now: float) -> list[ChoiceEffect]:
        effects: list[ChoiceEffect] = []
        for url, reading in self._readings.items():
            if not reading.is_asked and reading.next_at <= now and self._is_allowed(reading):
                reading.is_asked = True
                effects.append(Measure(url))
            elif not reading.is_asked and reading.next_at <= now:
                # It may be needed at any moment.
                reading.next_at = now + MEASURE_USED_S
        return effects

    def _is_allowed(self, reading: Reading) -> bool:
        """Strangers hear nothing of us, not even a ping, unless they are needed."""
        owner = reading.candidate.owner
        better = _BETTER.get(owner)
        if better is None:
            return True
        return self._is_foreign_wanted and not any(
            each.is_alive and each.candidate.owner in better for each in self._readings.values()
        )

    def _choose(self) -> tuple[str, ...]:
        alive = sorted((each for each in self.allowed() if each.is_alive), key=self._cost)
        chosen = [each.candidate.url for each in alive[:USED_LIMIT]]
        # Those that are silent stay while there is nobody better: they may be back soon.
        for url in self._used:
            if url not in chosen and self._is_allowed(self._readings[url]):
                chosen.append(url)
        found = tuple(chosen[:USED_LIMIT])
        return self._used if self._is_as_good(found) else found

    def _is_as_good(self, found: tuple[str, ...]) -> bool:
        """Whether only the order is new, and by a difference that says nothing.

        Each new order would be told to the whole network.
        """
        if len(found) != USED_LIMIT or found != self._used[::-1]:
            return False
        first, second = (self._readings[url] for url in self._used)
        if not (first.is_alive and second.is_alive):
            return False
        if _RANK[first.candidate.owner] != _RANK[second.candidate.owner]:
            return False
        nearer_by_s = (first.latency_s or 0.0) - (second.latency_s or 0.0)
        return nearer_by_s < max(NOISE_S, (1 - NEARER) * (first.latency_s or 0.0))

    def _cost(self, reading: Reading) -> tuple[int, float, str]:
        latency_s = reading.latency_s or 0.0
        is_used = reading.candidate.url in self._used
        return (
            _RANK[reading.candidate.owner],
            latency_s * (NEARER if is_used else 1.0),
            reading.candidate.url,
        )
