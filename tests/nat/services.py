"""What others run on the internet and in routers: a relay of iroh's own, and UPnP with NAT-PMP."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from socket import AF_INET, SOCK_STREAM

from tests.nat.lab import Host, Place, Router
from tests.system.nodes import wait_until

RELAY_PROGRAM = "P2PRC_IROH_RELAY"
RELAY_PORT = 3340
HTTPS_PORT = 443
_TOOLS = Path(__file__).resolve().parents[2] / ".tools" / "bin"
_MINIUPNPD = """
ext_ifname=wan
listening_ip=lan
port=5000
enable_natpmp=yes
enable_upnp=yes
secure_mode=yes
system_uptime=yes
notify_interval=30
uuid=0a0b0c0d-0000-4000-8000-0123456789ab
upnp_table_name=lab
upnp_nat_table_name=lab
upnp_forward_chain=mapped_through
upnp_nat_chain=mapped
upnp_nat_postrouting_chain=mapped_out
lease_file={leases}
allow 1024-65535 0.0.0.0/0 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


def iroh_relay() -> str:
    """Return the path of the `iroh-relay` program, "" where there is none."""
    named = os.environ.get(RELAY_PROGRAM, "")
    found = shutil.which(named or "iroh-relay", path=None if named else _path())
    return found or ""


def _path() -> str:
    return os.pathsep.join([str(_TOOLS), os.environ.get("PATH", "")])


@contextmanager
def running_iroh_relay(
    place: Host, program: str, *, settings: Path | None = None
) -> Iterator[IrohRelay]:
    """Run iroh's own relay somewhere; `kill` and `start` it inside the block."""
    relay = IrohRelay(place, program, settings)
    relay.start()
    try:
        yield relay
    finally:
        relay.kill()


class IrohRelay:
    """iroh's relay program: with settings for HTTPS, else as its makers run it for development."""

    def __init__(self, place: Host, program: str, settings: Path | None = None) -> None:
        self.place = place
        self.url = f"http://{place.address}:{RELAY_PORT}"
        self._port = RELAY_PORT
        self._argv: tuple[str, ...] = (program, "--dev")
        if settings is not None:
            self.url, self._port = f"https://{place.address}/", HTTPS_PORT
            self._argv = (program, "--config-path", str(settings))
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        self._process = self.place.start(*self._argv)
        wait_until(lambda: _listens(self.place, self._port), "the relay listens", timeout_s=30)

    def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate(timeout=10)
            self._process = None


@contextmanager
def mapping_service(router: Router, folder: Path) -> Iterator[None]:
    """Let a router open ports for those inside, by UPnP and NAT-PMP (miniupnpd)."""
    settings = folder / f"{router.name}-miniupnpd.conf"
    settings.write_text(_MINIUPNPD.format(leases=folder / f"{router.name}-leases"))
    log = folder / f"{router.name}-miniupnpd.log"
    pid = folder / f"{router.name}-miniupnpd.pid"
    process = router.start("miniupnpd", "-d", "-f", str(settings), "-P", str(pid), log=log)
    try:
        wait_until(
            lambda: b"Listening for NAT-PMP" in log.read_bytes(), "miniupnpd runs", timeout_s=30
        )
        yield
    finally:
        process.terminate()
        try:
            process.communicate(timeout=10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate(timeout=10)


def _listens(place: Place, port: int) -> bool:
    with place.socket(AF_INET, SOCK_STREAM) as trial, suppress(OSError):
        trial.settimeout(1.0)
        trial.connect(("127.0.0.1", port))
        return True
    return False
