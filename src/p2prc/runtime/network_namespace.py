"""Open a port inside a sandbox from outside: a socket made in its network, connected from here.

Needs the right to enter the network of the process: root has it. A socket stays in the network
in which it was made, so a thread of ours goes in, makes one, and ends; no byte passes through
anything of ours inside.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Awaitable, Callable

from p2prc.errors import MachineCannot, PortClosed

_NETWORK = 0x40000000
_OUR_NETWORK = "/proc/self/ns/net"
_CONNECT_S = 5.0
_CHUNK_BYTES = 64 * 1024
_LOOPBACKS = ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1"))

_libc = ctypes.CDLL(None, use_errno=True)


class SocketLink:
    """A connection to a port inside, on a socket of ours."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected

    async def read(self) -> bytes:
        try:
            return await asyncio.get_running_loop().sock_recv(self._socket, _CHUNK_BYTES)
        except ConnectionResetError:
            return b""

    async def write(self, content: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._socket, content)

    async def end_writing(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    async def close(self) -> None:
        self._socket.close()


async def dial_in(network: str, port: int) -> SocketLink:
    """Connect to a port of the loopback in the network `network` (a path like /proc/1/ns/net).

    Raises PortClosed, MachineCannot.
    """

    async def make(family: int) -> socket.socket:
        return await asyncio.to_thread(_socket_in, network, family)

    return await dial_with(make, port)


async def listen_in(network: str, port: int) -> socket.socket:
    """Return a socket that listens at a port of the loopback in there. Raises MachineCannot."""
    made = await asyncio.to_thread(_socket_in, network, socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("127.0.0.1", port))
        made.listen(64)
    except OSError as error:
        made.close()
        reason = (error.strerror or str(error)).lower()
        raise MachineCannot(f"the sandbox's port {port} cannot be had: {reason}") from error
    return made


async def socket_in(network: str) -> socket.socket:
    """Return a socket that was made in there, unconnected. Raises MachineCannot."""
    return await asyncio.to_thread(_socket_in, network, socket.AF_INET)


async def dial_with(make: Callable[[int], Awaitable[socket.socket]], port: int) -> SocketLink:
    """Connect to a port on a socket that `make` makes, for an address family, in its network.

    Raises PortClosed, and what `make` raises.
    """
    if not 0 < port < 1 << 16:
        raise PortClosed(f"{port} is no port")
    for family, address in _LOOPBACKS:
        made = await make(family)
        made.setblocking(False)
        try:
            async with asyncio.timeout(_CONNECT_S):
                await asyncio.get_running_loop().sock_connect(made, (address, port))
        except OSError:
            made.close()
        except BaseException:
            made.close()
            raise
        else:
            return SocketLink(made)
    raise PortClosed(f"nothing listens at port {port} there")


def _socket_in(network: str, family: int) -> socket.socket:
    made: list[socket.socket | OSError] = []

    def enter() -> None:
        try:
            handle = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if os.fstat(handle).st_ino == os.stat(_OUR_NETWORK).st_ino:  # noqa: PTH116
                    # The process ended, and another one, of the host, has its number now.
                    raise OSError(errno.ESRCH, os.strerror(errno.ESRCH))
                if _libc.setns(handle, _NETWORK) != 0:
                    number = ctypes.get_errno()
                    raise OSError(number, os.strerror(number))
            finally:
                os.close(handle)
            made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK))
        except OSError as error:
            made.append(error)

    # A thread of its own, that ends: one of the pool would stay in there.
    inside = threading.Thread(target=enter, name="dial")
    inside.start()
    inside.join()
    (found,) = made
    if isinstance(found, OSError):
        reason = (found.strerror or str(found)).lower()
        raise MachineCannot(f"the sandbox's network cannot be entered: {reason}") from found
    return found
