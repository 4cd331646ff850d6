"""Whether the owner needs the machine now, decided from what was sampled of it.

The owner needs it in quiet hours, and, with "only while away", while others than our leases keep
the processor busy or while a person types. Who was away for a moment is not: the machine is lent
again only after it was free for `RELEASE_S`, so that work is not stopped and started all the time.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2prc.model.quiet_hours import QuietSpan

RELEASE_S = 30.0


@dataclass(frozen=True, slots=True)
class AwayRule:
    """When an owner counts as away; None asks nothing.

    `load_limit` is the load, in cores, that others may cause; `idle_s` for how long nobody typed.
    """

    load_limit: float | None = None
    idle_s: float | None = None


@dataclass(frozen=True, slots=True)
class OwnerSample:
    """What was seen of the machine: local time, others' load in cores, seconds without input.

    None is what this machine does not tell.
    """

    weekday: int
    minute: int
    load: float | None = None
    input_idle_s: float | None = None


class OwnerWatch:
    """Turns samples into one word: why the owner needs the machine, or ""."""

    def __init__(self) -> None:
        self._reason = ""
        self._busy_at = float("-inf")

    def look(
        self, quiet: tuple[QuietSpan, ...], rule: AwayRule, sample: OwnerSample, now: float
    ) -> str:
        """Return why the owner needs the machine at present, "" when it may be lent."""
        if any(span.covers(sample.weekday, sample.minute) for span in quiet):
            # Hours are exact: their end needs no patience.
            self._reason, self._busy_at = "these are the owner's quiet hours", float("-inf")
            return self._reason
        if reason := _presence(rule, sample):
            self._reason, self._busy_at = reason, now
        elif now - self._busy_at >= RELEASE_S or rule == AwayRule():
            self._reason = ""
        return self._reason


def _presence(rule: AwayRule, sample: OwnerSample) -> str:
    is_loaded = sample.load is not None and rule.load_limit is not None
    if is_loaded and (sample.load or 0.0) > (rule.load_limit or 0.0):
        return "the owner's own work needs the machine"
    if rule.idle_s is not None and sample.input_idle_s is not None:
        return "" if sample.input_idle_s >= rule.idle_s else "the owner is at the machine"
    return ""
