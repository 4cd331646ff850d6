"""Real nodes for tests: daemons as processes, driven by the command line as a person would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

Made = TypeVar("Made")

COMMAND_TIMEOUT_S = 90.0
POLL_S = 0.05


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        """Its standard output as JSON."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error object that `--json` puts on standard error."""
        found: dict[str, Any] = json.loads(self.err.strip().splitlines()[-1])["error"]
        return found


class NodeUnderTest:
    """One home and the daemon in it."""

    def __init__(
        self,
        home: Path,
        name: str,
        *,
        within: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.home = home
        self.name = name
        # No test may speak to the relays of strangers; and only tests of containers want an engine
        # tried at every start.
        usual = {"P2PRC_RELAY": "none", "P2PRC_RUNTIME": "process"}
        self.variables = {**os.environ, **usual, **(variables or {})}
        self.within = within
        """Words before every command: how to enter the place where the home is."""

    def up(self, *options: str, status: int = 0) -> Said:
        """Start the daemon on a port of its own, lending enough on any machine."""
        return self.p2prc(
            "up", "--detach", "--name", self.name, "--listen", "127.0.0.1:0",
            "--memory", "4G", "--disk", "64G", *options, status=status,
        )  # fmt: skip

    def p2prc(
        self,
        *arguments: str,
        status: int | None = 0,
        stdin: str | None = None,
        timeout_s: float = COMMAND_TIMEOUT_S,
    ) -> Said:
        """Run a command to its end, and see that it exits with the status (None: any)."""
        done = subprocess.run(
            self._argv(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            input=stdin,
            env=self.variables,
            check=False,
        )
        if status is not None:
            assert done.returncode == status, (arguments, done.returncode, done.stdout, done.stderr)
        return Said(done.returncode, done.stdout, done.stderr)

    def json(self, *arguments: str) -> Any:
        """Run a command with `--json` and return its data."""
        return self.p2prc("--json", *arguments).data

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Begin a command that goes on for a while."""
        return subprocess.Popen(
            self._argv(*arguments),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.variables,
        )

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(self.json("status")["pid"])

    @property
    def id(self) -> str:
        """The node's id."""
        return str(self.json("status")["id"])

    @property
    def key(self) -> bytes:
        """The node's secret."""
        return bytes.fromhex((self.home / "key").read_text())

    @property
    def addresses(self) -> list[str]:
        """Where the node listens."""
        found: list[str] = self.json("status")["addresses"]
        return found

    def states(self) -> dict[str, str]:
        """The network as seen from here: the state of each node, by name."""
        return {row["name"]: row["state"] for row in self.json("nodes")}

    @property
    def log(self) -> str:
        """What the daemon logged."""
        return (self.home / "log").read_text() if (self.home / "log").exists() else ""

    def kill_9(self) -> int:
        """End the daemon as a power cut would; return the process that was."""
        pid = self.pid
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not is_alive(pid), f"process {pid} is gone")
        return pid

    def stop(self) -> None:
        """End whatever still runs in the home."""
        try:
            pid = int((self.home / "lock").read_text())
        except (OSError, ValueError):
            return
        if is_alive(pid) and b"p2prc.daemon" in Path(f"/proc/{pid}/cmdline").read_bytes():
            os.kill(pid, signal.SIGTERM)
            try:
                wait_until(lambda: not is_alive(pid), "the daemon stops", timeout_s=15)
            except AssertionError:
                os.kill(pid, signal.SIGKILL)

    def _argv(self, *arguments: str) -> list[str]:
        words = [sys.executable, "-m", "p2prc", "--home", str(self.home), *arguments]
        return [*self.within, *words]


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


def wait_until(
    is_so: Callable[[], bool], claim: str, *, timeout_s: float = 60.0, poll_s: float = POLL_S
) -> float:
    """Wait for something that another process does; fail with the claim; return the seconds."""
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < timeout_s, f"not within {timeout_s} s: {claim}"
        time.sleep(poll_s)
    return time.monotonic() - began


def at_once(calls: Iterable[Callable[[], Made]]) -> list[Made]:
    """Make calls that wait for other processes at the same time; return what each returns."""
    with ThreadPoolExecutor(16) as pool:
        return [started.result() for started in [pool.submit(call) for call in calls]]


def up_all(nodes: Sequence[NodeUnderTest], *options: str) -> None:
    """Start several nodes."""
    at_once([lambda node=node: node.up(*options) for node in nodes])  # type: ignore[misc]


def stop_all(nodes: Sequence[NodeUnderTest]) -> None:
    """End whatever still runs in the homes."""
    at_once([node.stop for node in nodes])


def join_all(nodes: Sequence[NodeUnderTest]) -> None:
    """Let the first node found a network and the others join it."""
    ticket = nodes[0].p2prc("invite", "--lan").out.strip()
    at_once([lambda node=node: node.p2prc("join", ticket) for node in nodes[1:]])  # type: ignore[misc]
    for node in nodes:
        wait_until(lambda node=node: sees_all(node, nodes), f"{node.name} sees everybody")  # type: ignore[misc]


def sees_all(node: NodeUnderTest, others: Sequence[NodeUnderTest]) -> bool:
    """Whether the node knows exactly these, all of them alive."""
    return sorted(node.states().items()) == sorted((other.name, "alive") for other in others)


def processes_below(folder: Path) -> list[int]:
    """Return the processes whose command line or working folder names the folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            text = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
            at = str((entry / "cwd").readlink())
        except OSError:
            continue
        if str(folder) in text or at.startswith(str(folder)):
            found.append(int(entry.name))
    return found
