"""Who needs which blobs: what is pinned is never evicted.

A pin lasts until its owner lets go or the process ends. A tree may be kept past a restart too: a
small file named after the owner says which, and the store reads those at its start.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from p2prc.errors import InvalidInput
from p2prc.model.identity import BlobId
from p2prc.storage.disk import write_private

_OWNER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,199}")


class Pins:
    """Owners and what they hold; not safe for several threads by itself."""

    def __init__(self, notes: Path) -> None:
        self._notes = notes
        self._held: dict[str, set[BlobId]] = {}
        self._counts: Counter[BlobId] = Counter()

    def __contains__(self, blob: BlobId) -> bool:
        return blob in self._counts

    def pin(self, owner: str, blobs: Iterable[BlobId]) -> None:
        """Add to what the owner holds."""
        held = self._held.setdefault(owner, set())
        added = [blob for blob in dict.fromkeys(blobs) if blob not in held]
        held.update(added)
        self._counts.update(added)

    def unpin(self, owner: str) -> None:
        """Let go of all that the owner holds, kept trees included; twice is safe."""
        for blob in self._held.pop(owner, ()):
            self._counts[blob] -= 1
            if not self._counts[blob]:
                del self._counts[blob]
        if _OWNER.fullmatch(owner):
            (self._notes / owner).unlink(missing_ok=True)

    def keep(self, owner: str, tree: BlobId) -> None:
        """Note that the owner needs this tree also after a restart."""
        if _OWNER.fullmatch(owner) is None:
            raise InvalidInput(f"`{owner[:80]}` cannot own a kept tree")
        note = self._notes / owner
        names = note.read_text().split() if note.exists() else []
        if tree not in names:
            # No sync: this must survive a kill, and a power cut only costs work done twice.
            write_private(note, "\n".join([*names, tree]).encode(), sync=False)

    def kept(self) -> Iterator[tuple[str, str]]:
        """Yield owners and the trees they kept before the restart; the names are unchecked."""
        for note in sorted(self._notes.iterdir()):
            if _OWNER.fullmatch(note.name) is None:
                note.unlink()
                continue
            for tree in note.read_text(errors="replace").split():
                yield note.name, tree
