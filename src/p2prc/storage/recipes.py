"""How the large blobs here are cut, and where a piece lies that came as part of another blob.

A recipe is made once, in a thread, and kept beside the blobs. The index of pieces lives in memory
and is filled from the recipes of those blobs that are still here. Every method blocks and may be
called from any thread. Only importer of pyfastcdc (Xia et al., "The design of fast content-defined
chunking", 2020).
"""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from pathlib import Path

from blake3 import blake3

from p2prc.errors import FileUnknown, P2prcError, WireError
from p2prc.model.identity import BlobId
from p2prc.model.recipe import (
    PIECE_LEAST_BYTES,
    PIECE_MEAN_BYTES,
    PIECE_MOST_BYTES,
    Piece,
    Recipe,
    decode_recipe,
    is_cut,
)
from p2prc.model.tree import Tree
from p2prc.storage.blobs import BlobStore
from p2prc.storage.disk import telling_when_full
from p2prc.wire.codec import encode

_INDEXED_LIMIT = 200_000
_KNOWN_LIMIT = 64
_NAME = re.compile(r"[0-9a-f]{64}")
Place = tuple[BlobId, int, int]
"""A blob, an offset in it and a size, in bytes."""


class Recipes:
    """The recipes of one blob store."""

    def __init__(self, folder: Path, store: BlobStore) -> None:
        self._folder = folder
        self._store = store
        self._lock = threading.RLock()
        self._places: dict[BlobId, Place] = {}
        self._is_indexed = False
        self._known: OrderedDict[BlobId, Recipe] = OrderedDict()
        with telling_when_full("the recipes"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for file in folder.iterdir():
            if _NAME.fullmatch(file.name) is None or not store.has(BlobId(file.name)):
                file.unlink()

    def of(self, blob: BlobId, size_bytes: int) -> Recipe:
        """Return how a blob that is here is cut, making that out if need be.

        Raises FileUnknown, DiskFull, MachineCannot.
        """
        found = self.known(blob, size_bytes)
        if found is None:
            found = self._cut(blob)
            self.keep(blob, found)
        return found

    def known(self, blob: BlobId, size_bytes: int) -> Recipe | None:
        """Return how a blob of this size is cut where that is known already.

        The blob itself need not be here yet.
        """
        with self._lock:
            if (held := self._known.get(blob)) is not None:
                self._known.move_to_end(blob)
                return held
        try:
            recipe = decode_recipe(self._path(blob).read_bytes(), size_bytes=size_bytes)
        except (OSError, P2prcError):
            return None
        self._note(blob, recipe)
        return recipe

    def keep(self, blob: BlobId, recipe: Recipe) -> None:
        """Keep how a blob is cut."""
        with telling_when_full("a recipe"):
            # Two readers may ask for one at the same time.
            unfinished = self._path(blob).with_suffix(f".{secrets.token_hex(4)}")
            unfinished.write_bytes(encode(recipe))
            unfinished.replace(self._path(blob))
        self._note(blob, recipe)

    def forget(self, blob: BlobId) -> None:
        """Forget how a blob is cut: that was wrong."""
        with self._lock:
            self._known.pop(blob, None)
        self._path(blob).unlink(missing_ok=True)

    def plan(self, tree: Tree) -> list[Piece] | None:
        """Return the pieces of a tree in order, without repetition; None if a cut is unknown."""
        found: dict[BlobId, Piece] = {}
        for entry in tree.files:
            if not is_cut(entry.size_bytes):
                if entry.size_bytes:
                    found.setdefault(entry.blob, Piece(entry.blob, entry.size_bytes))
                continue
            recipe = self.known(entry.blob, entry.size_bytes)
            if recipe is None:
                return None
            for piece in recipe.pieces:
                found.setdefault(piece.blob, piece)
        return list(found.values())

    def has(self, piece: BlobId) -> bool:
        """Whether a piece is here, by itself or in a blob."""
        return self._store.has(piece) or self.place_of(piece) is not None

    def place_of(self, piece: BlobId) -> Place | None:
        """Return where a piece lies in a blob that is here."""
        with self._lock:
            place = self._places.get(piece)
            if place is None or not self._store.has(place[0]):
                return None
            return place

    def read(self, piece: BlobId) -> bytes:
        """Return a piece's content. Raises FileUnknown."""
        if self._store.has(piece):
            return self._store.read(piece)
        place = self.place_of(piece)
        if place is None:
            raise FileUnknown(f"the piece {piece[:10]} is not here")
        blob, offset, size_bytes = place
        with self._store.open(blob) as source:
            source.seek(offset)
            return source.read(size_bytes)

    def index_all(self) -> None:
        """Fill the index from all recipes, once: what of a changed file is here already."""
        with self._lock:
            if self._is_indexed:
                return
            self._is_indexed = True
        for file in self._folder.iterdir():
            if _NAME.fullmatch(file.name) and self._store.has(BlobId(file.name)):
                blob = BlobId(file.name)
                self.known(blob, self._store.size(blob))

    def _cut(self, blob: BlobId) -> Recipe:
        # Most nodes never cut anything, and it is a megabyte and a half.
        from pyfastcdc import FastCDC  # noqa: PLC0415

        cutter = FastCDC(PIECE_MEAN_BYTES, min_size=PIECE_LEAST_BYTES, max_size=PIECE_MOST_BYTES)
        path = self._store.path_of(blob)
        try:
            pieces = tuple(
                Piece(BlobId(blake3(chunk.data).hexdigest()), chunk.length)
                for chunk in cutter.cut_file(str(path))
            )
        except FileNotFoundError as error:
            raise FileUnknown(f"the blob {blob[:10]} is not here") from error
        return Recipe(pieces)

    def _note(self, blob: BlobId, recipe: Recipe) -> None:
        with self._lock:
            self._known[blob] = recipe
            while len(self._known) > _KNOWN_LIMIT:
                self._known.popitem(last=False)
            if not self._store.has(blob):
                # On its way: what it is made of may lie in another blob.
                return
            while len(self._places) + len(recipe.pieces) > _INDEXED_LIMIT and self._places:
                del self._places[next(iter(self._places))]
            offset = 0
            for piece in recipe.pieces:
                self._places[piece.blob] = (blob, offset, piece.size_bytes)
                offset += piece.size_bytes

    def _path(self, blob: BlobId) -> Path:
        if _NAME.fullmatch(blob) is None:
            raise WireError("not the name of a blob")
        return self._folder / blob
