"""Virtual environments as data: what the user asked for, and the lock that every node builds.

Only names, versions and hashes exist here. URLs, paths and installer options have no field to
live in, so a peer cannot smuggle one through.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from p2prc.model.identity import BlobId
from p2prc.wire.codec import encode


class LockedPackage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One exact version of one package, and the SHA-256 of every wheel that may be it."""

    name: Annotated[str, Meta(pattern=r"^[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?$(?!\n)")]
    version: Annotated[str, Meta(pattern=r"^[0-9A-Za-z.!+_-]{1,64}$(?!\n)")]
    sha256: Annotated[
        tuple[Annotated[str, Meta(pattern=r"^[0-9a-f]{64}$(?!\n)")], ...], Meta(min_length=1)
    ]
    marker: Annotated[str, Meta(max_length=400)] = ""


class EnvironmentLock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A whole environment: the Python minor version (`3.11`) and its packages, sorted by name."""

    python: Annotated[str, Meta(pattern=r"^3\.[0-9]{1,2}$(?!\n)")]
    packages: Annotated[tuple[LockedPackage, ...], Meta(max_length=500)]

    @property
    def digest(self) -> BlobId:
        """The name of the built environment: the same lock gives the same one."""
        return BlobId(blake3(encode(self)).hexdigest())
