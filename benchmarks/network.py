"""Three real nodes on this machine, as a user would start them, to measure the product with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NAMES = ("ada", "grace", "linus")
_COMMAND_TIMEOUT_S = 300.0
_JOINED_TIMEOUT_S = 30.0
_POLL_S = 0.1


def quiet_environment() -> dict[str, str]:
    """Return the environment for everything measured: Python keeps its bytecode, as usual."""
    left_out = ("PYTHONDONTWRITEBYTECODE", "P2PRC_HOME", "P2PRC")
    return {name: value for name, value in os.environ.items() if name not in left_out}


@dataclass(frozen=True, slots=True)
class MeasuredNode:
    """A home with a running daemon."""

    home: Path
    name: str

    def argv(self, *words: str) -> list[str]:
        """Return the command line of `p2prc` for this node."""
        program = Path(sys.executable).with_name("p2prc")
        start = [str(program)] if program.exists() else [sys.executable, "-m", "p2prc"]
        return [*start, "--home", str(self.home), *words]

    def p2prc(self, *words: str) -> str:
        """Run a command to its end and return what it printed."""
        done = subprocess.run(
            self.argv(*words),
            env=quiet_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=_COMMAND_TIMEOUT_S,
        )
        if done.returncode != 0:
            raise RuntimeError(f"p2prc {' '.join(words)}: {done.stderr.strip()}")
        return done.stdout

    def json(self, *words: str) -> Any:
        """Run a command and return its data."""
        return json.loads(self.p2prc("--json", *words))

    @property
    def pid(self) -> int:
        """The daemon's process."""
        return int(self.json("status")["pid"])


@contextmanager
def open_network(folder: Path) -> Iterator[list[MeasuredNode]]:
    """Three joined nodes, each with what a node lends by default; stopped at the end.

    On two cores each lends one, so the network runs three commands at a time.
    """
    nodes = [MeasuredNode(folder / name, name) for name in NAMES]
    started = []
    try:
        for node in nodes:
            node.p2prc(
                "up",
                "--detach",
                "--name",
                node.name,
                "--listen",
                "127.0.0.1:0",
                "--relay",
                "none",
                "--runtime",
                "process",
                *_one(),
            )
            started.append(node)
        ticket = nodes[0].p2prc("invite", "--lan").strip()
        for node in nodes[1:]:
            node.p2prc("join", ticket)
        for node in nodes:
            _wait_for_all(node, len(nodes))
        yield nodes
    finally:
        for node in started:
            node.p2prc("down")


def _one() -> list[str]:
    # A larger machine is made to lend what two cores would: the rivals have three workers too.
    return [] if len(os.sched_getaffinity(0)) <= 2 else ["--cpus", "1"]


def _wait_for_all(node: MeasuredNode, count: int) -> None:
    deadline = time.monotonic() + _JOINED_TIMEOUT_S
    while sum(row["state"] == "alive" for row in node.json("nodes")) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{node.name} does not see {count} nodes")
        time.sleep(_POLL_S)
