"""A supervisor's first steps: make the lease's folders, give up root, build the place."""

# ruff: noqa: PTH101, PTH103, PTH120, S103, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import errno
import os
import socket

from p2prc.runtime.process import bubblewrap, kernel, staging
from p2prc.runtime.process.agency import Agency, Enclose
from p2prc.runtime.process.bare import BarePlace
from p2prc.runtime.process.bubble import bubblewrapped
from p2prc.runtime.process.caps import Caps
from p2prc.runtime.process.fence import Fence
from p2prc.runtime.process.isolated import IsolatedPlace
from p2prc.runtime.process.keeping import Keeping
from p2prc.runtime.process.lease import Supervisor, delete
from p2prc.runtime.process.messages import BARE_TIERS, NO_SPACE, Start, Unable, receive, send
from p2prc.runtime.process.namespaces import namespaced
from p2prc.runtime.process.places import Place, PlaceBroken
from p2prc.runtime.process.sessions import SessionsSupervisor
from p2prc.runtime.process.shared import SessionsPlace, SharedPlace

_MEBIBYTE = 1 << 20


def serve(channel: socket.socket) -> None:
    """Keep one lease from its first message to its end."""
    channel.settimeout(10)
    first = receive(channel)
    if first is None or not isinstance(first[0], Start):
        return
    start = first[0]
    parent = -1
    keeping = Keeping(start)
    try:
        above = os.path.dirname(start.folder)
        os.makedirs(above, mode=0o700, exist_ok=True)
        parent = os.open(above, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        keeping.open()
        place = _prepare(start)
        place.open()
    except (OSError, PlaceBroken) as error:
        if parent >= 0:
            delete(start, parent)
        keeping.forget()
        send(channel, Unable(_why(error)))
        return
    channel.settimeout(1)
    kind = SessionsSupervisor if start.has_sessions else Supervisor
    supervisor = kind(channel, start, place, parent, keeping)
    supervisor.greet()
    supervisor.run()


def _prepare(start: Start) -> Place:
    """Make the lease's folders, become the user that owns them, and choose the place."""
    os.makedirs(start.folder, mode=0o755, exist_ok=True)
    for name in ("inputs", "work", "tmp"):
        os.makedirs(f"{start.folder}/{name}", mode=0o755, exist_ok=True)
    if start.uid:
        os.chmod(start.folder, 0o755)
        os.chown(f"{start.folder}/work", start.uid, start.uid)
        os.chown(f"{start.folder}/tmp", start.uid, start.uid)
        needed = [start.folder, start.prefix, start.assets, start.bwrap, start.environment]
        needed += [source for source, _ in start.volumes]
        staging.make_reachable(path for path in needed if path)
    kernel.adopt_orphans()
    if start.uid:
        staging.become(start.uid)
    caps = Caps(start.memory_bytes, start.disk_bytes, start.processes, start.gpus > 0)
    walls = bubblewrap.Walls(
        start.folder,
        start.assets,
        start.prefix,
        start.environment,
        max(_MEBIBYTE, start.memory_bytes // 2),
        tuple((source, target) for source, target in start.volumes),
    )
    if start.tier in BARE_TIERS:
        return BarePlace(
            start.folder,
            caps,
            uid=start.uid,
            has_sessions=start.has_sessions,
            fence=Fence(walls, has_own_uid=start.uid != 0) if start.tier == "landlock" else None,
        )
    if start.is_isolated and start.tier == "userns":
        return IsolatedPlace(start.bwrap, walls, caps)
    agency = Agency(
        _enclosing(start, walls), caps, start.interpreter, has_sessions=start.has_sessions
    )
    if start.has_sessions:
        return SessionsPlace(agency)
    return SharedPlace(agency, is_isolated=start.is_isolated)


def _enclosing(start: Start, walls: bubblewrap.Walls) -> Enclose:
    """Return how this tier puts a command inside."""
    if start.tier == "unshare":
        return lambda command, fds: namespaced(walls, command, fds, start.uid)
    options = bubblewrap.options(walls, is_agent=True)
    return lambda command, fds: bubblewrapped(start.bwrap, options, command, fds)


def _why(error: OSError | PlaceBroken) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NO_SPACE
    return (error.strerror or str(error)).lower()
