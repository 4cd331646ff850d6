"""The relays that are compared: ours in a process of its own, and iroh's own program."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.report import REPOSITORY

PROGRAM = "iroh-relay"
TOLD = (
    "`iroh-relay` is not there: `cargo install iroh-relay --version 1.4.1 --features server "
    "--root .tools` installs it beside the project"
)
_PATIENCE_S = 10.0


@dataclass(frozen=True, slots=True)
class RunningRelay:
    """A relay on loopback, and its process."""

    port: int
    pid: int

    @property
    def url(self) -> str:
        """As iroh's endpoints are told it."""
        return f"http://127.0.0.1:{self.port}"


def rival_program() -> Path | None:
    """Return iroh's relay from P2PRC_IROH_RELAY, `.tools/bin` or the PATH, if there is one."""
    named = os.environ.get("P2PRC_IROH_RELAY")
    found = named or shutil.which(PROGRAM, path=REPOSITORY / ".tools" / "bin")
    found = found or shutil.which(PROGRAM)
    return Path(found) if found and Path(found).exists() else None


@contextmanager
def open_rival(program: Path, port: int = 0) -> Iterator[RunningRelay]:
    """Run iroh's relay without TLS, for everybody; port 0 is any."""
    port = port or _free_port()
    with tempfile.TemporaryDirectory(prefix="iroh-relay-") as folder:
        config = Path(folder) / "relay.toml"
        config.write_text(f'http_bind_addr = "127.0.0.1:{port}"\nenable_metrics = false\n')
        with _running([str(program), "--dev", "--config-path", str(config)], port) as relay:
            yield relay


@contextmanager
def open_ours(port: int = 0) -> Iterator[RunningRelay]:
    """Run our relay by itself, for everybody; port 0 is any."""
    port = port or _free_port()
    with _running([sys.executable, "-m", "benchmarks.relays", str(port)], port) as relay:
        yield relay


@contextmanager
def _running(command: list[str], port: int) -> Iterator[RunningRelay]:
    process = subprocess.Popen(
        command,
        cwd=REPOSITORY,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "RUST_LOG": "error"},
    )
    try:
        _until_it_answers(process, port)
        yield RunningRelay(port, process.pid)
    finally:
        process.terminate()
        try:
            process.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _until_it_answers(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=1.0) as answer:
                answer.read()
                return
        except OSError:
            if process.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


async def _serve(port: int) -> None:
    relay = await open_relay(
        "127.0.0.1",
        port,
        identity=WellKnown(NodeId("0" * 64), 1),
        admit=lambda key, bearer: RelayTerms(),
    )
    try:
        await asyncio.Event().wait()
    finally:
        await relay.close()


if __name__ == "__main__":
    import asyncio

    from p2prc.model.identity import NodeId
    from p2prc.protocol.relay_events import RelayTerms
    from p2prc.relay.server import WellKnown, open_relay

    asyncio.run(_serve(int(sys.argv[1])))
