"""Images that a node offers for containers, as its owner and its peers see them."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from p2prc.model.identity import ShortText
from p2prc.model.resources import Bytes

PORTS_LIMIT = 32
Port = Annotated[int, Meta(ge=1, le=65535)]
PortName = Annotated[str, Meta(min_length=1, max_length=60)]


class ImageOffer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An image by the name that requesters give, pinned by the digest that it has now.

    `origin` tells where it came from: `machine` (this machine's own programs), `built`,
    `registry`, `peer`, or `local` where the engine does not say.
    """

    name: ShortText
    digest: ShortText
    origin: ShortText
    size_bytes: Bytes = 0
    description: Annotated[str, Meta(max_length=500)] = ""
    ports: Annotated[dict[PortName, Port], Meta(max_length=PORTS_LIMIT)] = {}
