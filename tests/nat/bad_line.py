"""A line that is slow and loses packets: two TAP devices, with a process that carries frames.

`bad_line.py NAMESPACE:INTERFACE NAMESPACE:INTERFACE DELAY_S LOSS` prints `ready` and works until
its standard input ends. Not every kernel has `netem`; this one works wherever TAP does, and draws
its losses from a seed.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import selectors
import struct
import sys
import time
from collections import deque
from pathlib import Path
from random import Random

_CLONE_NEWNET = 0x40000000
_TUNSETIFF = 0x400454CA
_TAP_WITHOUT_HEADER = 0x0002 | 0x1000
_FRAME_BYTES = 65536
_QUEUED = 4096
"""Frames on their way in one direction; what comes on top of them is lost, as in a router."""


def main(first: str, second: str, delay_s: float, loss: float) -> None:
    """Carry frames until standard input ends."""
    ends = [_tap(*first.split(":")), _tap(*second.split(":"))]
    queues: list[deque[tuple[float, bytes]]] = [deque(), deque()]
    rng = Random(0)
    watched = selectors.DefaultSelector()
    for number, end in enumerate(ends):
        watched.register(end, selectors.EVENT_READ, number)
    watched.register(0, selectors.EVENT_READ, None)
    print("ready", flush=True)
    while True:
        due = [queue[0][0] for queue in queues if queue]
        wait_s = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in watched.select(wait_s):
            if key.data is None:
                if not os.read(0, 4096):
                    return
                continue
            frame = os.read(key.fd, _FRAME_BYTES)
            queue = queues[1 - key.data]
            if rng.random() >= loss and len(queue) < _QUEUED:
                queue.append((time.monotonic() + delay_s, frame))
        now = time.monotonic()
        for end, queue in zip(ends, queues, strict=True):
            while queue and queue[0][0] <= now:
                _send(end, queue.popleft()[1])


def _send(end: int, frame: bytes) -> None:
    try:
        os.write(end, frame)
    except OSError:
        # The interface is down: nobody gets it.
        return


def _tap(namespace: str, interface: str) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    with Path(f"/run/netns/{namespace}").open() as there:
        if libc.setns(there.fileno(), _CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "setns")
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(end, _TUNSETIFF, struct.pack("16sH", interface.encode(), _TAP_WITHOUT_HEADER))
    return end


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
