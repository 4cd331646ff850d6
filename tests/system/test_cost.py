"""What a daemon costs its owner while nothing happens."""

from __future__ import annotations

from pathlib import Path

from tests.system.conftest import MakeNodes
from tests.system.nodes import wait_until

RESIDENT_LIMIT_BYTES = 90_000_000


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024


def test_an_idle_daemon_is_small_also_after_it_has_moved_a_large_input(
    make_nodes: MakeNodes, tmp_path: Path
) -> None:
    nodes = make_nodes(2, "--cpus", "1")
    (tmp_path / "large").write_bytes(bytes(range(256)) * (64 << 12))
    nodes[0].p2prc("run", nodes[1].name, "--in", str(tmp_path / "large"), "--", "true")
    for node in nodes:
        pid = node.pid
        wait_until(
            lambda pid=pid: resident_bytes(pid) < RESIDENT_LIMIT_BYTES,  # type: ignore[misc]
            f"{node.name} is small again",
            timeout_s=45,
        )
