"""Names of things: each kind of id is a type of its own, all are lower-case hexadecimal text."""

from __future__ import annotations

from random import Random
from typing import Annotated, NewType

from msgspec import Meta

NodeId = NewType("NodeId", str)
"""A node's Ed25519 public key, 64 hex digits: its only identity, and never reused."""
LeaseId = NewType("LeaseId", str)
"""Chosen by the requester, so that asking twice is asking once: 20 hex digits."""
JobId = NewType("JobId", str)
"""The hash of the job's description, cut to 20 hex digits."""
AttemptId = NewType("AttemptId", str)
"""One try of one task, `<job>-<step>-<task>-<attempt>`; unique for its submitter."""
BlobId = NewType("BlobId", str)
"""The BLAKE3 hash of some bytes, 64 hex digits."""

# Python's `$` also matches before a line end, and its `\d` every alphabet's digits.
_END = r"$(?!\n)"
_HEX_64 = Meta(pattern=r"^[0-9a-f]{64}" + _END)
_HEX_20 = Meta(pattern=r"^[0-9a-f]{20}" + _END)
NodeIdField = Annotated[NodeId, _HEX_64]
BlobIdField = Annotated[BlobId, _HEX_64]
LeaseIdField = Annotated[LeaseId, _HEX_20]
JobIdField = Annotated[JobId, _HEX_20]
_ATTEMPT = r"^[0-9a-f]{20}-[0-9]{1,4}-[0-9]{1,7}-[0-9]{1,9}"
AttemptIdField = Annotated[AttemptId, Meta(pattern=_ATTEMPT + _END)]
ShortText = Annotated[str, Meta(max_length=200)]

PREFIX_DIGITS = 6
"""The shortest prefix of an id that a person may type."""


def short(identity: str) -> str:
    """Return the first ten digits: enough for a person to tell nodes apart."""
    return identity[:10]


def random_id(rng: Random) -> str:
    """Return 20 hex digits; give `random.SystemRandom()` where nobody may guess it."""
    return f"{rng.getrandbits(80):020x}"
