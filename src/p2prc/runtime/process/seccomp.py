"""A filter of system calls: a tenant may not take back the cores and priority it was given.

Any process may widen its own affinity and raise its disk priority again, so inside a sandbox
these calls do nothing. They answer "done" and not "denied", for libraries that pin their threads
take a refusal badly.
"""

from __future__ import annotations

import os
import struct

_LOAD = 0x20
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_ALLOW = 0x7FFF0000
_ANSWER_DONE = 0x00050000
_NUMBER_AT, _MACHINE_AT = 0, 4

_X86_64, _I386, _AARCH64, _ARM, _RISCV64 = (
    0xC000003E,
    0x40000003,
    0xC00000B7,
    0x40000028,
    0xC00000F3,
)
_X32 = 0x40000000
_CALLS: dict[str, dict[int, tuple[int, ...]]] = {
    "x86_64": {_X86_64: (203, 251, 203 | _X32, 251 | _X32), _I386: (241, 289)},
    "aarch64": {_AARCH64: (122, 30), _ARM: (241, 314)},
    "riscv64": {_RISCV64: (122, 30)},
}
"""The numbers of sched_setaffinity and ioprio_set, also by a machine's older names for them."""


def program(machine: str | None = None) -> bytes:
    """Return the filter as the kernel reads it; empty for a machine we do not know."""
    calls = _CALLS.get(machine or os.uname().machine)
    if calls is None:
        return b""
    words = [(_LOAD, 0, 0, _MACHINE_AT)]
    for architecture, numbers in calls.items():
        # Another architecture: skip its block, which is one load, the numbers and a return.
        words.append((_JUMP_IF_EQUAL, 0, 2 * len(numbers) + 2, architecture))
        words.append((_LOAD, 0, 0, _NUMBER_AT))
        for number in numbers:
            words.append((_JUMP_IF_EQUAL, 0, 1, number))
            words.append((_RETURN, 0, 0, _ANSWER_DONE))
        words.append((_RETURN, 0, 0, _ALLOW))
    words.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *word) for word in words)
