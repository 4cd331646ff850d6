"""A lease's proxy, with a little internet behind it, asked well and badly."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader as Reader
from asyncio import StreamWriter as Writer
from ipaddress import ip_network
from pathlib import Path

import pytest

from p2prc.egress.dialing import RealInternet
from p2prc.egress.proxy import EgressProxy
from p2prc.protocol.egress import EgressTerms
from tests.unit.egress_bench import PUBLIC, LittleInternet, ask, open_proxy, serving


async def echo(reader: Reader, writer: Writer) -> None:
    while content := await reader.read(65536):
        writer.write(content)
        await writer.drain()
    writer.write_eof()


class Recorder:
    """A web server that answers with what it was given, and keeps what it heard."""

    def __init__(
        self, answer: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
    ) -> None:
        self.answer = answer
        self.heard = b""

    async def __call__(self, reader: Reader, writer: Writer) -> None:
        self.heard += await reader.readuntil(b"\r\n\r\n")
        writer.write(self.answer)
        await writer.drain()


async def test_a_tunnel_carries_bytes_both_ways_and_counts_them(tmp_path: Path) -> None:
    internet = LittleInternet()
    async with serving(internet, echo, 443), open_proxy(tmp_path, internet) as proxy:
        reader, writer = await asyncio.open_unix_connection(proxy.path)
        # What follows the head at once belongs to the tunnel.
        writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: example.org:443\r\n\r\nearly")
        assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(5) == b"early"
        writer.write(b"x" * 1_000_000)
        writer.write_eof()
        assert len(await reader.read(-1)) == 1_000_000
        writer.close()
    assert internet.looked_up == ["example.org"]
    assert proxy.allowance.sent_bytes == proxy.allowance.received_bytes == 1_000_005
    assert not proxy.path.exists()


async def test_a_plain_request_is_written_anew(tmp_path: Path) -> None:
    internet, server = LittleInternet(), Recorder()
    async with serving(internet, server), open_proxy(tmp_path, internet) as proxy:
        answer = await ask(
            proxy,
            b"GET http://EXAMPLE.org/a?b=c#d HTTP/1.1\r\nHost: inside.lan\r\nX-Own: 1\r\n"
            b"Connection: keep-alive, X-Hop\r\nX-Hop: 2\r\nProxy-Authorization: Basic eA==\r\n\r\n",
        )
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert answer.endswith(b"\r\n\r\nhello")
    head = server.heard.lower()
    assert head.startswith(b"get /a?b=c http/1.1\r\nhost: example.org\r\n")
    assert b"x-own: 1" in head
    for gone in (b"inside.lan", b"x-hop", b"proxy-", b"keep-alive"):
        assert gone not in head
    assert proxy.allowance.sent_bytes == len(server.heard)
    assert proxy.allowance.received_bytes == len(server.answer)


async def test_a_body_of_any_framing_arrives(tmp_path: Path) -> None:
    heard: list[bytes] = []

    async def take(reader: Reader, writer: Writer) -> None:
        heard.append(await reader.readuntil(b"abc"))
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n")

    internet = LittleInternet()
    async with serving(internet, take), open_proxy(tmp_path, internet) as proxy:
        start = b"POST http://example.org/ HTTP/1.1\r\nHost: example.org\r\n"
        one = await ask(proxy, start + b"Content-Length: 3\r\n\r\nabc")
        two = await ask(proxy, start + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")
        three = await ask(proxy, start + b"Expect: 100-continue\r\nContent-Length: 3\r\n\r\nabc")
        four = await ask(proxy, b"GET http://example.org/abc HTTP/1.0\r\n\r\n")
    assert len(heard) == 4
    for answer in (one, two, three):
        assert answer.endswith(b"2\r\nok\r\n0\r\n\r\n")
    # A client of the old version gets no chunks.
    assert four.endswith(b"\r\n\r\nok")


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "[::1]", "0.0.0.0", "[::]", "2130706433", "0x7f000001", "0177.0.0.1", "127.1",
        "169.254.169.254", "192.168.1.1", "10.0.0.1", "100.64.0.1", "224.0.0.1", "[fe80::1]",
        "[::ffff:127.0.0.1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::1]", "[fd00:ec2::254]",
        "localhost", "inside.example.org", "nobody.example.org", "198.51.100.9",
    ],
)  # fmt: skip
async def test_nothing_private_is_connected_to(host: str, tmp_path: Path) -> None:
    internet = LittleInternet(
        names={"localhost": [["127.0.0.1", "::1"]], "inside.example.org": [["10.1.1.1"]]}
    )
    async with open_proxy(tmp_path, internet) as proxy:
        tunnel = await ask(proxy, f"CONNECT {host}:443 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        plain = await ask(proxy, f"GET http://{host}/ HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    for answer in (tunnel, plain):
        assert answer.split(b" ")[1] in (b"400", b"403", b"502")
        assert b"p2prc: " in answer
    assert internet.connected == []
    assert proxy.refused == 2


async def test_the_hosts_own_addresses_are_refused(tmp_path: Path) -> None:
    internet = LittleInternet(own=[ip_network("93.184.216.0/24")])
    async with serving(internet, echo, 443), open_proxy(tmp_path, internet) as proxy:
        answer = await ask(proxy, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 403 that is not on the public internet\r\n" in answer
    assert internet.connected == []


async def test_the_machine_knows_its_own_addresses() -> None:
    internet = RealInternet(known=lambda: ["93.184.216.34", "nonsense"])
    own = internet.own_networks()
    internet.close()
    assert ip_network("127.0.0.0/8") in own
    assert ip_network("93.184.216.34/32") in own
    assert all(network.prefixlen >= 8 for network in own)


async def test_a_name_that_changes_its_mind_is_asked_once(tmp_path: Path) -> None:
    internet = LittleInternet(names={"example.org": [[PUBLIC], ["127.0.0.1"]]})
    async with serving(internet, Recorder()), open_proxy(tmp_path, internet) as proxy:
        request = b"GET http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n"
        assert b"hello" in await ask(proxy, request)
        assert internet.looked_up == ["example.org"]
        assert b" 403 " in await ask(proxy, request)
    assert internet.connected == [(PUBLIC, 80)]


async def test_of_several_addresses_none_that_is_private_is_tried(tmp_path: Path) -> None:
    internet = LittleInternet(names={"example.org": [["10.0.0.1", "93.184.216.35", PUBLIC, "::1"]]})
    async with serving(internet, Recorder()), open_proxy(tmp_path, internet) as proxy:
        answer = await ask(proxy, b"GET http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b"hello" in answer
    assert internet.connected == [("93.184.216.35", 80), (PUBLIC, 80)]


async def test_only_allowed_ports(tmp_path: Path) -> None:
    internet = LittleInternet()
    async with serving(internet, echo, 25), open_proxy(tmp_path, internet) as proxy:
        mail = await ask(proxy, b"CONNECT example.org:25 HTTP/1.1\r\nHost: x\r\n\r\n")
        plain = await ask(proxy, b"GET http://example.org:25/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 403 port 25 is not allowed, only 80, 443\r\n" in mail
    assert b" 403 port 25 " in plain
    assert internet.looked_up == []


_POST = b"POST http://example.org/ HTTP/1.1\r\nHost: example.org\r\n"


@pytest.mark.parametrize(
    "request_bytes",
    [
        _POST + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        _POST + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd",
        _POST + b"Content-Length: +3\r\n\r\nabc",
        _POST + b"Content-Length: 0x3\r\n\r\nabc",
        _POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
        _POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        _POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        _POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        _POST + b"Host: other.example\r\n\r\n",
        _POST + b"Bad\0Header: 1\r\n\r\n",
        _POST + b"Value: a\0b\r\n\r\n",
        b"GET http://example.org/ HTTP/1.1\r\n\r\n",
        b"GET http://user:pw@example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET http://example.org\\@inside/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET /only/a/path HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET https://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET ftp://example.org/ HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"GET http:///etc/passwd HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT http://example.org:443 HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT example.org HTTP/1.1\r\nHost: example.org\r\n\r\n",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nabcd",
        b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x05\x01\x00",
        b"GET http://ex\xc3\xa4mple.org/ HTTP/1.1\r\nHost: x\r\n\r\n",
    ],
)
async def test_what_could_be_read_in_two_ways_is_refused(
    request_bytes: bytes, tmp_path: Path
) -> None:
    internet = LittleInternet()
    terms = EgressTerms(head_s=0.5)
    async with serving(internet, Recorder()), open_proxy(tmp_path, internet, terms) as proxy:
        answer = await ask(proxy, request_bytes)
    assert answer.split(b" ")[1] in (b"400", b"408", b"501")
    assert internet.connected == []


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 9\r\n\r\nabc",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 40_000 + b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"",
    ],
)
async def test_answers_that_cannot_be_passed_on_are_said_to_be_so(
    answer: bytes, tmp_path: Path
) -> None:
    internet = LittleInternet()
    async with serving(internet, Recorder(answer)), open_proxy(tmp_path, internet) as proxy:
        told = await ask(proxy, b"GET http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n")
    assert told.startswith(b"HTTP/1.1 502 ")


async def test_a_second_request_on_the_same_connection_goes_nowhere(tmp_path: Path) -> None:
    internet, server = LittleInternet(), Recorder()
    request = b"GET http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n"
    async with serving(internet, server), open_proxy(tmp_path, internet) as proxy:
        answer = await ask(proxy, request + request.replace(b"example.org", b"127.0.0.1"))
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(internet.connected) == 1


async def test_header_floods_and_dawdlers_are_cut_off(tmp_path: Path) -> None:
    terms = EgressTerms(head_s=0.2)
    async with open_proxy(tmp_path, LittleInternet(), terms) as proxy:
        start = b"GET http://example.org/ HTTP/1.1\r\n"
        assert b" 431 " in await ask(proxy, start + b"a: b\r\n" * 20_000)
        many = b"".join(b"h%d: x\r\n" % number for number in range(150))
        assert b" 431 " in await ask(proxy, start + b"Host: x\r\n" + many + b"\r\n")
        assert b" 408 the request took too long" in await ask(proxy, start)


async def test_connections_are_bounded(tmp_path: Path) -> None:
    terms = EgressTerms(connections=3)
    async with open_proxy(tmp_path, LittleInternet(), terms) as proxy:
        held = [await asyncio.open_unix_connection(proxy.path) for _ in range(3)]
        assert b" 503 too many connections at once" in await ask(proxy, b"GET / HTTP/1.1\r\n\r\n")
        for _, writer in held:
            writer.close()


async def test_a_client_that_never_reads_slows_the_server_and_is_ended(tmp_path: Path) -> None:
    sent = 0
    ended = asyncio.Event()

    async def flood(_: Reader, writer: Writer) -> None:
        nonlocal sent
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
                sent += 65536
        except OSError:
            ended.set()
            raise

    internet = LittleInternet()
    terms = EgressTerms(idle_s=0.5)
    async with serving(internet, flood, 443), open_proxy(tmp_path, internet, terms) as proxy:
        _, writer = await asyncio.open_unix_connection(proxy.path, limit=1024)
        writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(10):
            await ended.wait()
        # A few buffers of ours and what the kernel holds for loopback.
        assert proxy.allowance.received_bytes < 4 << 20
        assert sent < 32 << 20
        writer.close()


async def test_a_silent_tunnel_ends(tmp_path: Path) -> None:
    async def silent(reader: Reader, _: Writer) -> None:
        await reader.read()

    internet = LittleInternet()
    terms = EgressTerms(idle_s=0.2)
    async with serving(internet, silent, 443), open_proxy(tmp_path, internet, terms) as proxy:
        tunnel = await ask(proxy, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert tunnel == b"HTTP/1.1 200 Connection established\r\n\r\n"


async def test_a_tunnel_has_an_end_however_busy(tmp_path: Path) -> None:
    async def drip(_: Reader, writer: Writer) -> None:
        while True:
            writer.write(b".")
            await writer.drain()
            await asyncio.sleep(0.02)

    internet = LittleInternet()
    terms = EgressTerms(total_s=0.4)
    async with serving(internet, drip, 443), open_proxy(tmp_path, internet, terms) as proxy:
        assert b".." in await ask(proxy, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")


async def test_what_is_over_the_cap_ends_and_says_why(tmp_path: Path) -> None:
    async def flood(_: Reader, writer: Writer) -> None:
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()

    internet = LittleInternet()
    terms = EgressTerms(total_bytes=1 << 20)
    async with serving(internet, flood, 443), open_proxy(tmp_path, internet, terms) as proxy:
        got = await ask(proxy, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
        assert len(got) <= (1 << 20) + (64 << 10)
        again = await ask(proxy, b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
    assert b" 403 traffic: all 1 MiB that this node allows are used\r\n" in again
    assert proxy.allowance.is_used_up


async def test_the_rate_is_kept(tmp_path: Path) -> None:
    internet = LittleInternet()
    server = Recorder(b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n" + b"x" * 300_000)
    terms = EgressTerms(rate_bytes_s=200_000)
    async with serving(internet, server), open_proxy(tmp_path, internet, terms) as proxy:
        began = asyncio.get_running_loop().time()
        answer = await ask(proxy, b"GET http://example.org/ HTTP/1.1\r\nHost: x\r\n\r\n")
        took_s = asyncio.get_running_loop().time() - began
    assert answer.endswith(b"x" * 300_000)
    assert took_s > 0.4


async def test_a_socket_deep_in_folders_is_served_and_closing_ends_all(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 20) / ("deeper" * 15)
    proxy = EgressProxy(folder / "proxy", EgressTerms(), LittleInternet())
    await proxy.open()
    assert proxy.path.stat().st_mode & 0o777 == 0o600
    await proxy.close()
    await proxy.close()
    assert not list(folder.iterdir())


async def test_closing_ends_tunnels_without_an_alarm(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    internet = LittleInternet()
    async with serving(internet, echo, 443):
        async with open_proxy(tmp_path, internet) as proxy:
            reader, writer = await asyncio.open_unix_connection(proxy.path)
            writer.write(b"CONNECT example.org:443 HTTP/1.1\r\nHost: x\r\n\r\n")
            await reader.readuntil(b"\r\n\r\n")
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        writer.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
