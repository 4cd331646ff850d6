"""What the control API does with images: list, build, fetch, send."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

from p2prc.api import schema
from p2prc.errors import InvalidInput
from p2prc.model.identity import NodeId
from p2prc.model.image import ImageOffer
from p2prc.node.images import ImageDesk


def image_row(offer: ImageOffer) -> schema.ImageRow:
    """Return an image as the API shows it."""
    return schema.ImageRow(
        name=offer.name,
        digest=offer.digest,
        origin=offer.origin,
        size_bytes=offer.size_bytes,
        description=offer.description,
        ports=dict(offer.ports),
    )


async def bring_image(
    desk: ImageDesk, request: schema.ImageRequest, find: Callable[[str], NodeId]
) -> AsyncIterator[schema.ImageEvent]:
    """Do what is asked, telling how far it is. Raises P2prcError."""
    path = Path(request.path)
    if request.action != "pull" and not path.is_absolute():
        raise InvalidInput("the path of an image must be absolute")
    if request.action == "send":
        node = find(request.node)
        yield schema.ImageProgress(text="sending")
        yield schema.ImageBrought(image=image_row(await desk.send(node, path)))
        return
    if not request.name:
        raise InvalidInput("the image needs a name")
    name, shelf = request.name, desk.shelf
    async for text in shelf.build(path, name) if request.action == "build" else shelf.pull(name):
        yield schema.ImageProgress(text=text)
    yield schema.ImageBrought(image=image_row(await shelf.look_up(name)))
