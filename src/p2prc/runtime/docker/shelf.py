"""The images of the engine: which are offered, and how others come here."""

from __future__ import annotations

import asyncio
import re
import tempfile
from collections.abc import AsyncIterator, Collection, Mapping
from pathlib import Path
from typing import Any

from p2prc.errors import MachineCannot, PathInvalid, PolicyRefuses
from p2prc.model.image import ImageOffer
from p2prc.model.likeness import guess
from p2prc.runtime.docker import images, recipe, sent
from p2prc.runtime.docker.engine import Engine, EngineRefused, Facts

ALL_IMAGES = "*"
SENT = "p2prc/sent"
"""What peers sent: named by its content, so that who does not have it cannot name it."""
_OFFERS_LIMIT = 200
_NAME = re.compile(r"[a-z0-9][a-z0-9._/:-]{0,199}")
_PULLED = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,199}")
_PIN = "@sha256:"


class Shelf:
    """Images by name. `names` are the owner's: `*` is all, `NAME@sha256:...` one and no other."""

    def __init__(self, engine: Engine, names: Collection[str]) -> None:
        self._engine = engine
        self._pins: dict[str, str] = {}
        self.offer(names)

    def offer(self, names: Collection[str]) -> None:
        """Let requesters name these from now on."""
        parted = (name.partition("@") for name in names)
        self._pins = {name: pin for name, _, pin in parted}

    async def digest_of(self, name: str) -> tuple[str, Facts]:
        """Return the digest of an offered image, and what the engine knows of it.

        A digest, so that the name can change hands meanwhile. Raises PolicyRefuses, MachineCannot.
        """
        plain, _, wanted = name.partition("@")
        is_sent = plain.startswith(f"{SENT}:")
        if not (is_sent or plain in self._pins or ALL_IMAGES in self._pins):
            raise PolicyRefuses(
                f"this node does not offer the image {name[:100]!a}",
                hint=guess(plain, self._pins, "see `p2prc images NODE`"),
            )
        found = await self._find(plain)
        digest = str(found["Id"])
        for pin in (wanted, self._pins.get(plain, "")):
            if pin and not _is_pinned(found, pin):
                raise PolicyRefuses(
                    f"the image {plain[:100]!a} is not the one that was pinned",
                    hint="see `p2prc images NODE`",
                )
        return digest, found

    async def offers(self, host: images.HostImage) -> tuple[ImageOffer, ...]:
        """Return what requesters may name and what is here of it."""
        offers = []
        if {images.HOST_IMAGE, ALL_IMAGES} & self._pins.keys():
            here = await self._engine.image(host.name)
            digest = "" if here is None else str(here["Id"])
            text = "this machine's own programs, seen read-only"
            offers.append(ImageOffer(images.HOST_IMAGE, digest, "machine", 0, text))
        names = [name for name in self._pins if name not in (ALL_IMAGES, images.HOST_IMAGE)]
        if ALL_IMAGES in self._pins:
            names += [name for name in await self._engine.image_names() if name not in names]
        for name in names:
            if name.startswith("p2prc/") or len(offers) >= _OFFERS_LIMIT:
                continue
            try:
                _, found = await self.digest_of(name)
            except (PolicyRefuses, MachineCannot):
                continue
            offers.append(_offer_of(name, found))
        return tuple(offers)

    async def look_up(self, name: str) -> ImageOffer:
        return _offer_of(name, await self._find(name))

    async def build(self, folder: Path, name: str) -> AsyncIterator[str]:
        if _NAME.fullmatch(name) is None or name.startswith("p2prc/"):
            raise PathInvalid(f"{name[:100]!a} cannot be an image's name")
        labels = await asyncio.to_thread(recipe.labels_of, folder)
        with tempfile.TemporaryFile() as context:
            await asyncio.to_thread(recipe.pack_folder, folder, context)
            context.seek(0)
            async for said in self._engine.build(context, name, labels):
                if text := _words(said):
                    yield text

    async def pull(self, name: str) -> AsyncIterator[str]:
        if _PULLED.fullmatch(name) is None:
            raise PathInvalid(f"{name[:100]!a} is not an image's name")
        try:
            async for said in self._engine.pull(name):
                if text := _words(said):
                    yield text
        except EngineRefused as error:
            raise MachineCannot(
                f"the image {name[:100]!a} was not fetched: {error.message}",
                hint="without a way to a registry: `p2prc images --build FOLDER`",
            ) from error

    async def take(self, archive: Path, *, limit_bytes: int) -> ImageOffer:
        with tempfile.TemporaryFile() as checked:
            digest = await asyncio.to_thread(sent.repack, archive, checked, limit_bytes)
            name = f"{SENT}:{digest[:32]}"
            if await self._engine.image(name) is None:
                checked.seek(0)
                await self._engine.load(checked)
                await self._engine.tag(f"sha256:{digest}", *name.split(":"))
        return ImageOffer(**{**_fields(await self.look_up(name)), "origin": "peer"})

    async def _find(self, name: str) -> Facts:
        try:
            found = await self._engine.image(name)
        except EngineRefused as error:
            raise MachineCannot(f"{name[:100]!a} is no image") from error
        if found is None:
            raise MachineCannot(
                f"the image {name[:100]!a} is not on this node", hint="see `p2prc images NODE`"
            )
        return found


def _is_pinned(found: Facts, pin: str) -> bool:
    digests = [str(each).partition("@")[2] for each in found.get("RepoDigests") or ()]
    return pin in (found["Id"], *digests)


def _offer_of(name: str, found: Facts) -> ImageOffer:
    labels = (found.get("Config") or {}).get("Labels") or {}
    origin = "built" if recipe.LABEL_BUILT in labels else "local"
    if found.get("RepoDigests"):
        origin = "registry"
    return ImageOffer(
        name=name,
        digest=str(found["Id"])[:200],
        origin=origin,
        size_bytes=int(found.get("Size") or 0),
        description=str(labels.get(recipe.LABEL_DESCRIPTION, ""))[:500],
        ports=recipe.ports_of(str(labels.get(recipe.LABEL_PORTS, ""))),
    )


def _fields(offer: ImageOffer) -> dict[str, Any]:
    return {name: getattr(offer, name) for name in offer.__struct_fields__}


def _words(said: Mapping[str, Any]) -> str:
    """Return one line of what the engine says while it works."""
    parts = [said.get("id", ""), said.get("stream", ""), said.get("status", "")]
    parts.append(said.get("progress", ""))
    return " ".join(" ".join(str(part) for part in parts if part).split())[:200]
