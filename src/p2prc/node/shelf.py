"""Outcomes of attempts that their submitters have not acknowledged yet, on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass

from p2prc.errors import WireError
from p2prc.model.identity import AttemptId, JobId, LeaseId, NodeId
from p2prc.model.workload import Outcome
from p2prc.storage.schema import HeldAttempt
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode

RETENTION_S = 7 * 86400.0
OUTCOMES_LIMIT = 2000
"""How many outcomes one peer may leave without acknowledging any, 16 KiB each at most."""
_codec: Codec[Outcome] = Codec(Outcome, limit_bytes=1 << 20)
_JOB_DIGITS = 20

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Shelved:
    """An outcome and whose it is."""

    peer: NodeId
    attempt: AttemptId
    outcome: Outcome


class AttemptShelf:
    """Speaks outcomes where the storage speaks bytes."""

    def __init__(self, state: State) -> None:
        self._state = state

    def put(self, peer: NodeId, lease: LeaseId, attempt: AttemptId, outcome: Outcome) -> None:
        """Keep an outcome through any crash. Raises DiskFull."""
        held = HeldAttempt(
            submitter=peer,
            id=attempt,
            job=JobId(attempt[:_JOB_DIGITS]),
            lease=lease,
            outcome=encode(outcome),
            outputs=outcome.outputs,
            ended_at=time.time(),
        )
        self._state.hold_attempt(held)

    def get(self, peer: NodeId, attempt: AttemptId) -> Outcome | None:
        """Return a kept outcome."""
        held = self._state.held_attempt(peer, attempt)
        found = list(_opened([held] if held is not None else []))
        return found[0].outcome if found else None

    def is_full_for(self, peer: NodeId) -> bool:
        """Whether a peer has left more outcomes here than it may."""
        return self._state.holds_at_least(peer, OUTCOMES_LIMIT)

    def all(self) -> list[Shelved]:
        """Return everything that is kept, and forget what nobody came for in a week."""
        self._state.forget_held_before(time.time() - RETENTION_S)
        return list(_opened(self._state.all_held_attempts()))

    def of_job(self, peer: NodeId, job: JobId) -> list[Shelved]:
        """Return what is kept of one peer's job."""
        return list(_opened(self._state.held_attempts(peer, job)))

    def remove(self, peer: NodeId, attempt: AttemptId) -> None:
        """Forget an outcome; forgetting what is not there is fine."""
        self._state.drop_attempts(peer, [attempt])


def _opened(several: Iterable[HeldAttempt]) -> Iterable[Shelved]:
    for held in several:
        try:
            yield Shelved(held.submitter, held.id, _codec.decode(held.outcome))
        except WireError as error:
            log.warning(
                "a kept outcome is unreadable", extra={"attempt": held.id, "reason": str(error)}
            )
