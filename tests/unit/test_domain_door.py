"""The ports for domains on real sockets; what is handed over goes to services of the test."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from p2prc.model.identity import NodeId
from p2prc.node import domain_door
from p2prc.node.domain_door import DomainDoor, DoorRules
from p2prc.node.domain_proof import DomainProofs
from p2prc.node.gateway import Gateway
from p2prc.node.inside import Inside
from p2prc.protocol.domains import parse_domains
from p2prc.protocol.gateways import GatewayRules
from p2prc.protocol.messages import Control, EndMapping, MappingOpened, OpenMapping, Refused
from p2prc.storage.state import State, open_state
from p2prc.web.certificates import Certificates
from p2prc.web.names import NamesSilent
from tests.unit.certificate_fake import written
from tests.unit.web_fake import Pipe, pair

OWN, ADA, GRACE = NodeId("0" * 64), NodeId("a" * 64), NodeId("b" * 64)
NAME, OTHER = "ab" * 5, "cd" * 5
APP = "app.example.org"
GET = b"GET / HTTP/1.1\r\nHost: app.example.org\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class _Owners:
    """Stands for the streams to other nodes."""

    def __init__(self) -> None:
        self.handed: asyncio.Queue[tuple[NodeId, str, Pipe]] = asyncio.Queue()

    async def hand_over(self, owner: NodeId, mapping: str, client: str) -> Any:
        assert client.startswith("127.0.0.1:")
        here, there = pair()
        self.handed.put_nowait((owner, mapping, there))
        return here


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state.db") as opened:
        yield opened


class _Standing:
    def __init__(self, state: State) -> None:
        self.owners = _Owners()
        self.gateway = Gateway(
            OWN,
            cast(Inside, self.owners),
            state,
            hosts=lambda: (),
            is_put_out=lambda _: False,
        )
        self.rules = GatewayRules(domains=parse_domains("*.example.org=members"))
        self.gateway.change_rules(self.rules)
        self.door = DomainDoor(self.gateway)

    async def ask(self, peer: NodeId, body: OpenMapping | EndMapping) -> Control:
        said: list[Control] = []
        await self.gateway.answer(peer, body, said.append)
        return said[0]

    async def opened(self, peer: NodeId, mapping: str, domain: str, *, is_tls: bool = False) -> int:
        """Let a peer have a domain; return the port that it is told."""
        answer = await self.ask(peer, OpenMapping(mapping, domain=domain, is_tls=is_tls))
        assert isinstance(answer, MappingOpened), answer
        assert answer.is_tls == is_tls
        return answer.port


async def _connected(
    port: int, content: bytes
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(content)
    return reader, writer


async def _said(port: int, content: bytes) -> bytes:
    reader, writer = await _connected(port, content)
    try:
        return await reader.read()
    finally:
        writer.close()


@pytest.fixture
async def standing(state: State) -> AsyncIterator[_Standing]:
    found = _Standing(state)
    found.door.change_rules(DoorRules((0,), (0,), "127.0.0.1"))
    running = asyncio.create_task(found.door.run())
    async with asyncio.timeout(60):
        while len(found.door._servers) < 2:
            await asyncio.sleep(0.01)
        yield found
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await found.door.stop()
    await found.gateway.stop()


async def test_requests_go_to_who_has_the_host_until_it_is_freed(standing: _Standing) -> None:
    port = await standing.opened(ADA, NAME, APP)
    assert await standing.opened(ADA, NAME, APP) == port
    for peer, mapping in ((GRACE, NAME), (ADA, OTHER)):
        answer = await standing.ask(peer, OpenMapping(mapping, domain="App.Example.org."))
        assert isinstance(answer, Refused)
        assert answer.code == "domain-taken"
    reader, writer = await _connected(port, GET)
    owner, mapping, service = await standing.owners.handed.get()
    assert (owner, mapping) == (ADA, NAME)
    assert b"X-Forwarded-For: 127.0.0.1" in await service.until(b"\r\n\r\n")
    await service.write(OK)
    assert await reader.readuntil(b"ok") == OK
    [lent] = standing.gateway.all()
    assert (lent.connections, lent.traffic.read_bytes) == (1, len(OK))

    # It ends: so does what went through it, and another may have the name.
    await standing.ask(ADA, EndMapping(NAME))
    with contextlib.suppress(ConnectionResetError):
        assert await reader.read() == b""
    writer.close()
    assert (await _said(port, GET)).startswith(b"HTTP/1.1 404 ")
    await standing.opened(GRACE, OTHER, APP)
    _, writer = await _connected(port, GET)
    assert (await standing.owners.handed.get())[0] == GRACE
    writer.close()


async def test_a_name_may_be_for_who_proves_it(standing: _Standing) -> None:
    standing.gateway.change_rules(GatewayRules(domains=parse_domains("*=proved")))
    records: dict[str, list[str]] = {}

    async def texts(name: str) -> list[str]:
        if name not in records:
            raise NamesSilent
        return records[name]

    standing.gateway.proofs = DomainProofs(texts)
    for said in (None, [ADA]):
        if said is not None:
            records[f"_p2prc.{APP}"] = list(said)
        answer = await standing.ask(GRACE, OpenMapping(OTHER, domain=APP))
        assert isinstance(answer, Refused)
        assert answer.code == "policy-refuses"
    port = await standing.opened(ADA, NAME, APP)
    _, writer = await _connected(port, GET)
    assert (await standing.owners.handed.get())[0] == ADA
    writer.close()


async def test_a_domain_is_had_again_after_a_restart(state: State, standing: _Standing) -> None:
    await standing.opened(ADA, NAME, APP)
    second = _Standing(state)
    running = asyncio.create_task(second.gateway.run())
    while not second.gateway.all():
        await asyncio.sleep(0.01)
    lent = second.gateway.find(APP)
    assert lent is not None
    assert lent.granted.owner == ADA
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_connections_of_tls_go_unread_to_who_has_the_name(standing: _Standing) -> None:
    port = await standing.opened(ADA, NAME, APP, is_tls=True)
    plain_port = await standing.opened(ADA, OTHER, "plain.example.org")
    hello = _hello(APP)
    _, writer = await _connected(port, hello[:9])
    writer.write(hello[9:])
    owner, mapping, service = await standing.owners.handed.get()
    assert (owner, mapping) == (ADA, NAME)
    came = b""
    while len(came) < len(hello):
        came += await service.read()
    assert came == hello
    writer.close()
    # By HTTP it is said where to go, and a name that speaks no TLS is not known there.
    said = await _said(plain_port, GET)
    assert said.startswith(b"HTTP/1.1 308 ")
    assert b"\r\nLocation: https://app.example.org:" in said
    for name in ("plain.example.org", "nobody.example.org", None):
        assert await _said(port, _hello(name)) == bytes((21, 3, 3, 0, 2, 2, 112))
    with contextlib.suppress(ConnectionResetError):
        assert await _said(port, GET) == b""
    assert standing.owners.handed.empty()


async def test_one_address_has_so_many_connections(
    standing: _Standing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_door, "PER_ADDRESS_LIMIT", 2)
    port = await standing.opened(ADA, NAME, APP)
    held = [await _connected(port, b"GET") for _ in range(2)]
    while len(standing.door._clients) < 2:
        await asyncio.sleep(0.01)
    with contextlib.suppress(ConnectionResetError):
        assert await _said(port, GET) == b""
    for _, writer in held:
        writer.close()
    while standing.door._clients:
        await asyncio.sleep(0.01)
    assert (await _said(port, GET.replace(b"app", b"no"))).startswith(b"HTTP/1.1 404 ")


def test_a_household_of_ipv6_is_one_address() -> None:
    same = {domain_door._household(f"2001:db8:1:2::{number:x}") for number in range(3)}
    assert same == {"2001:db8:1:2::/64"}
    assert domain_door._household("2001:db8:1:3::1") not in same
    assert domain_door._household("192.0.2.7") == "192.0.2.7"
    assert domain_door._household("fe80::1%eth0") == domain_door._household("fe80::2%eth0")
    assert domain_door._household("") == ""


async def test_no_room_is_said_and_a_gone_service_too(standing: _Standing) -> None:
    rules = GatewayRules(domains=standing.rules.domains, per_mapping_connections=1)
    standing.gateway.change_rules(rules)
    port = await standing.opened(ADA, NAME, APP)
    _, writer = await _connected(port, GET)
    _, _, service = await standing.owners.handed.get()
    await service.until(b"\r\n\r\n")
    assert (await _said(port, GET)).startswith(b"HTTP/1.1 503 ")
    assert "more are refused" in standing.gateway.all()[0].trouble
    await service.close()
    writer.close()


def _hello(name: str | None) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    said = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return said.read()


async def test_tls_is_ended_here_with_the_owners_files_which_may_change(
    standing: _Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(domain_door, "_AGAIN_S", 0.01)
    folder = tmp_path / "certificates"
    folder.mkdir()
    chain = written(folder, "*.example.org", days=3)
    door = standing.door
    door.change_rules(DoorRules((0,), (0,), "127.0.0.1", folder))
    while not door.certificates.all():
        await asyncio.sleep(0.01)
    answer = await standing.ask(ADA, OpenMapping(NAME, domain=APP))
    assert isinstance(answer, MappingOpened)
    assert (answer.is_tls, answer.trouble) == (True, "its certificate ends in 2 days")
    assert answer.certificate_ends_at == door.certificates.all()[0].ends_at
    assert "ends in 2 days" in door.all_troubles()[0]

    trusted = ssl.create_default_context(cafile=str(chain))
    trusted.set_alpn_protocols(["h2", "http/1.1"])
    reader, writer = await asyncio.open_connection(
        "127.0.0.1", answer.port, ssl=trusted, server_hostname=APP
    )
    assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
    writer.write(b"POST / HTTP/1.1\r\nHost: app.example.org\r\nContent-Length: 400000\r\n\r\n")
    writer.write(b"x" * 400_000)
    _, _, service = await standing.owners.handed.get()
    head = await service.until(b"\r\n\r\n")
    assert b"X-Forwarded-Proto: https\r\n" in head
    read_bytes = len(head.partition(b"\r\n\r\n")[2])
    while read_bytes < 400_000:
        read_bytes += len(await service.read())
    body = b"y" * 300_000
    await service.write(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + body)
    await reader.readuntil(b"\r\n\r\n")
    assert await reader.readexactly(len(body)) == body
    # Another host of that certificate is not spoken to under this name.
    writer.write(GET.replace(b"app", b"other"))
    assert (await reader.read()).startswith(b"HTTP/1.1 421 ")
    writer.close()
    for name in ("nobody.example.com", "nobody.example.org"):
        assert await _said(answer.port, _hello(name)) == bytes((21, 3, 3, 0, 2, 2, 112))

    # Half a renewal changes nothing; a whole one is taken without a restart.
    before = door.certificates.find(APP)
    chain.write_bytes(b"-----BEGIN CERTIFICATE-----")
    while not door.certificates.troubles:
        await asyncio.sleep(0.01)
    assert door.certificates.find(APP) == before
    written(folder, "*.example.org", days=60)
    while door.certificates.troubles or door.certificates.find(APP) == before:
        await asyncio.sleep(0.01)
    again = await standing.ask(ADA, OpenMapping(NAME, domain=APP))
    assert isinstance(again, MappingOpened)
    assert (again.port, again.trouble, door.all_troubles()) == (answer.port, "", [])
    chain.unlink()
    while door.certificates.all():
        await asyncio.sleep(0.01)
    again = await standing.ask(ADA, OpenMapping(NAME, domain=APP))
    assert isinstance(again, MappingOpened)
    assert not again.is_tls


def test_certificates_are_found_in_both_layouts_and_bad_ones_told(tmp_path: Path) -> None:
    certbot = tmp_path / "app.example.org"
    certbot.mkdir()
    written(certbot, APP, file="x")
    (certbot / "x.pem").rename(certbot / "fullchain.pem")
    (certbot / "x.key").rename(certbot / "privkey.pem")
    joined = written(tmp_path, "*.example.org", file="joined")
    joined.write_bytes(joined.read_bytes() + (tmp_path / "joined.key").read_bytes())
    (tmp_path / "joined.key").unlink()
    written(tmp_path, "over.example.com", days=-1, file="over")
    lone = written(tmp_path, "lone.example.com", file="lone")
    lone.with_suffix(".key").unlink()
    certificates = Certificates()
    certificates.look((tmp_path, tmp_path / "nothing"))
    app = certificates.find(APP)
    assert app is not None
    assert app.path.parent == certbot
    assert certificates.find("b.example.org") is not None
    assert certificates.find("b.c.example.org") is None
    over = certificates.find("over.example.com")
    assert over is not None
    assert over.trouble(time.time()) == "its certificate is over"
    assert list(certificates.troubles) == [lone]


async def test_where_nothing_listens_there_are_no_domains(state: State) -> None:
    standing = _Standing(state)
    answer = await standing.ask(ADA, OpenMapping(NAME, domain=APP))
    assert isinstance(answer, Refused)
    assert answer.message == "this node routes no domains"
    standing.door.change_rules(DoorRules((), (443,)))
    answer = await standing.ask(ADA, OpenMapping(NAME, domain=APP))
    assert isinstance(answer, Refused)
    assert answer.message == "this node has no certificate for `app.example.org`"
    for body in (
        OpenMapping(NAME, domain="no domain"),
        OpenMapping(NAME, domain=APP, port=80),
        OpenMapping(NAME, "udp", domain=APP),
    ):
        answer = await standing.ask(ADA, body)
        assert isinstance(answer, Refused)
        assert answer.code == "invalid-input"
    assert standing.gateway.all() == []
