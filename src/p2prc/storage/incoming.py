"""A blob on its way in: counted, hashed as it comes, and nothing until it is whole."""

from __future__ import annotations

import threading

from blake3 import blake3

from p2prc.errors import WireError
from p2prc.model.identity import BlobId
from p2prc.storage.disk import write_all


class Incoming:
    """A blob that is being written; it exists once its `incoming` block has ended well.

    A thread may still be writing when the block is left: closing waits for it, and what comes
    later is dropped, so that no write ever reaches a descriptor that now is another file.
    """

    def __init__(self, blob: BlobId, size_bytes: int, target: int) -> None:
        self.blob = blob
        self.size_bytes = size_bytes
        self._target = target
        self._hasher = blake3()
        self._written_bytes = 0
        self._is_open = True
        self._lock = threading.Lock()

    @property
    def missing_bytes(self) -> int:
        """How much is still to come."""
        return self.size_bytes - self._written_bytes

    def write(self, content: bytes | bytearray | memoryview) -> None:
        """Add some bytes; more than were announced are a `WireError`."""
        with self._lock:
            if not self._is_open:
                return
            if len(content) > self.missing_bytes:
                raise WireError(f"the blob {self.blob[:10]} is longer than announced")
            write_all(self._target, content)
            self._hasher.update(content)
            self._written_bytes += len(content)

    def close(self) -> None:
        """Take no more; the `incoming` block does this."""
        with self._lock:
            self._is_open = False

    def check(self) -> None:
        """Raise `WireError` unless this is what its name says."""
        if self.missing_bytes:
            raise WireError(f"the blob {self.blob[:10]} is shorter than announced")
        if self._hasher.hexdigest() != self.blob:
            raise WireError(f"the blob {self.blob[:10]} has other content than its name says")
