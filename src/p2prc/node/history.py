"""What was lent, to whom and how it ended: kept for the owner, written when a lease ends.

A killed node loses what its open leases used; nobody is billed by it.
"""

from __future__ import annotations

import logging
import time

from p2prc.errors import MachineCannot
from p2prc.node.places import Place
from p2prc.protocol.leases import LeaseView
from p2prc.storage.schema import EndedLease, PeerUsage
from p2prc.storage.state import State

RETENTION_S = 90 * 86400.0

log = logging.getLogger(__name__)


class History:
    """Writes ended leases and each peer's use, day by day."""

    def __init__(self, state: State) -> None:
        self._state = state

    def start(self) -> None:
        """Forget leases that ended long ago; each day's sums stay."""
        try:
            self._state.forget_leases_before(time.time() - RETENTION_S)
        except MachineCannot as error:
            log.warning("old leases were not forgotten", extra={"reason": error.message})

    def ended(
        self, place: Place, view: LeaseView, *, ended_by: str, reason: str, held_s: float
    ) -> None:
        """Keep that a lease has ended and what its commands used."""
        used, now_at = place.used, time.time()
        day = time.strftime("%Y-%m-%d", time.gmtime(now_at))
        lease = EndedLease(
            lease=view.lease,
            peer=view.peer,
            created_at=now_at - held_s,
            ended_at=now_at,
            ended_by=ended_by,
            reason=reason[:500],
            cpu_s=used.cpu_s,
        )
        peer = PeerUsage(view.peer, day, used.cpu_s, used.memory_byte_s, used.commands)
        try:
            self._state.add_ended_lease(lease)
            self._state.add_usage([peer])
        except MachineCannot as error:
            # The lease has ended all the same.
            log.warning("a lease's end was not kept", extra={"reason": error.message})
