"""The filter of system calls that containers get: what it lets through, and how it is told."""

from __future__ import annotations

import json
import platform

import pytest

from p2prc.runtime.docker import calls
from p2prc.runtime.docker.config import _security
from p2prc.runtime.process import seccomp


def test_nothing_that_the_sandbox_refuses_is_let_through() -> None:
    refused = set(seccomp._REFUSED) | set(seccomp._UNKNOWN)
    assert refused.isdisjoint(calls.allowed())
    assert {"socket", "clone", "personality"}.isdisjoint(calls.allowed())


def test_what_every_program_needs_is_let_through() -> None:
    needed = {"read", "write", "execve", "mmap", "futex", "openat", "exit_group", "wait4"}
    assert needed <= set(calls.allowed())
    assert len(calls.allowed()) == len(set(calls.allowed()))


def test_what_is_not_named_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    calls.profile.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    told = json.loads(calls.profile())
    assert told["defaultAction"] == "SCMP_ACT_ERRNO"
    assert told["architectures"] == ["SCMP_ARCH_AARCH64"]
    calls.profile.cache_clear()
    monkeypatch.setattr(platform, "machine", lambda: "vax")
    assert calls.profile() == ""
    calls.profile.cache_clear()


def test_an_engine_without_filters_is_asked_for_none() -> None:
    assert _security("") == ["no-new-privileges:true"]
    assert _security("{}") == ["no-new-privileges:true", "seccomp={}"]
