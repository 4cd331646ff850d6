"""Leases with sessions, on disk: what the node's next life needs to take them up."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import msgspec

from p2prc.errors import MachineCannot, WireError
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.moments import Moment
from p2prc.node.moment import moment
from p2prc.protocol.messages import RequestLease
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode

log = logging.getLogger(__name__)

_MOVED = "moved/"


class KeptLease(msgspec.Struct, frozen=True):
    """A lease that runs; `created_at` and `expires_at` are UTC seconds, `begun` is the first also
    by a clock that nobody sets. `main_status` counts once the main process has ended for good.
    """

    peer: NodeId
    request: RequestLease
    runtime: str
    tier: str
    created_at: float
    expires_at: float
    is_main_ended: bool = False
    main_status: int | None = None
    ports: tuple[int, ...] = ()
    begun: Moment | None = None

    @property
    def lease(self) -> LeaseId:
        return self.request.lease

    def age_s(self, now: Moment) -> float:
        """Return for how many seconds it has run."""
        return max(0.0, now.since(self.begun or Moment(self.created_at)))

    def left_s(self, now: Moment) -> float:
        """Return the seconds it has left; a clock that was set back gives it no more than all."""
        lasts_s = min(self.expires_at - self.created_at, self.request.workload.limits.lasts_s)
        return lasts_s - self.age_s(now)


_codec: Codec[KeptLease] = Codec(KeptLease, limit_bytes=8 << 20)


class KeptLeases:
    """Speaks leases where the storage speaks bytes. What cannot be written is only not kept."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._kept: dict[LeaseId, KeptLease] = {}
        self._moved: dict[LeaseId, tuple[int, int]] = {}

    def load(self) -> list[KeptLease]:
        """Return what the life before left; a row that cannot be read is forgotten."""
        for lease, content in self._state.kept_leases():
            try:
                kept = _codec.decode(content)
            except WireError as error:
                log.warning("a kept lease cannot be read", extra={"reason": error.message})
                self.forget(lease)
            else:
                self._kept[kept.lease] = kept
        return list(self._kept.values())

    def keep(
        self,
        peer: NodeId,
        request: RequestLease,
        *,
        runtime: str,
        tier: str,
        lifetime_s: float,
        ports: tuple[int, ...] = (),
    ) -> None:
        """Keep a lease that begins to run now."""
        now = moment()
        expires_at = now.at + lifetime_s
        self._write(
            KeptLease(peer, request, runtime, tier, now.at, expires_at, ports=ports, begun=now)
        )

    def moved(self) -> dict[LeaseId, tuple[int, int]]:
        """Return what went through the ways out of leases in the life before: in, and out."""
        found = {}
        for key, content in self._state.values().items():
            if key.startswith(_MOVED):
                received, _, sent = content.partition(b" ")
                if received.isdigit() and sent.isdigit():
                    found[LeaseId(key.removeprefix(_MOVED))] = (int(received), int(sent))
        return found

    def note_moved(self, moved: Mapping[LeaseId, tuple[int, int]]) -> None:
        """Keep what went through the ways out of leases that are kept; what is as it was is not
        written.
        """
        changed = {
            lease: amounts
            for lease, amounts in moved.items()
            if lease in self._kept and self._moved.get(lease, (0, 0)) != amounts
        }
        if not changed:
            return
        self._moved.update(changed)
        try:
            self._state.set_values(
                {f"{_MOVED}{lease}": b"%d %d" % amounts for lease, amounts in changed.items()}
            )
        except MachineCannot as error:
            log.warning("traffic is not kept over a restart", extra={"reason": error.message})

    def main_ended(self, lease: LeaseId, status: int | None) -> None:
        """Know that the main process of a lease does not begin again."""
        if (kept := self._kept.get(lease)) is not None:
            self._write(msgspec.structs.replace(kept, is_main_ended=True, main_status=status))

    def forget(self, lease: LeaseId) -> None:
        """Keep it no more: it ends."""
        self._kept.pop(lease, None)
        self._moved.pop(lease, None)
        try:
            self._state.forget_kept_lease(lease)
            if self._state.value(f"{_MOVED}{lease}") is not None:
                self._state.set_values({f"{_MOVED}{lease}": None})
        except MachineCannot as error:
            log.warning("a lease that ends was not forgotten", extra={"reason": error.message})

    def _write(self, kept: KeptLease) -> None:
        self._kept[kept.lease] = kept
        try:
            self._state.keep_lease(kept.lease, encode(kept))
        except MachineCannot as error:
            log.warning("a lease is not kept over a restart", extra={"reason": error.message})
