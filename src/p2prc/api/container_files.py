"""Files into a container and out of it, through the running node: a tar archive each way."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from p2prc.api.connection import quoted
from p2prc.api.duplex_client import DuplexCall
from p2prc.errors import FileUnknown, MachineCannot, PathInvalid

_PIECE_BYTES = 256 * 1024


def put_files(
    home: str, source: Path, lease: str, path: str, *, on_left_out: Callable[[str], None]
) -> None:
    """Copy a file or folder to a path below the container's working folder.

    `on_left_out` gets the names of what is neither. Raises FileUnknown and what the node refuses.
    """
    if not os.path.lexists(source):
        raise FileUnknown(f"there is no `{source}` here")
    folder, _, name = path.rpartition("/")
    name = name if name not in ("", ".") else source.resolve().name
    call = DuplexCall(home, f"/v1/containers/{quoted(lease)}/files?folder={quoted(folder)}")
    sending = threading.Thread(target=_send, args=(call, source, name, on_left_out), daemon=True)
    try:
        sending.start()
        for _ in call.answer():
            pass
    finally:
        call.close()


def _send(call: DuplexCall, source: Path, name: str, on_left_out: Callable[[str], None]) -> None:
    def plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        if entry.isfile() or entry.isdir():
            return entry
        on_left_out(entry.name)
        return None

    try:
        with tarfile.open(fileobj=_Sink(call), mode="w|", bufsize=_PIECE_BYTES) as archive:
            archive.add(source, arcname=name, filter=plain)
        call.end()
    except OSError:
        # The node refused: its answer says why.
        return


class _Sink(io.RawIOBase):
    """Where an archive is written to."""

    def __init__(self, call: DuplexCall) -> None:
        self._call = call

    def write(self, content: object) -> int:
        piece = bytes(content)  # type: ignore[call-overload]
        self._call.send(piece)
        return len(piece)


def get_files(home: str, lease: str, path: str, target: Path, *, into: bool) -> None:
    """Copy a file or folder from below the container's working folder; `into` a folder or as it.

    Nothing is written outside `target`, whatever the archive holds. Raises MachineCannot,
    PathInvalid and what the node refuses.
    """
    call = DuplexCall(
        home,
        f"/v1/containers/{quoted(lease)}/files?path={quoted(path)}",
        method="GET",
    )
    last = path.rstrip("/").rpartition("/")[2] or lease
    top = target / last if into or target.is_dir() else target
    try:
        source = _Source(call.answer())
        with tarfile.open(fileobj=source, mode="r|") as archive:  # type: ignore[call-overload]
            for entry in archive:
                _unpack(archive, entry, top, skipped=1 if path.strip("./") else 0)
    except tarfile.TarError as error:
        raise MachineCannot("the files were cut short on their way") from error
    except OSError as error:
        raise MachineCannot(f"cannot write `{top}`: {error.strerror or error}") from error
    finally:
        call.close()


def _unpack(archive: tarfile.TarFile, entry: tarfile.TarInfo, top: Path, *, skipped: int) -> None:
    # The first name is that of what was asked for: here it has the name that was typed.
    inner = [part for part in entry.name.split("/") if part not in ("", ".")][skipped:]
    if ".." in inner or entry.name.startswith("/"):
        raise PathInvalid("the archive holds a path that leads outside")
    place = top.joinpath(*inner)
    for folder in (place, *place.parents):
        if folder == top.parent:
            break
        if folder.is_symlink():
            raise PathInvalid(f"`{folder}` is a link: nothing is written through it")
    if entry.isdir():
        place.mkdir(parents=True, exist_ok=True)
        return
    content = archive.extractfile(entry)
    if content is None:
        return
    with place.open("wb") as file:
        while piece := content.read(_PIECE_BYTES):
            file.write(piece)
    place.chmod(entry.mode & 0o777 | 0o600)


class _Source:
    """An archive that is read as it comes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = b""

    def read(self, size: int) -> bytes:
        while len(self._held) < size:
            piece = next(self._pieces, b"")
            if not piece:
                break
            self._held += piece
        content, self._held = self._held[:size], self._held[size:]
        return content
