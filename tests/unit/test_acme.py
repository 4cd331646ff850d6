"""Certificates by ACME from Pebble, a test authority, where that is installed.

See `go install github.com/letsencrypt/pebble/v2/cmd/pebble@latest`, and `pebble-challtestsrv`.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import ssl
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest

from p2prc.model.identity import NodeId
from p2prc.node import domain_door
from p2prc.node.domain_door import DomainDoor, DoorRules
from p2prc.node.domain_renewal import AcmeRules
from p2prc.node.gateway import Gateway
from p2prc.node.inside import Inside
from p2prc.protocol import renewals
from p2prc.protocol.domains import parse_domains
from p2prc.protocol.gateways import GatewayRules
from p2prc.protocol.messages import Control, MappingOpened, OpenMapping
from p2prc.storage.state import open_state
from tests.unit.certificate_fake import written

PEBBLE, NAMES = shutil.which("pebble"), shutil.which("pebble-challtestsrv")
ADA = NodeId("a" * 64)
APP, BAD = "app.example.net", "bad.example.net"

pytestmark = pytest.mark.skipif(not (PEBBLE and NAMES), reason="Pebble is not installed")


@dataclass
class _Authority:
    directory: str
    http_port: int
    ca_file: Path


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _has_begun(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@pytest.fixture
def authority(tmp_path: Path) -> Iterator[_Authority]:
    ca_file = written(tmp_path, "localhost", file="pebble")
    names_port, manage_port, acme_port, own_port, http_port, tls_port = (
        _free_port() for _ in range(6)
    )
    config = {
        "pebble": {
            "listenAddress": f"127.0.0.1:{acme_port}",
            "managementListenAddress": f"127.0.0.1:{own_port}",
            "certificate": str(ca_file),
            "privateKey": str(ca_file.with_suffix(".key")),
            "httpPort": http_port,
            "tlsPort": tls_port,
        }
    }
    (tmp_path / "pebble.json").write_text(json.dumps(config))
    off = [f"-{kind}=" for kind in ("http01", "https01", "tlsalpn01", "doh", "defaultIPv6")]
    commands = (
        [
            str(NAMES),
            *off,
            f"-dnsserver=127.0.0.1:{names_port}",
            f"-management=127.0.0.1:{manage_port}",
            "-defaultIPv4=127.0.0.1",
        ],
        [
            str(PEBBLE),
            "-config",
            str(tmp_path / "pebble.json"),
            f"-dnsserver=127.0.0.1:{names_port}",
        ],
    )
    environment = {**os.environ, "PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "0"}
    with (tmp_path / "log").open("wb") as log:
        running = [
            subprocess.Popen(command, env=environment, stdout=log, stderr=log)
            for command in commands
        ]
        try:
            while not (_has_begun(acme_port) and _has_begun(manage_port)):
                assert all(each.poll() is None for each in running), (tmp_path / "log").read_text()
            # One name leads elsewhere.
            body = json.dumps({"host": f"{BAD}.", "addresses": ["127.0.0.9"]}).encode()
            urllib.request.urlopen(f"http://127.0.0.1:{manage_port}/add-a", body).close()
            yield _Authority(f"https://localhost:{acme_port}/dir", http_port, ca_file)
        finally:
            for each in running:
                each.kill()
                each.wait()


async def test_domains_get_certificates_and_failures_are_told(
    authority: _Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(authority.ca_file))
    monkeypatch.setattr(domain_door, "_AGAIN_S", 0.05)
    # A busy machine may miss an authority's patience: then it is tried again.
    monkeypatch.setattr(renewals, "FIRST_WAIT_S", 1.0)
    with open_state(tmp_path / "state.db") as state:
        gateway = Gateway(
            NodeId("0" * 64),
            cast(Inside, None),
            state,
            hosts=lambda: (),
            is_put_out=lambda _: False,
        )
        gateway.change_rules(GatewayRules(domains=parse_domains("*.example.net=members")))
        door = DomainDoor(gateway, folder=tmp_path / "kept")
        acme = AcmeRules(authority.directory, "ada@example.net")
        door.change_rules(DoorRules((authority.http_port,), (0,), "127.0.0.1", None, acme))
        running = asyncio.create_task(door.run())
        try:
            async with asyncio.timeout(100):
                for mapping, domain in (("ab" * 5, APP), ("cd" * 5, BAD)):
                    while not isinstance(await _asked(gateway, mapping, domain), MappingOpened):
                        await asyncio.sleep(0.05)
                while True:
                    app = await _asked(gateway, "ab" * 5, APP)
                    bad = await _asked(gateway, "cd" * 5, BAD)
                    assert isinstance(app, MappingOpened)
                    assert isinstance(bad, MappingOpened)
                    if app.is_tls and bad.trouble:
                        break
                    await asyncio.sleep(0.1)
                assert (app.trouble, bad.is_tls) == ("", False)
                assert "127.0.0.9" in bad.trouble or "onnection" in bad.trouble
                assert BAD in door.all_troubles()[0]
                found = door.certificates.find(APP)
                assert found is not None
                assert app.certificate_ends_at == found.ends_at
                await _shake_hands(app.port)
                # A second life has the account and the certificate, and asks for neither.
                before = (tmp_path / "kept" / "account.key").read_bytes()
                found.path.unlink()
                while (again := door.certificates.find(APP)) is None or again == found:
                    await asyncio.sleep(0.1)
                assert (tmp_path / "kept" / "account.key").read_bytes() == before
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            await door.stop()
            await gateway.stop()


async def _asked(gateway: Gateway, mapping: str, domain: str) -> Control:
    said: list[Control] = []
    await gateway.answer(ADA, OpenMapping(mapping, domain=domain), said.append)
    return said[0]


async def _shake_hands(port: int) -> None:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=APP)
    writer.close()
