"""How files travel between two daemons."""

from __future__ import annotations

from pathlib import Path

from tests.system.conftest import MakeNodes

INPUT_BYTES = 24 << 20


def test_a_large_input_travels_over_tcp(make_nodes: MakeNodes, tmp_path: Path) -> None:
    ada, grace = make_nodes(2)
    content = tmp_path / "content"
    content.write_bytes(bytes(range(256)) * (INPUT_BYTES // 256))
    said = ada.p2prc("run", grace.name, "--in", str(content), "--", "wc", "-c", "content")
    assert said.out.split()[0] == str(INPUT_BYTES)
    log = (grace.home / "log").read_text()
    assert "bulk goes over TCP" in log
    port = ada.json("status")["relay"]["port"]
    assert f"127.0.0.1:{port}" in log
