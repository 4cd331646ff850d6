"""`cp`: files into a container and out of it; either side may be a folder."""

from __future__ import annotations

import io
import os
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import click

from p2prc.api.connection import quoted
from p2prc.api.duplex_client import DuplexCall
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.errors import FileUnknown, MachineCannot, PathInvalid

_PIECE_BYTES = 256 * 1024


@command("cp")
@click.argument("source", metavar="SRC")
@click.argument("target", metavar="DST")
@click.pass_obj
def cp_command(invocation: Invocation, /, *, source: str, target: str) -> None:
    """Copy files into a container, or out of it.

    One of SRC and DST is LEASE:PATH, a file or folder below its working folder.
    A DST that is a folder, or ends with `/`, gets SRC under its own name.
    """
    there, here = _apart(source), _apart(target)
    if (there is None) == (here is None):
        raise click.UsageError("one of SRC and DST is LEASE:PATH, the other a path here")
    if there is not None:
        _get(invocation, *there, Path(target), into=target.endswith("/"))
    elif here is not None:
        _put(invocation, Path(source), *here)


def _apart(text: str) -> tuple[str, str] | None:
    lease, colon, path = text.partition(":")
    if not colon or not lease or "/" in lease or lease == ".":
        return None
    return lease, path.removeprefix("/work/") if path != "/work" else ""


def _put(invocation: Invocation, source: Path, lease: str, path: str) -> None:
    if not os.path.lexists(source):
        raise FileUnknown(f"there is no `{source}` here")
    folder, _, name = path.rpartition("/")
    name = name if name not in ("", ".") else source.resolve().name
    call = DuplexCall(
        invocation.home, f"/v1/containers/{quoted(lease)}/files?folder={quoted(folder)}"
    )
    sending = threading.Thread(target=_send, args=(call, source, name), daemon=True)
    try:
        sending.start()
        for _ in call.answer():
            pass
    finally:
        call.close()


def _send(call: DuplexCall, source: Path, name: str) -> None:
    try:
        with tarfile.open(fileobj=_Sink(call), mode="w|", bufsize=_PIECE_BYTES) as archive:
            archive.add(source, arcname=name, filter=_plain)
        call.end()
    except OSError:
        # The node refused: its answer says why.
        return


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    if entry.isfile() or entry.isdir():
        return entry
    note(f"left out, as it is neither a file nor a folder: {entry.name}")
    return None


class _Sink(io.RawIOBase):
    """Where an archive is written to."""

    def __init__(self, call: DuplexCall) -> None:
        self._call = call

    def write(self, content: object) -> int:
        piece = bytes(content)  # type: ignore[call-overload]
        self._call.send(piece)
        return len(piece)


def _get(invocation: Invocation, lease: str, path: str, target: Path, *, into: bool) -> None:
    call = DuplexCall(
        invocation.home,
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
