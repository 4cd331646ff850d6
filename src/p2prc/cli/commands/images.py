"""`images`: what a node offers for containers; build, fetch and send images."""

from __future__ import annotations

from pathlib import Path

import click

from p2prc.api.schema import ImageBrought, ImageProgress, ImageRequest, ImageRow
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import size, table
from p2prc.errors import InvalidInput, PeerLost

_DIGEST_SHOWN = 19


@command("images")
@click.argument("node", default="", required=False)
@click.option(
    "--build",
    type=click.Path(exists=True, file_okay=False),
    metavar="FOLDER",
    help="Build an image here from a folder with a Dockerfile.",
)
@click.option("--pull", metavar="IMAGE", help="Fetch an image from its registry to this node.")
@click.option(
    "--send",
    type=click.Path(exists=True, dir_okay=False),
    metavar="FILE",
    help="Give NODE an image, a file made by `docker save`.",
)
@click.option("--name", default="", metavar="NAME", help="What the image that is built is called.")
@click.pass_obj
def images_command(
    invocation: Invocation,
    /,
    *,
    node: str,
    build: str | None,
    pull: str | None,
    send: str | None,
    name: str,
) -> None:
    """Show what containers can be made of on NODE; without NODE, here.

    What is built or fetched here is offered once the owner says so: `policy set lend.images`.
    The folder may tell more about the image in `description.txt` and `ports.json`.
    """
    if sum(given is not None for given in (build, pull, send)) > 1:
        raise InvalidInput("one of `--build`, `--pull` and `--send` at a time")
    if node and (build is not None or pull is not None):
        raise InvalidInput("images are built and fetched on this node alone")
    if build is not None:
        folder = Path(build).absolute()
        called = name or folder.name.lower()
        _offer(_bring(invocation, ImageRequest(action="build", name=called, path=str(folder))))
    elif pull is not None:
        _offer(_bring(invocation, ImageRequest(action="pull", name=pull)))
    elif send is not None:
        path = str(Path(send).absolute())
        _bring(invocation, ImageRequest(action="send", path=path, node=node))
    else:
        _show(invocation, invocation.client.images(node))


def _offer(image: ImageRow) -> None:
    note(f"offer it: `p2prc policy set lend.images host,{image.name}@{image.digest}`")


def _bring(invocation: Invocation, request: ImageRequest) -> ImageRow:
    for event in invocation.client.bring_image(request):
        match event:
            case ImageProgress(text=text):
                note(text)
            case ImageBrought(image=image):
                if invocation.as_json:
                    write_json(image)
                else:
                    write(_table([image]))
                return image
    raise PeerLost("the node did not say how it ended")


def _show(invocation: Invocation, images: list[ImageRow]) -> None:
    if invocation.as_json:
        write_json(images)
    elif images:
        write(_table(images))
    else:
        note("no images: containers need an engine, and an owner who offers some")


def _table(images: list[ImageRow]) -> str:
    rows = [
        (
            image.name,
            image.digest[:_DIGEST_SHOWN],
            image.origin,
            size(image.size_bytes) if image.size_bytes else "",
            " ".join(f"{name}:{port}" for name, port in sorted(image.ports.items())),
            image.description,
        )
        for image in images
    ]
    return table(("IMAGE", "DIGEST", "FROM", "SIZE", "PORTS", "DESCRIPTION"), rows)
