"""When a main process that ended starts again: at once, then ever later while it keeps failing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Restart = Literal["no", "on-failure", "always"]
FIRST_PAUSE_S = 0.1
PAUSE_LIMIT_S = 60.0
STEADY_S = 10.0
"""Who ran so long is forgiven its earlier ends, as Docker does."""


@dataclass(frozen=True, slots=True)
class Restarts:
    """How often in a row it ended soon."""

    restart: Restart
    soon: int = 0

    def ended(self, status: int | None, *, ran_s: float) -> tuple[Restarts, float | None]:
        """Return what to remember, and the pause in seconds before the next start, if any.

        A `status` of None is a command that was killed or could not be started.
        """
        if self.restart == "no" or (self.restart == "on-failure" and status == 0):
            return self, None
        soon = 1 if ran_s >= STEADY_S else self.soon + 1
        pause_s = min(PAUSE_LIMIT_S, FIRST_PAUSE_S * 2 ** min(soon - 1, 20))
        return Restarts(self.restart, soon), pause_s
