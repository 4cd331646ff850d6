"""Three nodes on this machine, started and stopped as a person would: by the command line."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import TypeVar

import click

from p2prc.api.client import ControlClient
from p2prc.api.schema import Status
from p2prc.cli.failures import note
from p2prc.errors import (
    MachineCannot,
    NodeNotRunning,
    P2prcError,
    PeerUnreachable,
    TimedOut,
    from_fields,
)

NAMES = ("ada", "grace", "linus")
NOT_ISOLATED = "none"
CONFIG_FILE = "config.toml"
COMMAND_TIMEOUT_S = 120.0
ALONE = ("--relay", "none", "--runtime", "process")
"""The demonstration needs no relay and no container engine, and shall not wait for either."""
MEETING_TIMEOUT_S = 20.0
_POLL_S = 0.05
_Made = TypeVar("_Made")


@dataclass(frozen=True, slots=True)
class DemoNode:
    """One node: its name and its home."""

    name: str
    home: Path

    @property
    def client(self) -> ControlClient:
        return ControlClient(str(self.home))

    def p2prc(self, *arguments: str, stdin: str = "") -> str:
        """Run one command on this node; return what it prints, raise the error that it tells."""
        argv = [sys.executable, "-P", "-m", "p2prc", "--home", str(self.home), "--json"]
        try:
            done = subprocess.run(
                [*argv, *arguments],
                input=stdin,
                capture_output=True,
                text=True,
                timeout=COMMAND_TIMEOUT_S,
                env=own_environment(),
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(
                f"`p2prc {arguments[0]}` has not ended within {COMMAND_TIMEOUT_S:.0f} s"
            ) from error
        if done.returncode:
            raise _told(done.stderr, arguments[0])
        return done.stdout

    def status(self) -> Status | None:
        """Return how the node is, or None when it does not run."""
        try:
            return self.client.status()
        except NodeNotRunning:
            return None


@contextmanager
def open_network(homes: Path, cpus: int, *, is_kept: bool) -> Iterator[list[DemoNode]]:
    """Three nodes of one network, each lending so many cores; leaving the block stops them.

    Unless they are to be kept. Whatever is raised in the block stops them all the same.
    """
    nodes = [DemoNode(name, homes / name) for name in NAMES]
    with _ended_by_signals():
        try:
            _start(nodes, cpus)
            yield nodes
        except BaseException:
            _stop(nodes)
            raise
        if not is_kept:
            _stop(nodes)


def _start(nodes: Sequence[DemoNode], cpus: int) -> None:
    _stop(nodes, is_leftover=True)
    note(f"starting three nodes: {', '.join(node.name for node in nodes)}")
    statuses = _up_all(nodes, cpus)
    if not all(_isolates(status) for status in statuses):
        note("no sandbox works here: the three nodes run each other's work without isolation")
        if _trust_each_other(nodes, sorted(status.id for status in statuses)):
            _stop(nodes)
            _up_all(nodes, cpus)
    founder, *others = nodes
    ticket = json.loads(founder.p2prc("invite", "--lan"))["ticket"]
    # Again at every start: a second join tells a member where the founder is now.
    _at_once([_joining(node, ticket) for node in others])
    _await_meeting(nodes)


def _up_all(nodes: Sequence[DemoNode], cpus: int) -> list[Status]:
    options = ["--listen", "127.0.0.1:0", "--relay", "none", "--cpus", str(cpus)]

    def starting(node: DemoNode) -> Callable[[], Status]:
        def start() -> Status:
            node.p2prc("up", "--detach", "--name", node.name, *ALONE, *options)
            return node.client.status()

        return start

    return _at_once([starting(node) for node in nodes])


def _joining(node: DemoNode, ticket: str) -> Callable[[], str]:
    # By standard input: every user of the machine may read arguments.
    return lambda: node.p2prc("join", "-", stdin=ticket)


def _isolates(status: Status) -> bool:
    """Say whether the node has a runtime that keeps work apart from the machine."""
    runtimes = status.lending.runtimes if status.lending is not None else []
    if not runtimes:
        raise MachineCannot(
            "no runtime works here, not even one without isolation",
            hint="install bubblewrap: `apt-get install bubblewrap`",
        )
    return any(runtime.tier != NOT_ISOLATED for runtime in runtimes)


def _trust_each_other(nodes: Sequence[DemoNode], ids: Sequence[str]) -> bool:
    """Let each node run the others' work without isolation; return whether that is new."""
    if shutil.which("bwrap") is None:
        note("for a sandbox install bubblewrap: `apt-get install bubblewrap`")
    text = f"[lend]\ntier_none_to = {json.dumps(ids)}\n"
    files = [node.home / CONFIG_FILE for node in nodes]
    if all(file.is_file() and file.read_text(encoding="utf-8") == text for file in files):
        return False
    for file in files:
        file.write_text(text, encoding="utf-8")
    return True


def _await_meeting(nodes: Sequence[DemoNode]) -> None:
    """Wait until every node sees all three alive."""
    names = sorted(node.name for node in nodes)
    give_up_at = time.monotonic() + MEETING_TIMEOUT_S
    for node in nodes:
        while True:
            seen = sorted(row.name for row in node.client.nodes() if row.state == "alive")
            if seen == names:
                break
            if time.monotonic() > give_up_at:
                raise PeerUnreachable(
                    f"{node.name} sees only {', '.join(seen)}",
                    hint=f"see what it says: `tail {node.home}/log`",
                )
            time.sleep(_POLL_S)


def _stop(nodes: Sequence[DemoNode], *, is_leftover: bool = False) -> None:
    """Stop what runs in the homes; a node that will not stop is told, and does not stop us."""

    def stopping(node: DemoNode) -> Callable[[], None]:
        def stop() -> None:
            if (status := node.status()) is None:
                return
            if is_leftover:
                note(f"{node.name} still runs from another time: stopping it")
            try:
                node.p2prc("down")
            except P2prcError as error:
                note(f"{node.name} (process {status.pid}) did not stop: {error.message}")

        return stop

    with _signals_ignored():
        _at_once([stopping(node) for node in nodes])


def _at_once(calls: Sequence[Callable[[], _Made]]) -> list[_Made]:
    """Make calls that wait for other processes at the same time."""
    with ThreadPoolExecutor(len(calls)) as pool:
        return [begun.result() for begun in [pool.submit(call) for call in calls]]


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Inside the block a closed terminal or SIGTERM unwinds like Ctrl-C does."""

    def end(number: int, _: FrameType | None) -> None:
        raise click.exceptions.Exit(128 + number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, end) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def _signals_ignored() -> Iterator[None]:
    """Inside the block nothing interrupts: who presses Ctrl-C twice still wants no leftovers."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def own_environment() -> dict[str, str]:
    """Return the variables without P2PRC's own: they are for the user's node, not for these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("P2PRC")}


def _told(stderr: str, command: str) -> P2prcError:
    """Return the error that a command told on the last line of its standard error."""
    lines = stderr.strip().splitlines()
    try:
        fields = json.loads(lines[-1])["error"]
        return from_fields(fields["code"], fields["message"], hint=fields["hint"])
    except (IndexError, ValueError, KeyError, TypeError):
        return P2prcError(f"`p2prc {command}` failed: {stderr.strip()[-300:]}")
