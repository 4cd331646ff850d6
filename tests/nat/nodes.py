"""Real nodes in a lab: each its own home, started where its host is; and what connects to whom."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.nat.lab import Place
from tests.system.nodes import NodeUnderTest, Said, wait_until

RUNS_AT_ONCE = 4


class LabNode(NodeUnderTest):
    """A node on a host of the lab, with the port and the settings that anybody would have."""

    def __init__(self, folder: Path, place: Place) -> None:
        # Strangers' relays are asked for here as by anybody: no way leads out of the lab to them.
        asked = {"P2PRC_RELAY": "auto"}
        super().__init__(folder / place.name, place.name, within=place.within, variables=asked)
        self.place = place

    def up(self, *options: str, status: int = 0) -> Said:
        return self.p2prc(
            "up", "--detach", "--name", self.name, "--cpus", "4", "--memory", "8G",
            "--disk", "64G", *options, status=status,
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """What became of one command from one node on another."""

    asker: str
    lender: str
    is_there: bool
    seconds: float
    path: str
    said: str = ""

    def __str__(self) -> str:
        end = self.path if self.is_there else f"FAILED: {self.said}"
        return f"{self.asker} -> {self.lender}: {self.seconds:.2f} s, {end}"


def command_on(asker: LabNode, lender: LabNode) -> Way:
    """Run a command on the other node, then ask which path it took."""
    began = time.monotonic()
    done = asker.p2prc("run", lender.name, "--", "true", status=None)
    took_s = time.monotonic() - began
    path = path_to(asker, lender) if done.status == 0 else ""
    return Way(asker.name, lender.name, done.status == 0, took_s, path, done.err.strip())


def path_to(asker: LabNode, lender: LabNode) -> str:
    """Return `direct`, `relayed`, or "" where there is no link."""
    rows = asker.json("nodes")
    return next((row["path"] or "" for row in rows if row["name"] == lender.name), "")


def commands_between(
    pairs: Iterable[tuple[LabNode, LabNode]], *, at_once: int = RUNS_AT_ONCE
) -> list[Way]:
    """Run a command for each pair of asker and lender, a few at a time."""
    with ThreadPoolExecutor(at_once) as pool:
        return list(pool.map(lambda pair: command_on(*pair), pairs))


def pairs_of(nodes: Sequence[LabNode]) -> list[tuple[LabNode, LabNode]]:
    """Return each pair once, asking in alternating directions."""
    found: list[tuple[LabNode, LabNode]] = []
    for number, one in enumerate(nodes):
        for other in nodes[number + 1 :]:
            found.append((one, other) if len(found) % 2 else (other, one))
    return found


def join_all(nodes: Sequence[LabNode]) -> None:
    """Let the first node found a network and the others join it; wait until all see all."""
    ticket = nodes[0].p2prc("invite").out.strip()
    with ThreadPoolExecutor(RUNS_AT_ONCE) as pool:
        list(pool.map(lambda node: node.p2prc("join", ticket), nodes[1:]))
    wait_until(lambda: all(sees(node, nodes) for node in nodes), "everybody sees everybody")


def sees(node: LabNode, others: Sequence[LabNode]) -> bool:
    """Whether the node sees all of these alive."""
    states = node.states()
    return all(states.get(other.name) == "alive" for other in others)
