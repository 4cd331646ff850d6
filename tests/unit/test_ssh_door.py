"""The door for the system's ssh, and the connector that hands its socket over."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2prc.api.address import short_address
from p2prc.cli import ssh_connector
from p2prc.daemon import ssh_door
from p2prc.daemon.ssh_door import NAME_LIMIT_BYTES, open_ssh_door
from p2prc.errors import LeaseUnknown
from p2prc.model.identity import NodeId
from p2prc.ssh.keys import public_line

NODE = NodeId("ab" * 32)


class Echo:
    """A container's SSH that says everything twice."""

    def __init__(self) -> None:
        self._said: asyncio.Queue[bytes] = asyncio.Queue()
        self.is_closed = asyncio.Event()

    async def read(self) -> bytes:
        return await self._said.get()

    async def write(self, content: bytes) -> None:
        await self._said.put(2 * content)

    async def end_writing(self) -> None:
        await self._said.put(b"")

    async def close(self) -> None:
        self.is_closed.set()


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[tuple[Path, list[Echo]]]:
    """A door whose only container is `box`."""
    opened_links: list[Echo] = []

    async def open_ssh(typed: str) -> tuple[NodeId, Echo]:
        if typed != "box":
            raise LeaseUnknown(f"no lease here is `{typed}`", hint="see `p2prc ps`")
        opened_links.append(Echo())
        return NODE, opened_links[-1]

    path = folder / "ssh.sock"
    async with asyncio.timeout(20), open_ssh_door(open_ssh, str(path)):
        yield path, opened_links


def hand_over(path: Path, known: Path, name: str, *home: str) -> tuple[int, str, list[int]]:
    """Run the connector as ssh does; return its status, what it said, and the descriptor."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        words = [sys.executable, "-I", "-S", ssh_connector.__file__, str(path), str(known), name]
        done = subprocess.run(
            [*words, *home],
            stdin=theirs.fileno(),
            stdout=theirs.fileno(),
            stderr=subprocess.PIPE,
            timeout=15,
            check=False,
        )
        theirs.close()
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        return done.returncode, done.stderr.decode(), list(descriptors)


async def test_the_connector_hands_a_socket_over(tmp_path: Path) -> None:
    # Longer than the address of a socket may be.
    home = tmp_path / ("long" * 40)
    home.mkdir()
    async with opened(home) as (path, links):
        assert path.stat().st_mode & 0o777 == 0o600
        for name in ("box", "box.p2prc"):
            status, said, [descriptor] = await asyncio.to_thread(
                hand_over, path, home / "known", name
            )
            assert (status, said) == (0, "")
            assert (home / "known" / name).read_text() == f"* {public_line(NODE)}\n"
            with socket.socket(fileno=descriptor) as client:
                client.setblocking(False)
                loop = asyncio.get_running_loop()
                await loop.sock_sendall(client, b"hello")
                assert await loop.sock_recv(client, 100) == b"hellohello"
                client.shutdown(socket.SHUT_WR)
                assert await loop.sock_recv(client, 100) == b""
            await links[-1].is_closed.wait()
    assert not path.exists()


async def test_who_cannot_be_let_in_is_told_why(tmp_path: Path) -> None:
    async with opened(tmp_path) as (path, links):
        status, said, descriptors = await asyncio.to_thread(
            hand_over, path, tmp_path / "known", "bax", "/somewhere"
        )
        assert (status, descriptors) == (255, [])
        assert said == "error: no lease here is `bax`\nhint: see `p2prc --home /somewhere ps`\n"
        for name in ("", ".", "../box", "b\nx"):
            status, said, _ = await asyncio.to_thread(hand_over, path, tmp_path / "known", name)
            assert (status, said) == (255, "error: that is no container's name\n")
        assert not links
    status, said, _ = await asyncio.to_thread(hand_over, path, tmp_path / "known", "box")
    assert status == 255
    assert said.startswith("error: the node of this home is not running\n")


@pytest.mark.parametrize("said", [b"x" * (NAME_LIMIT_BYTES + 1) + b"\n", b"\xff\n", b"\n", b"box"])
async def test_other_first_lines_are_refused(
    tmp_path: Path, said: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_door, "_NAME_TIMEOUT_S", 0.1)
    async with opened(tmp_path) as (path, links):
        with short_address(str(path)) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(said)
        assert (await reader.read()).startswith(b"error an ssh client says")
        writer.close()
        assert not links


async def test_a_closing_door_hangs_up(tmp_path: Path) -> None:
    async with opened(tmp_path) as (path, links):
        with short_address(str(path)) as address:
            reader, writer = await asyncio.open_unix_connection(address)
        writer.write(b"box\n")
        assert (await reader.readline()).startswith(b"ok ssh-ed25519 ")
    assert await reader.read() == b""
    assert links[0].is_closed.is_set()
    writer.close()
