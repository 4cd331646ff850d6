"""The daemon's end of the registry: find what an earlier life of the node left, and end it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import socket
import time
from pathlib import Path
from typing import NamedTuple

from p2prc.runtime.process import folders
from p2prc.runtime.process.keeping import RECORD, SOCKET
from p2prc.runtime.process.messages import End, Garbled, receive, send

log = logging.getLogger(__name__)

_CALL_S = 5.0
_TRIES = 50
_PAUSE_S = 0.02


class LeftOver(NamedTuple):
    """A lease that was there when its node died."""

    name: str
    folder: str
    uid: int


def name_of(folder: str) -> str:
    """Return the name in the registry of the lease with this folder."""
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:20]


def left_over(registry: Path) -> list[LeftOver]:
    """Return the leases in the registry; what cannot be read there is thrown away."""
    found = []
    for path in sorted(registry.glob(f"*{RECORD}")):
        try:
            record = json.loads(path.read_bytes())
            folder, uid = str(record["folder"]), int(record["uid"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("a record of a lease is broken", extra={"reason": str(error)})
            path.unlink(missing_ok=True)
        else:
            found.append(LeftOver(path.name.removesuffix(RECORD), folder, uid))
    return found


def call(registry: Path, lease: LeftOver) -> socket.socket | None:
    """Return a line to the lease's supervisor, or None when it is dead."""
    line = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    line.settimeout(_CALL_S)
    try:
        folder = os.open(registry, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            line.connect(f"/proc/self/fd/{folder}/{lease.name}{SOCKET}")
        finally:
            os.close(folder)
    except OSError:
        line.close()
        return None
    line.setblocking(False)
    return line


def dismiss(line: socket.socket) -> None:
    """End a lease and wait until it is gone."""
    with line:
        line.settimeout(_CALL_S)
        with contextlib.suppress(OSError, Garbled):
            send(line, End())
            while (received := receive(line)) is not None:
                for descriptor in received[1]:
                    os.close(descriptor)


def bury(registry: Path, lease: LeftOver) -> None:
    """Delete what a lease that is gone may have left."""
    for _ in range(_TRIES):
        try:
            folders.remove(lease.folder)
        except OSError as error:
            log.debug("a leftover resists", extra={"reason": str(error)})
            time.sleep(_PAUSE_S)
        else:
            break
    else:
        log.warning("a folder is left over", extra={"folder": lease.folder})
        return
    for ending in (SOCKET, RECORD):
        (registry / f"{lease.name}{ending}").unlink(missing_ok=True)
