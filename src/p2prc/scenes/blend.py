"""Which Blender wrote a `.blend`: its first bytes, plain or compressed; the only zstandard here.

The header is `BLENDER`, then `_` or `-` (the size of pointers), `v` or `V` (the byte order) and
three digits of the version (`405` is 4.5). From 5.0 on it is `BLENDER17-01v0500`: its own length,
the pointers, the format's version, the byte order and four digits. Files are compressed with gzip
before 3.0 and with Zstandard since. Nothing behind the header is read.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

import zstandard

from p2prc.errors import SceneInvalid

HEAD_BYTES = 256 * 1024
"""So much of a file is enough, also of a compressed one."""
_HEADER_BYTES = 32
_WINDOW_LIMIT_BYTES = 32 << 20
_GZIP = b"\x1f\x8b"
_ZSTANDARD = b"\x28\xb5\x2f\xfd"
_SKIPPED_FRAME = re.compile(rb"[\x50-\x5f]\x2a\x4d\x18")
_OLD = re.compile(rb"BLENDER[_-][vV]([0-9])([0-9]{2})")
_NEW = re.compile(rb"BLENDER([0-9]{2})-([0-9]{2})v([0-9]{2})([0-9]{2})")


@dataclass(frozen=True, slots=True, order=True)
class BlenderVersion:
    """A version without its last part, which does not change files: `4.5`."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


def read_version(head: bytes) -> BlenderVersion:
    """Return who wrote the file, from its first bytes. Raises `SceneInvalid`."""
    header = _plain(head[:HEAD_BYTES])
    if (old := _OLD.match(header)) is not None:
        return BlenderVersion(int(old[1]), int(old[2]))
    if (new := _NEW.match(header)) is not None:
        return BlenderVersion(int(new[3]), int(new[4]))
    raise SceneInvalid("it is not a Blender file: it does not begin like one")


def _plain(head: bytes) -> bytes:
    if head.startswith(_GZIP):
        try:
            return zlib.decompressobj(31).decompress(head, _HEADER_BYTES)
        except zlib.error as error:
            raise SceneInvalid("it is compressed, and damaged") from error
    if head.startswith(_ZSTANDARD) or _SKIPPED_FRAME.match(head):
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT_BYTES).stream_reader(
                head, read_across_frames=True
            )
            return bytes(reader.read(_HEADER_BYTES))
        except zstandard.ZstdError as error:
            raise SceneInvalid("it is compressed, and damaged") from error
    return head[:_HEADER_BYTES]
