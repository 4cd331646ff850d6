"""One large input to eight nodes whose submitter has a home's way up (as root, in namespaces).

`python -m benchmarks.swarm` sends 1 GB to one node, then another 1 GB to eight at once. The
submitter sends 100 Mbit/s at most (the kernel's token bucket filter); the others are not limited.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.nat.lab import Place, open_lab, why_not
from tests.nat.nodes import LabNode, join_all
from tests.system.nodes import at_once, stop_all

from benchmarks.report import FIGURES, Figure, Record

NODES = 8
INPUT_BYTES = 1_000_000_000
UP_BITS_PER_S = 100_000_000
UPLOADS_AT_MOST = 1.3
TIME_AT_MOST = 1.6
_PIECE_BYTES = 1 << 20


def measure(nodes: int, size_bytes: int) -> Record:
    """Send an input to one node, then to all."""
    if reason := why_not():
        return Record("swarm", [], {"skipped": reason}, missing=[f"a lab: {reason}"])
    with open_lab() as lab, tempfile.TemporaryDirectory() as folder:
        home = lab.host("submitter")
        home.run(
            *("tc", "qdisc", "add", "dev", "eth0", "root", "tbf"),
            *("rate", f"{UP_BITS_PER_S}bit", "burst", "256kb", "latency", "100ms"),
        )
        submitter = LabNode(Path(folder), home)
        others = [LabNode(Path(folder), lab.host(f"node{number}")) for number in range(nodes)]
        try:
            at_once([lambda one=one: one.up() for one in (submitter, *others)])  # type: ignore[misc]
            join_all([submitter, *others])
            alone = _send(submitter, home, others[:1], Path(folder), size_bytes)
            together = _send(submitter, home, others, Path(folder), size_bytes)
        finally:
            stop_all([submitter, *others])
    uploads = together["sent_bytes"] / size_bytes
    figures = [
        Figure("to one node", alone["seconds"], "s"),
        Figure(f"to {nodes} nodes, the last one", together["seconds"], "s"),
        Figure(
            f"to {nodes} nodes / to one",
            together["seconds"] / alone["seconds"],
            "x",
            at_most=TIME_AT_MOST,
        ),
        Figure(
            f"the submitter sends for {nodes} nodes", uploads, "copies", at_most=UPLOADS_AT_MOST
        ),
    ]
    details = {"bytes": size_bytes, "alone": alone, "together": together}
    return Record("swarm", figures, details)


def _send(
    submitter: LabNode, home: Place, others: Sequence[LabNode], folder: Path, size_bytes: int
) -> dict[str, float]:
    """Run a command with a new input on each node at once; return seconds, and bytes sent."""
    content = folder / "input"
    with content.open("wb") as file:
        for begin in range(0, size_bytes, _PIECE_BYTES):
            file.write(os.urandom(min(_PIECE_BYTES, size_bytes - begin)))
    sent_before, began = _sent_bytes(home), time.monotonic()
    said = submitter.p2prc(
        *("--json", "map", "--watch", "--over", f"i=1-{len(others)}", "--cpus", "4"),
        *("--disk", "8G", "--on", ",".join(node.name for node in others)),
        *("--in", str(content), "--", "sleep", "1"),
        timeout_s=1800,
    )
    job = submitter.json("jobs")[0]["id"]
    shares = submitter.json("job", "show", job)["nodes"]
    if len(shares) != len(others):
        raise RuntimeError(f"not every node had a task: {shares} {said.err}")
    return {
        "seconds": round(time.monotonic() - began, 2),
        "sent_bytes": _sent_bytes(home) - sent_before,
    }


def _sent_bytes(home: Place) -> int:
    return int(home.run("cat", "/sys/class/net/eth0/statistics/tx_bytes").strip())


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.swarm", description=__doc__)
    parser.add_argument("--nodes", type=int, default=NODES)
    parser.add_argument("--bytes", type=int, default=INPUT_BYTES)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    record = measure(given.nodes, given.bytes)
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")


if __name__ == "__main__":
    main()
