"""How a large blob is cut into pieces: peers that have some of them serve the others.

Cuts follow the content, so two files that differ in one place share all pieces but one or two.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from p2prc.errors import WireError
from p2prc.model.identity import BlobId, BlobIdField
from p2prc.wire.codec import Codec, encode

CUT_FROM_BYTES = 4 << 20
"""Blobs up to here are one piece."""
PIECE_LEAST_BYTES = 256 << 10
PIECE_MEAN_BYTES = 1 << 20
PIECE_MOST_BYTES = 4 << 20
PIECES_LIMIT = 200_000
RECIPE_LIMIT_BYTES = 16 << 20
_PieceSize = Annotated[int, Meta(ge=1, le=PIECE_MOST_BYTES)]


def is_cut(size_bytes: int) -> bool:
    """Whether a blob of this size comes in pieces."""
    return size_bytes > CUT_FROM_BYTES


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """A part of a blob: its content's name and its size. Each is a blob of its own."""

    blob: BlobIdField
    size_bytes: _PieceSize


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The pieces that make up a blob, in their order."""

    pieces: Annotated[tuple[Piece, ...], Meta(min_length=1, max_length=PIECES_LIMIT)]

    @property
    def digest(self) -> BlobId:
        """The recipe's own name: the hash of its canonical bytes."""
        return BlobId(blake3(encode(self)).hexdigest())

    @property
    def size_bytes(self) -> int:
        """What all pieces hold together."""
        return sum(piece.size_bytes for piece in self.pieces)


recipe_codec: Codec[Recipe] = Codec(Recipe, limit_bytes=RECIPE_LIMIT_BYTES)


def decode_recipe(content: bytes, *, size_bytes: int) -> Recipe:
    """Return the recipe that a peer tells of a blob of this size; raise `WireError`."""
    recipe = recipe_codec.decode(content)
    if recipe.size_bytes != size_bytes:
        raise WireError("the pieces of a blob are not as long as the blob")
    return recipe
