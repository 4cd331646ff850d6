"""What the rest of the house knows of the images that containers may be made of."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol

from p2prc.model.image import ImageOffer


class ImageShelf(Protocol):
    """The images of this machine's engine. Every method raises MachineCannot."""

    async def offered(self) -> tuple[ImageOffer, ...]:
        """Return what requesters may name, the machine's own image first."""
        ...

    async def look_up(self, name: str) -> ImageOffer:
        """Return an image that is here, offered or not."""
        ...

    def build(self, folder: Path, name: str) -> AsyncIterator[str]:
        """Build an image from a folder with a Dockerfile; yields what the engine says.

        Raises PathInvalid for a folder that is none.
        """
        ...

    def pull(self, name: str) -> AsyncIterator[str]:
        """Fetch an image from its registry; yields how far it is."""
        ...

    async def take(self, archive: Path, *, limit_bytes: int) -> ImageOffer:
        """Take an image that a peer sent (`docker save`). Raises PathInvalid, DiskFull."""
        ...
