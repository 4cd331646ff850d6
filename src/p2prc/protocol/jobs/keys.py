"""A job's key: whoever has it may follow the job and collect what it made.

The key is the job's id and the secret in its description. It is never shown: a reader proves to
one holder that it knows the secret, and what it says there is of no use elsewhere.
"""

from __future__ import annotations

import hmac
import re

from blake3 import blake3

from p2prc.model.identity import JobId, NodeId

_KEY = re.compile(r"([0-9a-f]{20})([0-9a-f]{16,40})", re.ASCII)
_CONTEXT = "p2prc 2026-11-23 job reader"


def job_key(job: JobId, secret: str) -> str:
    """Return the key of a job as a person gets it."""
    return f"{job}{secret}"


def read_job_key(typed: str) -> tuple[JobId, str] | None:
    """Return the job and its secret; None where this is no key."""
    found = _KEY.fullmatch(typed.strip())
    return None if found is None else (JobId(found[1]), found[2])


def proof_of(secret: str, *, asker: NodeId, holder: NodeId) -> bytes:
    """Return what shows this holder that the asker knows the secret."""
    key = blake3(secret.encode(), derive_key_context=_CONTEXT).digest()
    return blake3(f"{asker} {holder}".encode(), key=key).digest()


def is_proof(proof: bytes, secret: str, *, asker: NodeId, holder: NodeId) -> bool:
    """Whether the asker knows the secret."""
    return hmac.compare_digest(proof, proof_of(secret, asker=asker, holder=holder))
