"""What one call of a coordinator leaves behind: facts first, then effects, in order."""

from __future__ import annotations

from p2prc.protocol.jobs.events import AppendFacts, CloseSlot, Effect
from p2prc.protocol.jobs.facts import Fact
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.protocol.jobs.slots import Slot, Slots


class Outbox:
    """Collects; every fact is in the ledger as soon as it is added here."""

    def __init__(self, ledger: Ledger, slots: Slots, *, utc_offset_s: float) -> None:
        self.ledger = ledger
        self._slots = slots
        self._utc_offset_s = utc_offset_s
        self._facts: list[Fact] = []
        self._effects: list[Effect] = []

    def at(self, now: float) -> float:
        """Return the instant as facts say it: seconds since 1970 in UTC."""
        return max(0.0, now + self._utc_offset_s)

    def since(self, at: float, now: float) -> float:
        """Return a fact's instant on our own clock, never in the future."""
        return min(now, at - self._utc_offset_s)

    def add(self, fact: Fact) -> None:
        """Decide something that must survive a crash."""
        self.ledger.apply(fact)
        self._facts.append(fact)

    def say(self, effect: Effect) -> None:
        """Ask the driver for something, after the facts."""
        self._effects.append(effect)

    def close(self, slot: Slot) -> None:
        """Give a slot back."""
        self.say(CloseSlot(slot.node, slot.lease))
        self._slots.remove(slot)

    def take(self) -> list[Effect]:
        """Return everything collected and begin anew."""
        facts, effects = tuple(self._facts), self._effects
        self._facts, self._effects = [], []
        return [AppendFacts(facts), *effects] if facts else effects
