"""A supervisor's two powers: that of the lease's user, and for moments that of the node."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator


@contextlib.contextmanager
def own_power(uid: int) -> Iterator[None]:
    """Be root again, where we were, for work on files by descriptor; `uid` 0 changes nothing."""
    if not uid:
        yield
        return
    os.seteuid(0)
    try:
        yield
    finally:
        os.seteuid(uid)


@contextlib.contextmanager
def out_of_reach(uid: int) -> Iterator[None]:
    """Be nothing but root, whom the processes of the lease's user cannot touch."""
    os.seteuid(0)
    os.setresuid(0, 0, 0)
    try:
        yield
    finally:
        os.setresuid(uid, uid, 0)
