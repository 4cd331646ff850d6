"""What was lent, to whom and how it ended: kept for the owner, day by day.

Sums are written while leases run, so that a killed node loses seconds of them. A lease is counted
from readings of its sandbox, which only grow; what its commands reported is the least that counts,
because a short one may have ended between two readings.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace

from p2prc.errors import MachineCannot
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import Usage
from p2prc.node.places import Used
from p2prc.protocol.leases import LeaseView
from p2prc.storage.schema import EndedLease, PeerUsage
from p2prc.storage.state import State

RETENTION_S = 90 * 86400.0
USAGE_RETENTION_S = 400 * 86400.0
USAGE_ROWS_LIMIT = 50_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Counted:
    """What of one lease is in the sums already."""

    usage: Usage
    read_at: float
    memory_byte_s: float = 0.0
    commands: int = 0


class History:
    """Writes ended leases and each peer's use. `now` is the machine's clock, in seconds."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._counted: dict[LeaseId, _Counted] = {}
        self._sums: dict[tuple[str, str], PeerUsage] = {}
        self._forgotten_on = ""
        self.cpu_s = 0.0
        """Processor seconds that were counted in this life of the node."""

    def start(self) -> None:
        """Forget what ended long ago."""
        try:
            self._state.forget_leases_before(time.time() - RETENTION_S)
            self._forget_usage()
        except MachineCannot as error:
            log.warning("old leases were not forgotten", extra={"reason": error.message})

    def take_up(self, lease: LeaseId, usage: Usage, now: float) -> None:
        """Know a lease of an earlier life of this node: what it used is in the sums."""
        self._counted[lease] = _Counted(usage, now)

    def read(self, view: LeaseView, usage: Usage, used: Used, now: float) -> None:
        """Count what a lease used since it was read last."""
        before = self._counted.get(view.lease)
        is_new = before is None
        if before is None:
            before = _Counted(Usage(), now)
        cpu_s = max(usage.cpu_s, used.cpu_s, before.usage.cpu_s)
        byte_s = usage.memory_bytes * max(0.0, now - before.read_at)
        rx_bytes = max(usage.net_rx_bytes, before.usage.net_rx_bytes)
        tx_bytes = max(usage.net_tx_bytes, before.usage.net_tx_bytes)
        self.cpu_s += cpu_s - before.usage.cpu_s
        key = (view.peer, _day(time.time()))
        sums = self._sums.get(key) or PeerUsage(view.peer, key[1])
        self._sums[key] = PeerUsage(
            peer=view.peer,
            day=key[1],
            cpu_s=sums.cpu_s + cpu_s - before.usage.cpu_s,
            memory_byte_s=sums.memory_byte_s + byte_s,
            tasks=sums.tasks + max(0, used.commands - before.commands),
            disk_peak_bytes=max(sums.disk_peak_bytes, usage.disk_bytes),
            net_rx_bytes=sums.net_rx_bytes + rx_bytes - before.usage.net_rx_bytes,
            net_tx_bytes=sums.net_tx_bytes + tx_bytes - before.usage.net_tx_bytes,
            leases=sums.leases + is_new,
        )
        self._counted[view.lease] = _Counted(
            Usage(cpu_s=cpu_s, net_rx_bytes=rx_bytes, net_tx_bytes=tx_bytes),
            now,
            before.memory_byte_s + byte_s,
            max(used.commands, before.commands),
        )

    def save(self) -> None:
        """Write the sums; what cannot be written now is written the next time."""
        try:
            if self._sums:
                self._state.add_usage(self._sums.values())
                self._sums = {}
            self._forget_usage()
        except MachineCannot as error:
            log.warning("what peers used was not kept", extra={"reason": error.message})

    def usage(self, *, since_at: float) -> list[PeerUsage]:
        """Return what each peer used since the day of that instant (UTC seconds), in all."""
        self.save()
        found: dict[str, PeerUsage] = {}
        for row in self._state.usage(since_day=_day(since_at)):
            so_far = found.get(row.peer) or PeerUsage(row.peer, row.day)
            found[row.peer] = PeerUsage(
                peer=row.peer,
                day=so_far.day,
                cpu_s=so_far.cpu_s + row.cpu_s,
                memory_byte_s=so_far.memory_byte_s + row.memory_byte_s,
                tasks=so_far.tasks + row.tasks,
                disk_peak_bytes=max(so_far.disk_peak_bytes, row.disk_peak_bytes),
                net_rx_bytes=so_far.net_rx_bytes + row.net_rx_bytes,
                net_tx_bytes=so_far.net_tx_bytes + row.net_tx_bytes,
                leases=so_far.leases + row.leases,
            )
        return sorted(found.values(), key=lambda row: (-row.cpu_s, row.peer))

    def ended(
        self, view: LeaseView, usage: Usage, used: Used, *, ended_by: str, reason: str, now: float
    ) -> None:
        """Keep that a lease has ended, and what it used."""
        self.read(view, usage, used, now)
        counted = self._counted.pop(view.lease)
        key = (view.peer, _day(time.time()))
        if (missed := used.memory_byte_s - counted.memory_byte_s) > 0:
            sums = self._sums[key]
            self._sums[key] = replace(sums, memory_byte_s=sums.memory_byte_s + missed)
        now_at = time.time()
        lease = EndedLease(
            lease=view.lease,
            peer=view.peer,
            created_at=now_at - (now - view.created_at),
            ended_at=now_at,
            ended_by=ended_by,
            reason=reason[:500],
            cpu_s=counted.usage.cpu_s,
        )
        try:
            self._state.add_ended_lease(lease)
        except MachineCannot as error:
            # The lease has ended all the same.
            log.warning("a lease's end was not kept", extra={"reason": error.message})
        self.save()

    def ended_unseen(
        self, lease: LeaseId, peer: NodeId, *, created_at: float, ended_by: str, reason: str
    ) -> None:
        """Keep that a lease of the life before is gone; what it used is in the sums."""
        try:
            self._state.add_ended_lease(
                EndedLease(lease, peer, created_at, time.time(), ended_by, reason)
            )
        except MachineCannot as error:
            log.warning("a lease's end was not kept", extra={"reason": error.message})

    def end_of(self, peer: NodeId, lease: LeaseId) -> tuple[str, str] | None:
        """Return who ended a lease of this peer and why; None for one that is not kept."""
        try:
            return self._state.end_of_lease(peer, lease)
        except MachineCannot as error:
            log.warning("a lease's end was not read", extra={"reason": error.message})
            return None

    def _forget_usage(self) -> None:
        if self._forgotten_on != (today := _day(time.time())):
            oldest = _day(time.time() - USAGE_RETENTION_S)
            self._state.forget_usage(before_day=oldest, beyond=USAGE_ROWS_LIMIT)
            self._forgotten_on = today


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(at))
