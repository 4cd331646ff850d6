"""The image that is always there: this machine's own programs, seen read-only.

It holds the small made-up /etc and the names of folders, a few kilobytes in all; /usr and the
node's interpreter are shown from the host when a container is made. What runs in it finds the
same as in the embedded sandbox, and no owner has to fetch or build anything.
"""

from __future__ import annotations

import hashlib
import io
import platform
import tarfile
from pathlib import Path
from typing import NamedTuple

HOST_IMAGE = "host"
"""What requesters call it."""
_REPOSITORY = "p2prc/host"
_FOLDERS = ("usr", "etc", "run", "var", "proc", "sys", "dev")
_MOUNT_POINTS = ("inputs", "work", "tmp", "environment")
_MERGED = ("bin", "sbin", "lib", "lib64", "lib32", "libx32")


class HostImage(NamedTuple):
    """A name that changes with the content, the archive, and the host folders it needs."""

    name: str
    archive: bytes
    shared: tuple[str, ...]


def host_image(assets: Path, prefix: str) -> HostImage:
    """Describe the image of this machine. `assets` has /etc and /run, `prefix` is Python's."""
    shared = ["/usr"]
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in (*_FOLDERS, *_MOUNT_POINTS):
            _folder(tar, name)
        for name in _MERGED:
            host = Path("/", name)
            if host.is_symlink():
                _link(tar, name, str(host.readlink()))
            elif host.is_dir():
                _folder(tar, name)
                shared.append(str(host))
        for part in ("etc", "run"):
            _tree(tar, assets / part, part)
        if prefix and prefix != "/usr" and not prefix.startswith("/usr/"):
            shared.append(prefix)
            for above in reversed([*Path(prefix).parents][:-1]):
                _folder(tar, str(above).lstrip("/"))
            _folder(tar, prefix.lstrip("/"))
    archive = sink.getvalue()
    digest = hashlib.sha256(archive).hexdigest()[:16]
    return HostImage(f"{_REPOSITORY}:{digest}", archive, tuple(shared))


def first_process() -> bytes:
    """Return the program that is the first process of every container, for this processor.

    Raises FileNotFoundError for a processor that we have none for.
    """
    return (Path(__file__).parent / "inside" / f"first-{platform.machine()}").read_bytes()


def _tree(tar: tarfile.TarFile, source: Path, name: str) -> None:
    for path in sorted(source.rglob("*")):
        inner = f"{name}/{path.relative_to(source)}"
        if path.is_symlink():
            _link(tar, inner, str(path.readlink()))
        elif path.is_dir():
            _folder(tar, inner)
        else:
            content = path.read_bytes()
            entry = tarfile.TarInfo(inner)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))


def _folder(tar: tarfile.TarFile, name: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, 0o755
    tar.addfile(entry)


def _link(tar: tarfile.TarFile, name: str, target: str) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname, entry.mode = tarfile.SYMTYPE, target, 0o777
    tar.addfile(entry)
