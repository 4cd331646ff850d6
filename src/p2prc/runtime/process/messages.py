"""What the daemon and a lease's supervisor say to each other over their socket.

One packet is one message: JSON `[name, field, ...]`, with file descriptors beside it. What does
not fit into a packet travels in a memory file. Both ends are ours; what comes from inside the
sandbox never has this form.
"""

from __future__ import annotations

import array
import json
import os
import socket
from typing import NamedTuple

PACKET_LIMIT_BYTES = 60 * 1024
MESSAGE_LIMIT_BYTES = 4 << 20
_FDS_LIMIT = 4
_IN_MEMORY_FILE = b"@"
BARE_TIERS = ("landlock", "none")
"""Tiers whose commands see the host's folders, so that theirs are where they are outside."""


class Start(NamedTuple):
    """Make a sandbox. `uid` 0 keeps the daemon's own user, which is then not root.

    `registry` is the folder where a lease that outlives its node for `keeps_s` seconds is found
    by the next one, under `name`; "" for one that ends with its node. `volumes` are folders of
    the host that the tenant may write to, and where they appear.
    """

    folder: str
    tier: str
    is_isolated: bool
    environment: str
    interpreter: str
    prefix: str
    assets: str
    bwrap: str
    uid: int
    memory_bytes: int
    disk_bytes: int
    processes: int
    gpus: int
    lifetime_s: float
    has_sessions: bool
    registry: str
    name: str
    keeps_s: float
    listens_at: int
    volumes: list[list[str]]


class Execute(NamedTuple):
    """Run a command; two or three descriptors come along: its output, its errors, its input.

    With `has_terminal` all three are the same terminal.
    """

    number: int
    argv: list[str]
    variables: dict[str, str]
    timeout_s: float | None
    cores: list[int]
    has_terminal: bool


class Adopt(NamedTuple):
    """Serve this node from now on; its first word to a lease that outlived the last one."""


class Cancel(NamedTuple):
    """Kill the command with this number if it still runs."""

    number: int


class Reset(NamedTuple):
    """Empty the working folder and /tmp."""

    number: int


class Measure(NamedTuple):
    """Tell what the sandbox uses."""

    number: int


class Dial(NamedTuple):
    """Make a socket of this address family in the sandbox's network."""

    number: int
    family: int


class UseCores(NamedTuple):
    """Move what runs to these cores."""

    cores: list[int]


class Suspend(NamedTuple):
    """Stop the tenant's processes, or let them go on."""

    is_suspended: bool


class End(NamedTuple):
    """Kill everything, delete the folder and go."""


class Ready(NamedTuple):
    """The sandbox takes commands; the supervisor's own pidfd comes along."""

    inputs: str
    work: str


class Listening(NamedTuple):
    """A socket that listens inside, at the loopback, comes along; it replaces the one before."""


NO_SPACE = "no space is left on the node's disk"


class Unable(NamedTuple):
    """The sandbox cannot be made."""

    reason: str


class Exited(NamedTuple):
    """A command ended; `status` is None unless it ended by itself."""

    number: int
    status: int | None
    code: str
    reason: str
    cpu_s: float
    cpu_percent: float
    memory_peak_bytes: int
    disk_bytes: int


class Done(NamedTuple):
    """A reset is done; `reason` says why not."""

    number: int
    reason: str


class Dialed(NamedTuple):
    """The socket comes along, not connected; or `reason` says why there is none."""

    number: int
    reason: str


class Measured(NamedTuple):
    """What the sandbox uses now and used up to now."""

    number: int
    cpu_s: float
    cpu_percent: float
    memory_bytes: int
    memory_peak_bytes: int
    disk_bytes: int
    processes: int


class Ended(NamedTuple):
    """The sandbox is gone and so is its folder."""

    code: str
    reason: str


Message = (
    Start
    | Adopt
    | Listening
    | Execute
    | Cancel
    | Reset
    | Measure
    | Dial
    | Dialed
    | UseCores
    | Suspend
    | End
    | Ready
    | Unable
    | Exited
    | Done
    | Measured
    | Ended
)
_TYPES: dict[str, type[Message]] = {
    kind.__name__: kind
    for kind in (
        Start,
        Adopt,
        Listening,
        Execute,
        Cancel,
        Reset,
        Measure,
        Dial,
        Dialed,
        UseCores,
        Suspend,
        End,
        Ready,
        Unable,
        Exited,
        Done,
        Measured,
        Ended,
    )
}


class Garbled(Exception):
    """A packet that is no message: the other end is broken."""


def send(channel: socket.socket, message: Message, fds: tuple[int, ...] = ()) -> None:
    """Send one message; raises OSError when the other end is gone."""
    content = json.dumps([type(message).__name__, *message]).encode()
    if len(content) <= PACKET_LIMIT_BYTES:
        _send_packet(channel, content, fds)
        return
    if len(content) > MESSAGE_LIMIT_BYTES:
        raise Garbled(f"a message of {len(content)} bytes")
    memory = os.memfd_create("p2prc-message", os.MFD_CLOEXEC)
    try:
        with os.fdopen(memory, "wb", closefd=False) as file:
            file.write(content)
        _send_packet(channel, _IN_MEMORY_FILE, (memory, *fds))
    finally:
        os.close(memory)


def receive(channel: socket.socket) -> tuple[Message, list[int]] | None:
    """Return the next message and its descriptors, or None when the other end is gone."""
    content, received = receive_packet(channel)
    if not content:
        return None
    if content == _IN_MEMORY_FILE:
        content = _read_memory_file(received.pop(0))
    return _decode(content), received


def receive_packet(channel: socket.socket) -> tuple[bytes, list[int]]:
    """Return the next packet and its descriptors, which no command of ours inherits.

    `socket.recv_fds` does not take flags, whatever its signature says.
    """
    room = socket.CMSG_SPACE(_FDS_LIMIT * 4)
    content, ancillary, _, _ = channel.recvmsg(PACKET_LIMIT_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    fds = array.array("i")
    for level, kind, payload in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            fds.frombytes(payload[: len(payload) - len(payload) % fds.itemsize])
    return content, list(fds)


def _send_packet(channel: socket.socket, content: bytes, fds: tuple[int, ...]) -> None:
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
    channel.sendmsg([content], rights, socket.MSG_NOSIGNAL)


def _read_memory_file(memory: int) -> bytes:
    with os.fdopen(memory, "rb") as file:
        return os.pread(file.fileno(), MESSAGE_LIMIT_BYTES, 0)


def _decode(content: bytes) -> Message:
    try:
        name, *fields = json.loads(content)
        return _TYPES[name](*fields)
    except (ValueError, KeyError, TypeError) as error:
        raise Garbled(str(error)) from error
