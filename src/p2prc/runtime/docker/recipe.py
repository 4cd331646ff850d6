"""A folder from which an image is built: `Dockerfile`, `description.txt` and `ports.json`.

The last two may be missing; `ports.json` is a list of ports by name, as P2PRC's provider folders
have it: `{"PortSet": [{"PortName": "web", "InternalPort": 80}]}`, or plainly `{"web": 80}`.
"""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import PathInvalid
from p2prc.model.image import PORTS_LIMIT, Port, PortName

RECIPE = "Dockerfile"
_DESCRIPTION = "description.txt"
_PORTS = "ports.json"
_TEXT_LIMIT_BYTES = 64 * 1024
_DESCRIPTION_LIMIT = 500

LABEL_DESCRIPTION = "p2prc.description"
LABEL_PORTS = "p2prc.ports"
LABEL_BUILT = "p2prc.built"


_ports_decoder: msgspec.json.Decoder[dict[str, int]] = msgspec.json.Decoder(
    Annotated[dict[PortName, Port], Meta(max_length=PORTS_LIMIT)]
)


class _NamedPort(msgspec.Struct):
    name: PortName = msgspec.field(name="PortName")
    inside: Port = msgspec.field(name="InternalPort")


class _PortSet(msgspec.Struct):
    ports: Annotated[list[_NamedPort], Meta(max_length=PORTS_LIMIT)] = msgspec.field(name="PortSet")


def labels_of(folder: Path) -> dict[str, str]:
    """Return what the image will tell about itself. Raises PathInvalid."""
    if not (folder / RECIPE).is_file():
        raise PathInvalid(f"`{folder}` has no `{RECIPE}`")
    labels = {LABEL_BUILT: folder.name[:200]}
    if description := _text(folder / _DESCRIPTION).strip():
        labels[LABEL_DESCRIPTION] = " ".join(description.split())[:_DESCRIPTION_LIMIT]
    if ports := _ports(folder / _PORTS):
        labels[LABEL_PORTS] = msgspec.json.encode(ports).decode()
    return labels


def ports_of(label: str) -> dict[str, int]:
    """Return the ports that an image's label tells; nothing for one that is not ours."""
    try:
        return dict(_ports_decoder.decode(label or "{}"))
    except msgspec.MsgspecError:
        return {}


def pack_folder(folder: Path, sink: IO[bytes]) -> None:
    """Write the folder as a tar archive, links as links."""
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for path in sorted(folder.iterdir()):
            tar.add(path, arcname=path.name)


def _ports(path: Path) -> dict[str, int]:
    text = _text(path)
    if not text.strip():
        return {}
    try:
        found = msgspec.json.decode(text, type=_PortSet)
    except msgspec.MsgspecError as error:
        if not (plain := ports_of(text)):
            raise PathInvalid(f"`{path}` is no list of ports: {error}") from error
        return plain
    return {each.name: each.inside for each in found.ports}


def _text(path: Path) -> str:
    try:
        with path.open("rb") as source:
            return source.read(_TEXT_LIMIT_BYTES).decode("utf-8", "replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PathInvalid(f"`{path}` cannot be read: {error.strerror}") from error
