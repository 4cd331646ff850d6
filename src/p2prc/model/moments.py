"""Instants that are told apart by how long lies between them, though a wall clock may be set."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """An instant: UTC seconds by the wall clock, and seconds since the start `boot` of the machine.

    `boot` "" is a machine that does not tell its starts apart.
    """

    at: float
    boot: str = ""
    booted_s: float = 0.0

    def since(self, earlier: Moment) -> float:
        """Return the seconds in between: truly passed since then, or, over a start of the machine,
        as the wall clock has it.
        """
        if self.boot and self.boot == earlier.boot:
            return self.booted_s - earlier.booted_s
        return self.at - earlier.at
