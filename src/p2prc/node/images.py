"""Images of containers: what we offer, what others offer, and images that are sent."""

from __future__ import annotations

import asyncio
import logging
import time
from pathlib import Path

from p2prc.errors import MachineCannot, P2prcError, PathInvalid, PeerBusy, PolicyRefuses
from p2prc.model.identity import BlobId, NodeId
from p2prc.model.image import ImageOffer
from p2prc.model.tree import FileEntry, Tree
from p2prc.node.bulk import Bulk
from p2prc.node.grants import Grants
from p2prc.node.link import Answer
from p2prc.node.post import Post
from p2prc.node.tasks import Tasks
from p2prc.protocol.messages import AskImages, Images, ImageTaken, Refused, TakeImage
from p2prc.runtime.images import ImageShelf
from p2prc.storage.blobs import BlobStore

TAKING_S = 3600.0
_FILE = "image.tar"
_FRESH_S = 2.0

log = logging.getLogger(__name__)


class ImageDesk:
    """Answers for the images of this node. `takes_from` are who may send some; None: members."""

    def __init__(
        self,
        own: NodeId,
        shelf: ImageShelf | None,
        *,
        blobs: BlobStore,
        bulk: Bulk,
        grants: Grants,
        post: Post,
        tasks: Tasks,
    ) -> None:
        self._own = own
        self._shelf = shelf
        self._blobs = blobs
        self._bulk = bulk
        self._grants = grants
        self._post = post
        self._tasks = tasks
        self._taking: set[NodeId] = set()
        self._looking = asyncio.Lock()
        self._known: tuple[float, tuple[ImageOffer, ...]] = (0.0, ())
        self.takes_from: frozenset[NodeId] | None = frozenset()

    @property
    def shelf(self) -> ImageShelf:
        """The images of this machine's engine. Raises MachineCannot."""
        if self._shelf is None:
            raise MachineCannot(
                "no container engine answers on this machine", hint="see `p2prc doctor`"
            )
        return self._shelf

    async def of(self, node: NodeId) -> tuple[ImageOffer, ...]:
        """Return what a node offers. Raises PeerError."""
        return (await self._post.ask(node, AskImages(), Images)).offered

    async def send(self, node: NodeId, archive: Path) -> ImageOffer:
        """Give a node an image; return what it is called there. Raises PeerError, PathInvalid."""
        try:
            blob, size = await asyncio.to_thread(self._blobs.put_file, archive)
        except OSError as error:
            raise PathInvalid(f"`{archive}` cannot be read: {error.strerror}") from error
        tree = Tree(files=(FileEntry(_FILE, blob, size),))
        name = await asyncio.to_thread(self._blobs.put_tree, tree)
        reason = f"image-to-{node}-{name}"
        self._blobs.pin_tree(reason, tree)
        self._blobs.pin(reason, [name])
        self._grants.allow(node, name, reason=reason)
        try:
            said = await self._post.ask(node, TakeImage(name), ImageTaken, timeout_s=TAKING_S)
        finally:
            self._grants.revoke(reason)
            self._blobs.unpin(reason)
        return said.offer

    def letter(self, peer: NodeId, body: AskImages | TakeImage, answer: Answer) -> None:
        """Answer a peer, or this node itself."""
        match body:
            case AskImages():
                self._tasks.start(self._tell(answer), "images")
            case TakeImage():
                self._tasks.start(self._take(peer, body.tree, answer), "image of a peer")

    async def _tell(self, answer: Answer) -> None:
        if self._shelf is None:
            answer(Images())
            return
        try:
            # Whoever asks often costs little.
            async with self._looking:
                seen_at, offered = self._known
                if not seen_at or time.monotonic() - seen_at > _FRESH_S:
                    offered = await self._shelf.offered()
                    self._known = (time.monotonic(), offered)
        except P2prcError as error:
            answer(Refused(error.code, error.message, error.hint))
        else:
            answer(Images(offered))

    async def _take(self, peer: NodeId, name: BlobId, answer: Answer) -> None:
        try:
            self._see_allowed(peer)
            self._taking.add(peer)
            try:
                offer = await self._taken(peer, name)
            finally:
                self._taking.discard(peer)
        except P2prcError as error:
            answer(Refused(error.code, error.message, error.hint))
        else:
            log.info("an image was taken", extra={"peer": peer, "image": offer.name})
            answer(ImageTaken(offer))

    async def _taken(self, peer: NodeId, name: BlobId) -> ImageOffer:
        shelf, reason = self.shelf, f"image-of-{peer}-{name}"
        try:
            tree = await self._bulk.obtain_inputs(peer, name, reason)
            if [entry.path for entry in tree.files] != [_FILE]:
                raise PathInvalid("an image is sent as one file")
            archive = self._blobs.path_of(tree.files[0].blob)
            return await shelf.take(archive, limit_bytes=self._blobs.quota_bytes // 2)
        finally:
            self._blobs.unpin(reason)

    def _see_allowed(self, peer: NodeId) -> None:
        if peer != self._own and self.takes_from is not None and peer not in self.takes_from:
            raise PolicyRefuses(
                "the owner of this node takes no images from you", hint="see `p2prc images NODE`"
            )
        if peer in self._taking:
            raise PeerBusy("another image of yours is being taken")
