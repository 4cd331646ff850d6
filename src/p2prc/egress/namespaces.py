"""Network namespaces by their descriptors: make one, and do something inside one.

Nothing has a name in the file system: what is not held open is gone, after a crash too.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import socket
import threading
from collections.abc import Callable
from typing import TypeVar

Value = TypeVar("Value")

_NEW_NETWORK = 0x40000000
_NAMESPACE_OF_SOCKET = 0x894C

_libc = ctypes.CDLL(None, use_errno=True)


def new_network() -> int:
    """Return a handle of a new network with nothing in it. Needs root; raises OSError."""

    def make() -> int:
        _check(_libc.unshare(_NEW_NETWORK))
        return os.open(_own(), os.O_RDONLY | os.O_CLOEXEC)

    return _in_thread(make)


def network_of(made_there: socket.socket) -> int:
    """Return a handle of the network in which a socket was made. Needs root; raises OSError."""
    return fcntl.ioctl(made_there.fileno(), _NAMESPACE_OF_SOCKET)


def inside(network: int, work: Callable[[], Value]) -> Value:
    """Do something in there and return what came of it. Raises OSError, and what `work` raises."""

    def go() -> Value:
        _check(_libc.setns(network, _NEW_NETWORK))
        return work()

    return _in_thread(go)


def is_ours(network: int) -> bool:
    """Say whether that is the network of this process itself."""
    ours = os.open(_own(), os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.fstat(network).st_ino == os.fstat(ours).st_ino
    finally:
        os.close(ours)


def _own() -> str:
    # A thread's own: the process's name for it is the first thread's.
    return f"/proc/self/task/{threading.get_native_id()}/ns/net"


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _in_thread(work: Callable[[], Value]) -> Value:
    """Run in a thread of its own, that ends: one of a pool would stay in there."""
    results: list[Value] = []
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.append(work())
        except BaseException as error:  # noqa: BLE001 - raised by who waits
            errors.append(error)

    thread = threading.Thread(target=run, name="in a network")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return results[0]
