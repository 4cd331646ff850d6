"""What the rest of the house knows of a place to run things.

A runtime makes sandboxes; a sandbox runs one command at a time and is ended. Bytes go in and out
through two folders of the lease that the provider fills and reads: `inputs` (read-only inside, at
/inputs) and `work` (the working folder, at /work). The tenant is another user when the node is
root: what is put into `inputs` must be readable for everyone, the folders above it need not be.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits, RuntimeOffer, Usage


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox needs. `folder` is the lease's own; the runtime makes what is missing in it.

    `environment` is a finished virtual environment (a `--target` folder), mounted read-only.
    With `is_isolated` every command gets a sandbox of its own.
    """

    lease: LeaseId
    folder: Path
    limits: Limits
    tier: str
    environment: Path | None = None
    is_isolated: bool = False


@dataclass(frozen=True, slots=True)
class OutputChunk:
    """Some bytes that the command printed: `channel` 1 is its output, 2 its errors."""

    channel: int
    content: bytes


@dataclass(frozen=True, slots=True)
class Exit:
    """How a command ended.

    `status` is its exit status (128 + n after signal n), None when it could not be started or was
    ended from outside. `code` is "" for an end by itself, else an error's slug:
    `command-not-found`, `limit-exceeded`, `timed-out`, `lease-ended`, `disk-full`.
    """

    status: int | None
    code: str = ""
    reason: str = ""
    usage: Usage = field(default_factory=Usage)


class Execution(Protocol):
    """A running command. Leaving it unread slows the command down; it is never buffered whole."""

    def output(self) -> AsyncIterator[OutputChunk]:
        """Yield what the command prints until both streams are closed."""
        ...

    async def wait(self) -> Exit:
        """Wait for the end. By then no process of the command is alive."""
        ...

    async def cancel(self) -> None:
        """Kill it; `wait` then returns `lease-ended`. Calling twice is safe."""
        ...


class Sandbox(Protocol):
    """A place with limits, for one requester. One command at a time."""

    @property
    def spec(self) -> SandboxSpec: ...

    @property
    def inputs_path(self) -> str:
        """Where a command finds its inputs: `/inputs`, or a host folder without a sandbox."""
        ...

    @property
    def work_path(self) -> str:
        """Where a command runs: `/work`, or a host folder without a sandbox."""
        ...

    async def execute(
        self,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str],
        timeout_s: float | None = None,
    ) -> Execution:
        """Start a command in the working folder.

        A command that does not exist ends with `command-not-found`; it does not raise here.
        """
        ...

    async def reset(self) -> None:
        """Empty the working folder and /tmp for the next command."""
        ...

    async def usage(self) -> Usage:
        """Return what the sandbox uses now, and its peaks."""
        ...

    async def wait_ended(self) -> Exit:
        """Wait until the sandbox is gone by itself (its limit, its time, a crash) or by `end`."""
        ...

    async def end(self) -> None:
        """Kill everything in it and delete its folder. Within a second; twice is safe."""
        ...


class Runtime(Protocol):
    """One way to make sandboxes."""

    @property
    def name(self) -> str: ...

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        """Try, really, what works here, best tier first; empty when nothing does."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox ready for commands. Raises MachineCannot (`RuntimeMissing`, ...)."""
        ...

    async def close(self) -> None:
        """End every sandbox that is left."""
        ...
