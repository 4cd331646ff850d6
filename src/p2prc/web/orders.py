"""What is asked of an authority for certificates, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

CHALLENGES = "/.well-known/acme-challenge/"


@dataclass(frozen=True, slots=True)
class Order:
    """A certificate for a domain, of the authority whose directory that is."""

    domain: str
    directory: str
    email: str
    account_key: Path


@dataclass(frozen=True, slots=True)
class Obtained:
    """A chain and its key, as PEM."""

    chain: bytes
    key: bytes


class OrderFailed(Exception):
    """There is none, and why."""


Obtain = Callable[[Order, MutableMapping[str, bytes]], Obtained]
