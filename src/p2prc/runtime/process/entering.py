"""Make a socket in a sandbox's network, from outside.

A child of the supervisor goes in, for whoever is in cannot come back: as root directly, else by
way of the sandbox's user namespace, which is ours because we made it.
"""

from __future__ import annotations

import array
import os
import socket

from p2prc.runtime.process import kernel
from p2prc.runtime.process.messages import receive_packet

_WITHIN_S = 5.0


def socket_inside(init: int, family: int, *, is_root: bool, listens_at: int = 0) -> int:
    """Return a socket of the network of the process `init`. Raises OSError.

    It is not connected, or it listens at a port of the loopback in there.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        child = os.fork()
        if child == 0:
            _be_the_one_inside(theirs, init, family, is_root=is_root, listens_at=listens_at)
        theirs.close()
        ours.settimeout(_WITHIN_S)
        try:
            said, fds = receive_packet(ours)
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)
    if fds:
        return fds[0]
    number = int(said or b"0")
    raise OSError(number, os.strerror(number))


def _be_the_one_inside(
    answer: socket.socket, init: int, family: int, *, is_root: bool, listens_at: int
) -> None:
    """Go in and send a socket, in a child that was forked for it; does not return."""
    try:
        try:
            if is_root:
                os.seteuid(0)
            kernel.enter(init, with_users=not is_root)
            made = socket.socket(family, socket.SOCK_STREAM)
            if listens_at:
                made.bind(("127.0.0.1", listens_at))
                made.listen(128)
            rights = array.array("i", [made.fileno()])
            answer.sendmsg([b"+"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        except OSError as error:
            answer.send(b"%d" % (error.errno or 0))
    finally:
        os._exit(0)
