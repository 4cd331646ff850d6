"""Which of a tree's pieces are here, as peers tell each other: a bit for each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from blake3 import blake3

from p2prc.errors import WireError
from p2prc.model.identity import BlobId
from p2prc.model.recipe import Piece


def plan_name(pieces: Sequence[Piece]) -> BlobId:
    """Return what names a list of pieces: both ends must mean the same one."""
    return BlobId(blake3("".join(piece.blob for piece in pieces).encode()).hexdigest())


def bits_of(has: Iterable[bool]) -> bytes:
    """Return a bit for each, the first one highest."""
    digits = "".join("1" if one else "0" for one in has)
    if not digits:
        return b""
    padded = digits.ljust(-(-len(digits) // 8) * 8, "0")
    return int(padded, 2).to_bytes(len(padded) // 8, "big")


def pieces_of_bits(pieces: Sequence[Piece], bits: bytes) -> set[BlobId]:
    """Return the pieces whose bits are set. Raises WireError for too few bits or too many."""
    if len(bits) != -(-len(pieces) // 8):
        raise WireError("not a bit for each piece")
    number = int.from_bytes(bits, "big")
    top = 8 * len(bits) - 1
    return {piece.blob for place, piece in enumerate(pieces) if number >> (top - place) & 1}
