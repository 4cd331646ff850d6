"""How much of a machine: what a node has, what a lease may use, what is free."""

from __future__ import annotations

from math import inf
from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.model.identity import ShortText

Bytes = Annotated[int, Meta(ge=0, le=1 << 60)]
Millis = Annotated[int, Meta(ge=0, le=1_000_000)]
"""Thousandths of a core."""
LONGEST_S = 366 * 86400
"""What is longer than this has no end."""
MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one lease may use at most; every number is enforced by the provider.

    `lifetime_s` None is a lease without an end of its own.
    """

    cpu_millis: Millis = 1000
    memory_bytes: Bytes = GIBIBYTE
    disk_bytes: Bytes = GIBIBYTE
    processes: Annotated[int, Meta(ge=1, le=100_000)] = 256
    lifetime_s: Annotated[float, Meta(gt=0, le=LONGEST_S)] | None = 7200.0
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0

    @property
    def lasts_s(self) -> float:
        """How long the lease lasts in seconds; endless, it is infinity."""
        return inf if self.lifetime_s is None else self.lifetime_s


def finite(seconds: float) -> float | None:
    """Return seconds as they are told to others: None for what has no end."""
    return None if seconds == inf else seconds


class Capacity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a node lends over all leases together, or what of it is free."""

    cpu_millis: Millis = 0
    memory_bytes: Bytes = 0
    disk_bytes: Bytes = 0
    gpus: Annotated[int, Meta(ge=0, le=64)] = 0

    def fits(self, limits: Limits) -> bool:
        """Say whether one more lease with these limits has room."""
        return (
            limits.cpu_millis <= self.cpu_millis
            and limits.memory_bytes <= self.memory_bytes
            and limits.disk_bytes <= self.disk_bytes
            and limits.gpus <= self.gpus
        )

    def minus(self, limits: Limits) -> Capacity:
        """Return what is left when one more lease has these limits; never below zero."""
        return Capacity(
            cpu_millis=max(0, self.cpu_millis - limits.cpu_millis),
            memory_bytes=max(0, self.memory_bytes - limits.memory_bytes),
            disk_bytes=max(0, self.disk_bytes - limits.disk_bytes),
            gpus=max(0, self.gpus - limits.gpus),
        )

    def times_it_fits(self, limits: Limits) -> int:
        """Return how many leases with these limits have room together."""
        counts = [self.cpu_millis // max(1, limits.cpu_millis)]
        counts.append(self.memory_bytes // max(1, limits.memory_bytes))
        counts.append(self.disk_bytes // max(1, limits.disk_bytes))
        if limits.gpus:
            counts.append(self.gpus // limits.gpus)
        return min(counts)


class Gpu(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A graphics card that can be lent."""

    name: ShortText
    memory_bytes: Bytes
    driver: ShortText = ""


class RuntimeOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A way to run work, and what it promises: `process` with tier `userns`, `none`, ...

    `limits` is `hard` where the kernel enforces memory exactly and `polled` where we look often.
    """

    name: ShortText
    tier: ShortText
    limits: ShortText = "polled"


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a lease used up to now, or a task up to its end."""

    cpu_s: float = 0.0
    cpu_percent: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    disk_bytes: int = 0
    processes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
