"""The filters of system calls, run by an interpreter of our own for every machine we know."""

from __future__ import annotations

import errno
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.runtime.process.calls import MACHINES
from p2prc.runtime.process.seccomp import Around, program

ALLOWED = 0x7FFF0000
EVERY = [(machine, around) for machine in MACHINES for around in Around]


def verdict(filtered: bytes, architecture: int, number: int, argument: int = 0) -> int | str:
    """Return the errno that a call gets, 0 for "done", or "allowed"."""
    facts = struct.pack("=IIQQ", number, architecture, 0, argument)
    words = list(struct.iter_unpack("=HBBI", filtered))
    at, accumulator = 0, 0
    while True:
        code, yes, no, value = words[at]
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", facts, value)
            case 0x15:
                at += yes if accumulator == value else no
            case 0x35:
                at += yes if accumulator >= value else no
            case 0x45:
                at += yes if accumulator & value else no
            case 0x06:
                return "allowed" if value == ALLOWED else value & 0xFFFF
            case _:
                raise AssertionError(code)


@pytest.mark.parametrize(("machine", "around"), EVERY)
def test_calls_that_tenants_need_are_allowed_and_odd_ones_are_not(
    machine: str, around: Around
) -> None:
    architecture, numbers = MACHINES[machine]
    filtered = program(around, machine)

    def answer(name: str, argument: int = 0) -> int | str:
        return verdict(filtered, architecture, numbers[name], argument)

    for name in ("keyctl", "add_key", "mount", "unshare", "setns", "bpf", "perf_event_open"):
        assert answer(name) == errno.EPERM
    for name in ("clone3", "io_uring_setup", "io_uring_enter"):
        assert answer(name) == errno.ENOSYS
    assert answer("sched_setaffinity") == answer("ioprio_set") == 0
    assert answer("clone", 17) == answer("clone", 0x003D0F00) == "allowed"
    for flag in (0x00020000, 0x02000000, 0x04000000, 0x10000000, 0x20000000, 0x40000000):
        assert answer("clone", flag | 17) == errno.EPERM


@pytest.mark.parametrize(("machine", "around"), EVERY)
def test_sockets_are_those_of_a_network_of_ones_own_or_none(machine: str, around: Around) -> None:
    architecture, numbers = MACHINES[machine]
    filtered = program(around, machine)
    answers = [verdict(filtered, architecture, numbers["socket"], f) for f in range(64)]
    allowed = [family for family, answer in enumerate(answers) if answer == "allowed"]
    assert allowed == ([1, 2, 10, 16] if around is Around.NAMESPACES else [])


@pytest.mark.parametrize("machine", MACHINES)
def test_the_owners_own_user_is_guarded_further(machine: str) -> None:
    architecture, numbers = MACHINES[machine]

    def answers(around: Around, name: str, argument: int = 0) -> int | str:
        return verdict(program(around, machine), architecture, numbers[name], argument)

    assert answers(Around.ANOTHER_USER, "fchmodat") == "allowed"
    assert answers(Around.NOTHING, "fchmodat") == 0
    assert answers(Around.NOTHING, "prlimit64", 0) == "allowed"
    assert answers(Around.NOTHING, "prlimit64", 77) == errno.EPERM
    assert answers(Around.ANOTHER_USER, "prlimit64", 77) == "allowed"


@given(number=st.integers(0, 0xFFFFFFFF), argument=st.integers(0, 2**64 - 1))
def test_every_call_has_a_verdict(number: int, argument: int) -> None:
    for machine, around in EVERY:
        architecture, numbers = MACHINES[machine]
        answer = verdict(program(around, machine), architecture, number, argument)
        assert answer == "allowed" or number in numbers.values() or number >= 1 << 30


def test_another_architecture_is_refused() -> None:
    for machine, around in EVERY:
        for architecture in (0x40000003, 0x40000028, 0):
            assert verdict(program(around, machine), architecture, 1) == errno.ENOSYS
    assert verdict(program(machine="x86_64"), 0xC000003E, 0x40000001) == errno.ENOSYS


def test_an_unknown_machine_has_no_filter() -> None:
    assert program(machine="vax") == b""
