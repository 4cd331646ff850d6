"""Who has sent how many bytes: messages, connections kept alive, and what relays forward."""

from __future__ import annotations

from p2prc.simulation import wire_costs
from p2prc.simulation.clock import VirtualClock


class Traffic:
    """Counts what each node's line carries out. Keep-alives are charged as time passes."""

    def __init__(self, count: int, clock: VirtualClock) -> None:
        self.messages_sent = 0
        self.relayed_bytes = 0.0
        self._clock = clock
        self._sent = [0.0] * count
        self._links = [0] * count
        self._charged_at = [0.0] * count
        self._total = 0.0
        self._open = 0
        self._total_at = 0.0

    def send(self, node: int, size_bytes: float) -> None:
        """The node sent so much."""
        self._sent[node] += size_bytes
        self._total += size_bytes

    def link_opened(self, one: int, other: int) -> None:
        """Both ends keep a connection alive from now on."""
        self._recount(one, 1)
        self._recount(other, 1)

    def link_closed(self, one: int, other: int) -> None:
        """They need to no longer."""
        self._recount(one, -1)
        self._recount(other, -1)

    def total(self) -> float:
        """Return what all have sent until now, in bytes."""
        self._charge_total()
        return self._total

    def per_node(self) -> list[float]:
        """Return what each has sent until now, in bytes."""
        for node in range(len(self._sent)):
            self._charge(node)
        return list(self._sent)

    def _recount(self, node: int, change: int) -> None:
        self._charge(node)
        self._charge_total()
        self._links[node] += change
        self._open += change

    def _charge(self, node: int) -> None:
        now = self._clock.now
        kept_s = self._links[node] * (now - self._charged_at[node])
        self._sent[node] += kept_s * wire_costs.KEEP_ALIVE_BYTES_PER_S
        self._charged_at[node] = now

    def _charge_total(self) -> None:
        now = self._clock.now
        kept_s = self._open * (now - self._total_at)
        self._total += kept_s * wire_costs.KEEP_ALIVE_BYTES_PER_S
        self._total_at = now
