"""Whose fault an error is: the work's, which uses up a retry, or its node's, which does not."""

from __future__ import annotations

from p2prc.errors import (
    BY_CODE,
    LeaseEnded,
    MachineCannot,
    NotAllowed,
    NotFound,
    P2prcError,
    PeerError,
)

_NOT_THE_WORK = (LeaseEnded, MachineCannot, NotAllowed, NotFound, PeerError)


def is_fault_of_work(code: str) -> bool:
    """Say whether trying elsewhere uses up a retry; an unknown code does."""
    return not issubclass(BY_CODE.get(code, P2prcError), _NOT_THE_WORK)


def is_lacking(code: str) -> bool:
    """Say whether the peer no longer has, or no longer gives, what it promised."""
    return issubclass(BY_CODE.get(code, P2prcError), (NotFound, NotAllowed))


def is_connection_lost(code: str) -> bool:
    """Say whether the peer may still have what we asked for once it is back."""
    return code in ("peer-lost", "peer-unreachable", "peer-busy")


def is_passing(code: str) -> bool:
    """Say whether trying the same again later may work."""
    return BY_CODE.get(code, P2prcError).retryable
