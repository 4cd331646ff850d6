"""The network `proxy` from inside a place: real programs, with a little internet behind it."""

from __future__ import annotations

import asyncio
import hashlib
import io
import shutil
import zipfile
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from p2prc.protocol.egress import EgressTerms, tried_the_network
from p2prc.runtime.port import Sandbox
from tests.contract.runtime_bench import CONTAINED, open_bench, run
from tests.unit.egress_bench import LittleInternet, open_proxy, serving

VARIANTS = ("shared", "isolated", "unshared", CONTAINED)
DANGERS = (
    "http://127.0.0.1:80/", "http://[::1]/", "http://0.0.0.0/", "http://169.254.169.254/latest/",
    "http://2130706433/", "http://0177.0.0.1/", "http://10.0.0.1/", "http://[::ffff:127.0.0.1]/",
    "http://home.example.org/", "http://rebound.example.org/", "http://93.184.216.34:25/",
)  # fmt: skip

pytestmark = [
    pytest.mark.parametrize("variant", VARIANTS),
    pytest.mark.skipif(not shutil.which("curl"), reason="there is no curl"),
]


@cache
def wheel() -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("little.py", "ANSWER = 42\n")
        about = "Metadata-Version: 2.1\nName: little\nVersion: 1.0\n"
        archive.writestr("little-1.0.dist-info/METADATA", about)
        tag = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        archive.writestr("little-1.0.dist-info/WHEEL", tag)
        archive.writestr("little-1.0.dist-info/RECORD", "")
    return made.getvalue()


async def web(reader: StreamReader, writer: StreamWriter) -> None:
    """Serve an index of packages with one package."""
    name, content = "little-1.0-py3-none-any.whl", wheel()
    path = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
    if path.endswith("/little/"):
        digest = hashlib.sha256(content).hexdigest()
        body, kind = f'<a href="/{name}#sha256={digest}">{name}</a>'.encode(), "text/html"
    elif path.endswith(name):
        body, kind = content, "application/octet-stream"
    else:
        body, kind = b"hello\n", "text/plain"
    head = f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"
    writer.write(head.encode() + body)
    await writer.drain()


@asynccontextmanager
async def connected(
    variant: str, folder: Path, terms: EgressTerms | None = None
) -> AsyncIterator[tuple[Sandbox, LittleInternet]]:
    internet = LittleInternet(
        names={
            "home.example.org": [["192.168.1.1"]],
            "rebound.example.org": [["127.0.0.1", "::1"]],
        }
    )
    async with (
        serving(internet, web),
        open_proxy(folder, internet, terms) as proxy,
        open_bench(variant, folder) as bench,
    ):
        yield await bench.runtime.create(replace(bench.spec(), egress=proxy.path)), internet


async def test_real_programs_fetch(variant: str, tmp_path: Path) -> None:
    async with connected(variant, tmp_path) as (sandbox, internet):
        result, out, err = await run(sandbox, ["curl", "-sS", "http://example.org/"])
        assert (result.status, out, err) == (0, b"hello\n", b"")
        # A tunnel: what goes through it is not looked at.
        tunnel = ["curl", "-sS", "--proxytunnel", "http://example.org/"]
        result, out, err = await run(sandbox, tunnel)
        assert (result.status, out, err) == (0, b"hello\n", b"")
        assert internet.looked_up == ["example.org"] * 2
        if not Path("/usr/lib/python3/dist-packages/pip").exists():
            return
        install = "install --no-cache-dir --disable-pip-version-check --target there"
        index = "--index-url http://example.org/simple/ --trusted-host example.org little"
        pip = ["/usr/bin/python3", "-m", "pip", *install.split(), *index.split()]
        shown = "sys.path.insert(0, 'there'); import little; print(little.ANSWER)"
        both = f'"$@" >&2 && /usr/bin/python3 -c "import sys; {shown}"'
        result, out, err = await run(sandbox, ["sh", "-c", both, "sh", *pip], HOME="/work")
        assert (result.status, out) == (0, b"42\n"), err


async def test_nothing_else_can_be_reached(variant: str, tmp_path: Path) -> None:
    async with connected(variant, tmp_path) as (sandbox, internet):
        show = ["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}\\n", "--noproxy", ""]
        for danger in DANGERS:
            result, out, _ = await run(sandbox, [*show, danger])
            assert result.status == 0, danger
            assert out.strip() in (b"400", b"403"), danger
        assert internet.connected == []
        # Past the proxy there is nothing at all.
        for direct in ("http://93.184.216.34/", "http://example.org/"):
            result, _, err = await run(sandbox, ["curl", "-sS", "--noproxy", "*", direct])
            assert result.status in (6, 7), err
        assert tried_the_network(err)


async def test_a_cap_ends_it_with_a_reason(variant: str, tmp_path: Path) -> None:
    terms = EgressTerms(total_bytes=50)
    async with connected(variant, tmp_path, terms) as (sandbox, _):
        await run(sandbox, ["curl", "-sS", "http://example.org/"])
        result, out, _ = await run(sandbox, ["curl", "-sS", "http://example.org/"])
        assert result.status == 0
        assert b"p2prc: traffic: all " in out
    await asyncio.sleep(0)
