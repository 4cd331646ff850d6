"""A tree of files by content: what goes into a task and what comes out of it.

A tree is a flat, sorted manifest. There is no way to write a link, a device, an absolute path or
`..` in it: such names are refused here, once, for both ends.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from blake3 import blake3
from msgspec import Meta

from p2prc.errors import PathInvalid
from p2prc.model.identity import BlobId, BlobIdField
from p2prc.model.resources import Bytes
from p2prc.wire.codec import Codec, encode

TREE_LIMIT_BYTES = 16 << 20
FILES_LIMIT = 100_000
_PATH_LIMIT_BYTES = 1024
_PART_LIMIT_BYTES = 255


class FileEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """One regular file: its path with `/` between parts, its content's name and its size."""

    path: str
    blob: BlobIdField
    size_bytes: Bytes
    is_executable: bool = False


class Tree(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Files sorted by path, and the folders that hold none."""

    files: Annotated[tuple[FileEntry, ...], Meta(max_length=FILES_LIMIT)] = ()
    empty_folders: Annotated[tuple[str, ...], Meta(max_length=FILES_LIMIT)] = ()

    @property
    def digest(self) -> BlobId:
        """The tree's own name: the hash of its manifest's canonical bytes."""
        return BlobId(blake3(encode(self)).hexdigest())

    @property
    def size_bytes(self) -> int:
        """What all files hold together."""
        return sum(entry.size_bytes for entry in self.files)


EMPTY_TREE = Tree()
_codec: Codec[Tree] = Codec(Tree, limit_bytes=TREE_LIMIT_BYTES)


def decode_tree(manifest: bytes) -> Tree:
    """Return the tree that a peer's manifest describes; raise `WireError` or `PathInvalid`."""
    tree = _codec.decode(manifest)
    check_tree(tree)
    return tree


def check_tree(tree: Tree) -> None:
    """Refuse names that leave the folder, repeat, or use a file as a folder: `PathInvalid`."""
    names = [entry.path for entry in tree.files] + list(tree.empty_folders)
    for name in names:
        check_path(name)
    if len(set(names)) != len(names):
        raise PathInvalid("a tree names one path twice")
    files = {entry.path for entry in tree.files}
    for name in names:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            if "/".join(parts[:depth]) in files:
                raise PathInvalid(f"a tree uses a file as a folder: {name[:80]!r}")


def check_path(path: str) -> None:
    """Refuse what is not a plain relative path below its folder: `PathInvalid`."""
    shown = repr(path[:80])
    try:
        encoded = path.encode()
    except UnicodeEncodeError as error:
        raise PathInvalid(f"a path that is not text: {shown}") from error
    if not path or len(encoded) > _PATH_LIMIT_BYTES:
        raise PathInvalid(f"an empty or overlong path: {shown}")
    if "\0" in path or "\\" in path:
        raise PathInvalid(f"a path with a forbidden character: {shown}")
    for part in path.split("/"):
        if part in ("", ".", "..") or len(part.encode()) > _PART_LIMIT_BYTES:
            raise PathInvalid(f"a path that leaves its folder or is absolute: {shown}")
