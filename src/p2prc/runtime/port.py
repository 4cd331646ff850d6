"""What the rest of the house knows of a place to run things.

A runtime makes sandboxes; a sandbox runs commands and is ended. Bytes go in and out through two
folders of the lease that the provider fills and reads: `inputs` (read-only inside, at
/inputs) and `work` (the working folder, at /work). The tenant is another user when the node is
root: what is put into `inputs` must be readable for everyone, the folders above it need not be.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from p2prc.errors import RuntimeMissing
from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits, RuntimeOffer, Usage
from p2prc.model.tiers import Attack


class Feature(StrEnum):
    """What a tier of a runtime can do beyond running one command after another.

    A sandbox that is isolated has input alone, whatever its tier.
    """

    INPUT = "input"
    """Commands read what is written to them."""
    TERMINAL = "terminal"
    """Commands run on a terminal that can be resized."""
    DIAL = "dial"
    """Ports inside can be reached."""
    SESSIONS = "sessions"
    """Several commands at once; what one leaves in the background goes on."""
    IMAGE = "image"
    """The requester's choice of image."""
    VOLUMES = "volumes"
    """Folders that stay on the node between leases."""
    ADOPT = "adopt"
    """Sandboxes outlive the node, and the next one takes them up."""


@dataclass(frozen=True, slots=True)
class Terminal:
    """The size of a terminal in characters."""

    rows: int = 24
    columns: int = 80


@dataclass(frozen=True, slots=True)
class VolumeMount:
    """A folder of the host that the tenant may write to, and where it appears inside."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """What a sandbox needs. `folder` is the lease's own; the runtime makes what is missing in it.

    `environment` is a finished virtual environment (a `--target` folder), mounted read-only.
    With `is_isolated` every command gets a sandbox of its own. With `has_sessions` several
    commands run at once, and what one leaves in the background goes on until the sandbox ends.
    `image` "" is the runtime's own choice. `egress` is the Unix socket of this lease's proxy: it
    appears inside as 127.0.0.1:3128, and commands find it in their variables.
    """

    lease: LeaseId
    folder: Path
    limits: Limits
    tier: str
    environment: Path | None = None
    is_isolated: bool = False
    has_sessions: bool = False
    image: str = ""
    egress: Path | None = None
    volumes: tuple[VolumeMount, ...] = ()


def check_features(spec: SandboxSpec, offered: frozenset[Feature]) -> None:
    """Raise RuntimeMissing when the spec needs a feature that its tier has not."""
    if spec.has_sessions and Feature.SESSIONS not in offered:
        raise RuntimeMissing(f"the tier `{spec.tier}` runs one command at a time")
    if spec.image and Feature.IMAGE not in offered:
        raise RuntimeMissing(f"the tier `{spec.tier}` runs no images")
    if spec.volumes and Feature.VOLUMES not in offered:
        raise RuntimeMissing(f"the tier `{spec.tier}` keeps no volumes")


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

    async def write(self, content: bytes) -> None:
        """Give bytes to the command's input; returns when there is room for more.

        Bytes for a command that has closed its input or has ended are dropped.
        """
        ...

    async def end_input(self) -> None:
        """Say that nothing more comes. Calling twice is safe."""
        ...

    async def resize(self, terminal: Terminal) -> None:
        """Change the size of the command's terminal; nothing happens without one."""
        ...

    async def wait(self) -> Exit:
        """Wait for the end. By then no process of the command is alive, sessions aside."""
        ...

    async def cancel(self) -> None:
        """Kill it; `wait` then returns `lease-ended`. Calling twice is safe."""
        ...


class Link(Protocol):
    """Bytes both ways between us and a port inside a sandbox."""

    async def read(self) -> bytes:
        """Return what comes next; nothing once the other side has ended."""
        ...

    async def write(self, content: bytes) -> None:
        """Send bytes; returns when there is room for more. Raises OSError."""
        ...

    async def end_writing(self) -> None:
        """Say that nothing more comes from us; reading goes on."""
        ...

    async def close(self) -> None:
        """Let go of both directions. Twice is safe."""
        ...


class Sandbox(Protocol):
    """A place with limits, for one requester. One command at a time, sessions aside."""

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
        takes_input: bool = False,
        terminal: Terminal | None = None,
    ) -> Execution:
        """Start a command in the working folder; on a terminal it always takes input.

        A command that does not exist ends with `command-not-found`; it does not raise here.
        Raises RuntimeMissing for a feature that is not there.
        """
        ...

    async def dial(self, port: int) -> Link:
        """Open a connection to a port on the loopback inside; nothing is published.

        Raises PortClosed when nothing listens there, RuntimeMissing without the feature.
        """
        ...

    async def socket_inside(self) -> socket.socket:
        """Return a socket that was made in the sandbox's own network, for who has to find that.

        It is not connected. Raises RuntimeMissing where there is no such network, MachineCannot.
        """
        ...

    async def put_files(self, archive: AsyncIterator[bytes], folder: str = "") -> int:
        """Unpack a tar stream below a folder of the working folder; return the bytes of files.

        Files and folders only, within the disk limit. Raises PathInvalid, DiskFull.
        """
        ...

    def get_files(self, path: str = "") -> AsyncIterator[bytes]:
        """Yield a file or folder of the working folder as a tar stream of files and folders.

        Links and devices are left out. Raises PathInvalid, FileUnknown.
        """
        ...

    async def reset(self) -> None:
        """Empty the working folder and /tmp for the next command."""
        ...

    async def usage(self) -> Usage:
        """Return what the sandbox uses now, and its peaks."""
        ...

    async def suspend(self) -> None:
        """Stop every process until `resume`; memory, time and limits stay. Twice is safe."""
        ...

    async def resume(self) -> None:
        """Let what was suspended go on."""
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

    def features(self, tier: str) -> frozenset[Feature]:
        """Return what a tier of this runtime can do; empty for a tier that is not ours."""
        ...

    def unstopped(self, tier: str) -> frozenset[Attack]:
        """Return the attacks that a tier does not stop on this machine, for this user."""
        ...

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """Make a sandbox ready for commands.

        Raises MachineCannot (`RuntimeMissing`, ...), PolicyRefuses for an image.
        """
        ...

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        """Take up what is left of an earlier life of this node; end all of it that is not kept.

        What was suspended goes on.
        Returns those of `kept` that live. Their commands ended with the node that read them.
        """
        ...

    async def let_go(self) -> None:
        """Go without ending the sandboxes that `adopt` can take up; end all others."""
        ...

    async def close(self) -> None:
        """End every sandbox that is left."""
        ...
