"""An image that a peer sent: read, measured, and written anew without what engines should not see.

An engine trusts an archive with much: it takes names for its images from it, which could put a
stranger's program in the place of the owner's, and unpacks layers as root without a limit. So only
one manifest goes on, without names, with its configuration and its layers, regular files all; what
the layers would take on the disk is counted first.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
import zlib
from pathlib import Path
from typing import IO, Annotated

import msgspec
from msgspec import Meta

from p2prc.errors import DiskFull, PathInvalid

_MANIFEST = "manifest.json"
_TEXT_LIMIT_BYTES = 1 << 20
_MEMBERS_LIMIT = 10_000
_LAYERS_LIMIT = 127
_ENTRIES_LIMIT = 1_000_000
_ENTRY_COST_BYTES = 4096
"""What even an empty file takes: many of them are a flood too."""
_GZIP = b"\x1f\x8b"
_CHUNK_BYTES = 1 << 18
_TAR_ERRORS = (tarfile.TarError, EOFError, zlib.error, UnicodeError, OSError, ValueError)


_Name = Annotated[str, Meta(max_length=300)]
_LONG_HEADERS = (
    tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
    tarfile.XHDTYPE,
    tarfile.XGLTYPE,
    tarfile.SOLARIS_XHDTYPE,
)


class _Manifest(msgspec.Struct):
    config: _Name = msgspec.field(name="Config")
    layers: Annotated[list[_Name], Meta(max_length=_LAYERS_LIMIT)] = msgspec.field(name="Layers")


class _Entry(tarfile.TarInfo):
    """An entry whose own description is not read when it is long: it would be held in memory."""

    def _proc_member(self, tar: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _LONG_HEADERS and self.size > _TEXT_LIMIT_BYTES:
            raise tarfile.ReadError("a header is too long")
        found: tarfile.TarInfo = super()._proc_member(tar)  # type: ignore[misc]
        return found


def repack(archive: Path, sink: IO[bytes], limit_bytes: int) -> str:
    """Write the one image of the archive to the sink; return its digest, sha256 in hex.

    Raises PathInvalid for what is no image of one manifest, DiskFull for more than the limit.
    """
    try:
        with (
            tarfile.open(archive, "r:", tarinfo=_Entry) as tar,
            tarfile.open(fileobj=sink, mode="w") as out,
        ):
            members = _members(tar)
            manifest = _manifest(tar, members)
            config = _content(tar, members, manifest.config, _TEXT_LIMIT_BYTES)
            digest = hashlib.sha256(config).hexdigest()
            room = limit_bytes
            layers = [f"{number}.tar" for number in range(len(manifest.layers))]
            for layer in dict.fromkeys(manifest.layers):
                room -= _unpacked_bytes(_opened(tar, members, layer), room)
            shown = [{"Config": f"{digest}.json", "RepoTags": None, "Layers": layers}]
            _add(out, _MANIFEST, json.dumps(shown).encode())
            _add(out, f"{digest}.json", config)
            for name, layer in zip(layers, manifest.layers, strict=True):
                entry = tarfile.TarInfo(name)
                entry.size = members[layer].size
                out.addfile(entry, _opened(tar, members, layer))
    except _TAR_ERRORS as error:
        raise PathInvalid(f"this is no image: {str(error)[:200]}") from error
    return digest


def _members(tar: tarfile.TarFile) -> dict[str, tarfile.TarInfo]:
    found: dict[str, tarfile.TarInfo] = {}
    for count, member in enumerate(tar):
        if count >= _MEMBERS_LIMIT:
            raise PathInvalid("an image's archive with so many files is refused")
        # What comes twice, or is a link or a hole, could be read differently by the engine.
        if member.isreg() and not member.sparse:
            if member.name in found:
                raise PathInvalid(f"`{member.name[:100]!a}` is twice in the image's archive")
            found[member.name] = member
    return found


def _manifest(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo]) -> _Manifest:
    content = _content(tar, members, _MANIFEST, _TEXT_LIMIT_BYTES)
    try:
        found = msgspec.json.decode(content, type=list[_Manifest])
    except msgspec.MsgspecError as error:
        raise PathInvalid(f"the image's manifest is broken: {error}") from error
    if len(found) != 1:
        raise PathInvalid("an archive of one image is wanted: `docker save NAME`")
    return found[0]


def _opened(tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str) -> IO[bytes]:
    member = members.get(name)
    source = None if member is None else tar.extractfile(member)
    if source is None:
        raise PathInvalid(f"the image's archive has no file {name[:100]!a}")
    return source


def _content(
    tar: tarfile.TarFile, members: dict[str, tarfile.TarInfo], name: str, limit_bytes: int
) -> bytes:
    content = _opened(tar, members, name).read(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise PathInvalid(f"{name[:100]!a} is too large in the image's archive")
    return content


def _unpacked_bytes(layer: IO[bytes], room: int) -> int:
    """Return what a layer takes when unpacked, holes filled. Raises DiskFull."""
    start = layer.read(4)
    layer.seek(0)
    if start.startswith(_GZIP):
        layer = io.BufferedReader(_Inflated(layer, room))
    elif not start.strip(b"\0"):
        return 0
    used = 0
    with tarfile.open(fileobj=layer, mode="r|", tarinfo=_Entry) as tar:
        for count, member in enumerate(tar):
            used += member.size + _ENTRY_COST_BYTES
            if used > room or count > _ENTRIES_LIMIT:
                raise DiskFull("the image is larger than this node takes from others")
            tar.members = []  # type: ignore[attr-defined]
    return used


class _Inflated(io.RawIOBase):
    """A compressed layer as it was, and no more of it than there is room for."""

    def __init__(self, source: IO[bytes], limit_bytes: int) -> None:
        self._source = source
        self._inflate = zlib.decompressobj(wbits=31)
        # Headers are not counted as content: a little more than the files.
        self._left = 2 * limit_bytes + _CHUNK_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while not self._inflate.eof:
            packed = self._inflate.unconsumed_tail or self._source.read(_CHUNK_BYTES)
            content = self._inflate.decompress(packed, len(buffer))
            if content:
                self._left -= len(content)
                if self._left < 0:
                    raise DiskFull("the image is larger than this node takes from others")
                buffer[: len(content)] = content
                return len(content)
            if not packed:
                break
        return 0


def _add(out: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    out.addfile(entry, io.BytesIO(content))
