"""The home folder: what a node keeps on disk, where, and that one node at a time uses it.

The lock is the kernel's and ends with the process, so nothing stale can lock anybody out; the
process id in the lock file is only for the message.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import HomeBusy, HomeUnusable
from p2prc.storage.disk import telling_when_full, write_private
from p2prc.storage.removal import empty_folder

if sys.platform != "win32":
    import fcntl

log = logging.getLogger(__name__)

SOCKET_PATH_LIMIT_BYTES = 107
KEY_BYTES = 32
_KEY_TEXT = re.compile(rb"[0-9a-f]{64}\n?")
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


@dataclass(frozen=True, slots=True)
class Home:
    """Where everything is. Making one touches nothing."""

    folder: Path

    @property
    def lock(self) -> Path:
        """Held by the running node; contains its process id."""
        return self.folder / "lock"

    @property
    def key(self) -> Path:
        """The node's secret: who has it is this node."""
        return self.folder / "key"

    @property
    def config(self) -> Path:
        """Settings that a person may edit."""
        return self.folder / "config.toml"

    @property
    def state(self) -> Path:
        """The database."""
        return self.folder / "state.db"

    @property
    def blobs(self) -> Path:
        """Contents by hash."""
        return self.folder / "blobs"

    @property
    def leases(self) -> Path:
        """One folder a lease; emptied at every start, but for leases that are taken up."""
        return self.folder / "leases"

    @property
    def certificates(self) -> Path:
        """Those that were ordered for domains, with their keys and the account's."""
        return self.folder / "certificates"

    @property
    def environments(self) -> Path:
        """Finished virtual environments by the hash of their lock."""
        return self.folder / "environments"

    @property
    def log(self) -> Path:
        """What a detached node says."""
        return self.folder / "log"

    @property
    def socket(self) -> Path:
        """The control socket; outside the home when its path is longer than the kernel takes."""
        inside = self.folder / "socket"
        if len(os.fsencode(inside)) <= SOCKET_PATH_LIMIT_BYTES:
            return inside
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        # Not $TMPDIR: the command line must find it from another shell.
        return Path("/tmp") / f"p2prc-{_user()}-{name}" / "socket"  # noqa: S108 - ours alone, checked


@contextmanager
def open_home(folder: Path, *, keeps_leases: bool = False) -> Iterator[Home]:
    """Make the home if needed and hold it alone until the block ends.

    With `keeps_leases` the folders of leases stay, for whoever takes them up to judge.
    Raises `HomeUnusable` with the reason, or `HomeBusy` with the process that holds it.
    """
    home = Home(folder.expanduser().absolute())
    with _telling_why(home):
        make_private_folder(home.folder)
        lock = _take_lock(home)
    try:
        with _telling_why(home):
            for inner in (home.blobs, home.leases, home.environments, home.socket.parent):
                make_private_folder(inner)
            if not keeps_leases:
                _empty_leases(home)
        yield home
    finally:
        # The file stays: deleting it would let a third process lock a file of the same name.
        os.close(lock)


def node_secret(home: Home) -> bytes:
    """Return the node's 32-byte Ed25519 seed, made at the first call; the home must be held."""
    with _telling_why(home):
        try:
            text = _read_key(home.key)
        except FileNotFoundError:
            secret = secrets.token_bytes(KEY_BYTES)
            write_private(home.key, secret.hex().encode() + b"\n")
            return secret
    if _KEY_TEXT.fullmatch(text) is None:
        raise HomeUnusable(
            f"the key file `{home.key}` is damaged",
            hint="restore it from a backup; or move it away to become a new node",
        )
    return bytes.fromhex(text.decode())


def make_private_folder(folder: Path) -> None:
    """Make a folder only we can enter, or see that an existing one is so: `HomeUnusable`."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    status = folder.stat()
    if status.st_uid != _user():
        raise HomeUnusable(f"the folder `{folder}` belongs to another user (uid {status.st_uid})")
    if status.st_mode & _OTHERS:
        folder.chmod(0o700)


def _read_key(path: Path) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise HomeUnusable(f"the key `{path}` is not a plain file")
        if status.st_mode & _OTHERS or status.st_uid != _user():
            raise HomeUnusable(
                f"other users can read the key file `{path}`",
                hint=f"`chmod 600 {path}` if nobody did; else move it away to become a new node",
            )
        return os.read(descriptor, 4 * KEY_BYTES)
    finally:
        os.close(descriptor)


def _take_lock(home: Home) -> int:
    descriptor = os.open(home.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError as error:
        holder = os.pread(descriptor, 20, 0).strip()
        os.close(descriptor)
        named = f" (process {holder.decode()})" if holder.isdigit() else ""
        raise HomeBusy(f"another node runs in `{home.folder}`{named}") from error
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _empty_leases(home: Home) -> None:
    for problem in empty_folder(home.leases):
        log.warning("a leftover of an old lease stays", extra={"reason": problem})


@contextmanager
def _telling_why(home: Home) -> Iterator[None]:
    try:
        with telling_when_full(str(home.folder)):
            yield
    except (FileExistsError, NotADirectoryError) as error:
        raise HomeUnusable(f"`{error.filename or home.folder}` is not a folder") from error
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise HomeUnusable(f"`{error.filename or home.folder}` is a link") from error
        raise HomeUnusable(
            f"cannot use the home `{home.folder}`: {(error.strerror or str(error)).lower()}"
        ) from error


def _user() -> int:
    return os.geteuid() if hasattr(os, "geteuid") else 0
