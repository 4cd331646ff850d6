"""What is learned of a container engine without a client for it."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from p2prc.protocol.diagnosis import MachineFacts, diagnose_machine
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.presence import strays


async def _engine(socket: Path, listed: bytes) -> asyncio.Server:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        is_list = b"/containers/json" in asked
        writer.write(b"HTTP/1.0 200 OK\r\nX: y\r\n\r\n" + (listed if is_list else b"OK"))
        writer.close()

    return await asyncio.start_unix_server(answer, socket)


async def test_containers_of_homes_that_are_gone_are_named(tmp_path: Path) -> None:
    def container(letter: str, folder: str) -> dict[str, object]:
        return {"Id": letter * 64, "Labels": {"p2prc.folder": folder}}

    (tmp_path / "home").mkdir()
    listed = [
        container("a", str(tmp_path / "home/leases/1")),
        container("b", str(tmp_path / "gone/leases/1")),
        container("c", "relative"),
        container("f", "/x\0/y/z"),
        container("d", "")
        | {"Id": "; rm -rf /", "Labels": {"p2prc.folder": str(tmp_path / "gone/x/y")}},
        {"Id": "e" * 64, "Labels": None},
    ]
    async with await _engine(tmp_path / "socket", json.dumps(listed).encode()):
        found = await strays((tmp_path / "socket",))
    assert found == ("b" * 12,)
    said = {each.check: each for each in diagnose_machine(MachineFacts(strays=found))}
    assert said["containers"].advice == f"`docker rm -f {'b' * 12}`"


async def test_an_engine_that_makes_no_sense_has_none(tmp_path: Path) -> None:
    for listed in (b"", b"nonsense", b"{}", b'[{"Labels": 1}]'):
        (tmp_path / "socket").unlink(missing_ok=True)
        async with await _engine(tmp_path / "socket", listed):
            assert await strays((tmp_path / "socket",)) == ()


async def test_an_engine_that_holds_nobody_to_limits_is_of_no_use_and_says_so(
    tmp_path: Path,
) -> None:
    """As a rootless one that systemd did not start."""
    facts = json.dumps({"CgroupDriver": "none", "ApiVersion": "1.41"}).encode()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(facts)}"
        writer.write(head.encode() + b"\r\nConnection: close\r\n\r\n" + facts)
        writer.close()

    async with await asyncio.start_unix_server(answer, tmp_path / "socket"):
        runtime = DockerRuntime(tmp_path / "home", tmp_path / "socket")
        try:
            assert await runtime.probe() == ()
            assert "control groups" in runtime.trouble
        finally:
            await runtime.close()
    told = MachineFacts(engine=runtime.trouble, tiers=(("process", "none"),))
    [finding] = [each for each in diagnose_machine(told) if each.check == "runtimes"]
    assert not finding.is_ok
    assert "control groups" in finding.finding
