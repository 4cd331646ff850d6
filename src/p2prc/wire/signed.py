"""Signed envelopes: original bytes, the key that signed them, and what they were signed as.

A value is kept and forwarded as the bytes its author signed, so a newer author's unknown fields
survive an older forwarder. The purpose is part of what is signed: a ticket can never be replayed
as a record.
"""

from __future__ import annotations

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from p2prc.errors import WireError

SIGNATURE_BYTES = 64
_PRIME = 2**255 - 19
_ORDER_8 = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
_WEAK_Y = frozenset({0, 1, _PRIME - 1, _PRIME, _PRIME + 1, _ORDER_8, _PRIME - _ORDER_8})
"""The y coordinates of points of small order, in every encoding: with such a key one signature
fits every text. (The same list as in libsodium's `ge25519_has_small_order`.)"""


class Envelope(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """Bytes and the signature over `purpose, NUL, bytes`."""

    author: bytes
    payload: bytes
    signature: bytes


def public_key_of(secret: bytes) -> bytes:
    """Return the 32-byte Ed25519 public key of a 32-byte seed."""
    return Ed25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw()


def sign(secret: bytes, purpose: str, payload: bytes) -> Envelope:
    """Sign the payload with a 32-byte Ed25519 seed."""
    key = Ed25519PrivateKey.from_private_bytes(secret)
    signature = key.sign(purpose.encode() + b"\0" + payload)
    return Envelope(key.public_key().public_bytes_raw(), payload, signature)


def verify(envelope: Envelope, purpose: str) -> bytes:
    """Return the payload when its author signed it for this purpose; else raise `WireError`."""
    verify_text(envelope.author, envelope.signature, purpose.encode() + b"\0" + envelope.payload)
    return envelope.payload


def verify_text(author: bytes, signature: bytes, text: bytes) -> None:
    """Raise `WireError` unless the author signed this text, in a protocol that is not ours."""
    if _is_weak(author):
        raise WireError("the author's key is no key")
    try:
        Ed25519PublicKey.from_public_bytes(author).verify(signature, text)
    except (InvalidSignature, ValueError) as error:
        raise WireError("the signature does not match its author") from error


def _is_weak(key: bytes) -> bool:
    return int.from_bytes(key, "little") & ((1 << 255) - 1) in _WEAK_Y
