"""SSH into sandboxes of every kind, spoken by a client in the same process."""

from __future__ import annotations

import asyncio
import secrets
import shlex
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncssh
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from p2prc.model.identity import NodeId
from p2prc.runtime.port import Exit, Sandbox
from p2prc.ssh import server
from p2prc.ssh.keys import private_file, public_line
from p2prc.ssh.session import Count
from tests.contract.runtime_bench import CONTAINED, PATIENCE_S, open_bench

KINDS = ("shared", "fenced", CONTAINED)
HOST, GUEST, STRANGER = (secrets.token_bytes(32) for _ in range(3))


def node_of(secret: bytes) -> NodeId:
    public = Ed25519PrivateKey.from_private_bytes(secret).public_key()
    return NodeId(public.public_bytes_raw().hex())


class SocketLink:
    """One end of a pair of sockets as a link."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self) -> bytes:
        return await self._reader.read(1 << 16)

    async def write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()

    async def end_writing(self) -> None:
        self._writer.write_eof()

    async def close(self) -> None:
        self._writer.close()


@pytest.fixture(params=KINDS)
async def sandbox(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Sandbox]:
    async with open_bench(request.param, tmp_path) as bench:
        yield await bench.runtime.create(bench.spec(has_sessions=True))


@asynccontextmanager
async def serving(
    sandbox: Sandbox, count: Count = lambda *_: None
) -> AsyncIterator[tuple[socket.socket, asyncio.Task[None]]]:
    ours, theirs = socket.socketpair()
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    task = asyncio.create_task(
        server.serve_ssh(
            SocketLink(reader, writer),
            sandbox,
            host_key=HOST,
            authorized=node_of(GUEST),
            banner="welcome\n",
            variables={"GREETING": "hello"},
            count=count,
        )
    )
    ours.setblocking(False)
    try:
        yield ours, task
    finally:
        ours.close()
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def connected(
    sandbox: Sandbox, key: bytes = GUEST, count: Count = lambda *_: None
) -> AsyncIterator[asyncssh.SSHClientConnection]:
    async with serving(sandbox, count) as (sock, _):
        connection = await asyncssh.connect(
            "host",
            sock=sock,
            config=None,
            username="anybody",
            client_keys=[asyncssh.import_private_key(private_file(key, node_of(key)))],
            known_hosts=asyncssh.import_known_hosts(f"* {public_line(node_of(HOST))}\n"),
            agent_path=None,
        )
        try:
            yield connection
        finally:
            connection.abort()
            await connection.wait_closed()


async def test_commands_shells_and_files(sandbox: Sandbox, tmp_path: Path) -> None:
    async with asyncio.timeout(4 * PATIENCE_S), connected(sandbox) as connection:
        done = await connection.run("echo $GREETING; echo no >&2; exit 7")
        assert (done.stdout, done.stderr, done.exit_status) == ("hello\n", "no\n", 7)
        done = await connection.run("cat", input="x" * 3_000_000)
        assert done.stdout == "x" * 3_000_000
        done = await connection.run("kill -9 $$")
        assert done.exit_status == 137
        (tmp_path / "sent").write_bytes(content := secrets.token_bytes(1_000_000))
        files = await connection.start_sftp_client()
        await files.put(str(tmp_path / "sent"), "there")
        await files.get("there", str(tmp_path / "got"))
        assert (tmp_path / "got").read_bytes() == content


async def test_a_terminal_has_a_size_that_changes(sandbox: Sandbox) -> None:
    async with asyncio.timeout(PATIENCE_S), connected(sandbox) as connection:
        process = await connection.create_process(
            None, term_type="xterm", term_size=(91, 31), encoding="utf-8"
        )
        process.stdin.write("stty size; echo read''y\n")
        assert "welcome" in (said := await process.stdout.readuntil("ready"))
        assert "31 91" in said
        process.change_terminal_size(92, 32)
        process.stdin.write("sleep 0.3; stty size; exit 3\n")
        await process.stdout.readuntil("32 92")
        assert (await process.wait()).exit_status == 3


async def test_nothing_leads_out(sandbox: Sandbox) -> None:
    async with asyncio.timeout(2 * PATIENCE_S), connected(sandbox) as connection:
        for host, port in (("127.0.0.1", 1), ("192.0.2.1", 80), ("localhost.evil", 22)):
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_connection(host, port)
        with pytest.raises(asyncssh.ChannelListenError):
            await connection.forward_remote_port("", 0, "127.0.0.1", 1)
        for path in ("/run/docker.sock", "/var/run/docker.sock", "", "x" * 5000, "a\0b"):
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_unix_connection(path)
        assert (await connection.run("true")).exit_status == 0


_ECHO = """
import socket
listening = socket.socket(socket.AF_UNIX)
listening.bind("echo.socket")
listening.listen()
print("ready", flush=True)
while True:
    with listening.accept()[0] as peer:
        while content := peer.recv(65536):
            peer.sendall(content)
        peer.sendall(b"that is all")
"""


async def test_a_unix_socket_inside_is_reached(sandbox: Sandbox) -> None:
    async with asyncio.timeout(4 * PATIENCE_S), connected(sandbox) as connection:
        echo = await connection.create_process(f"exec python3 -c {shlex.quote(_ECHO)}")
        said = await echo.stdout.readline()
        if sandbox.spec.tier == "landlock":
            # Without a network of its own it has no sockets at all.
            assert said == ""
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.open_unix_connection("echo.socket")
            return
        assert said == "ready\n"
        content = secrets.token_bytes(1_000_000)
        for path in ("echo.socket", f"{sandbox.work_path}/echo.socket"):
            reader, writer = await connection.open_unix_connection(path, encoding=None)
            reading = asyncio.create_task(reader.read(-1))
            writer.write(content)
            writer.write_eof()
            assert await reading == content + b"that is all"
            writer.close()


async def test_a_unix_socket_of_the_host_is_not_reached_by_a_link(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    """The node may open what the tenant may not: it must not be the one who follows links."""
    outside = tmp_path / "outside"
    server_outside = await asyncio.start_unix_server(lambda _, writer: writer.close(), outside)
    async with asyncio.timeout(PATIENCE_S), server_outside, connected(sandbox) as connection:
        outside.chmod(0o700)
        assert (await connection.run(f"ln -s {outside} link")).exit_status == 0
        with pytest.raises(asyncssh.ChannelOpenError):
            await connection.open_unix_connection("link")


async def test_wrong_keys_are_refused(sandbox: Sandbox) -> None:
    with pytest.raises(asyncssh.PermissionDenied):
        async with asyncio.timeout(PATIENCE_S), connected(sandbox, STRANGER):
            pytest.fail("a stranger came in")


async def test_the_end_of_a_sandbox_ends_its_connections(sandbox: Sandbox) -> None:
    async with asyncio.timeout(PATIENCE_S), connected(sandbox) as connection:
        process = await connection.create_process("sleep 600")
        await sandbox.end()
        await connection.wait_closed()
        assert process.exit_status != 0


async def test_a_client_that_is_lost_takes_its_command_along(sandbox: Sandbox) -> None:
    counted: asyncio.Queue[Exit] = asyncio.Queue()

    def count(ended: Exit, _: float) -> None:
        counted.put_nowait(ended)

    async with asyncio.timeout(PATIENCE_S), connected(sandbox, count=count) as connection:
        process = await connection.create_process("echo ready; exec sleep 600")
        await process.stdout.readuntil("ready")
        process.channel.abort()
        assert (await counted.get()).code == "lease-ended"
        assert (await connection.run("true")).exit_status == 0


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n\r\n", secrets.token_bytes(5000)])
async def test_who_does_not_speak_ssh_is_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: bytes
) -> None:
    monkeypatch.setattr(server, "LOGIN_TIMEOUT_S", 0.5)
    async with asyncio.timeout(PATIENCE_S), open_bench("shared", tmp_path) as bench:
        sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
        async with serving(sandbox) as (sock, task):
            await asyncio.get_running_loop().sock_sendall(sock, said)
            await task


async def test_channels_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "CHANNELS_LIMIT", 2)
    async with asyncio.timeout(2 * PATIENCE_S), open_bench("shared", tmp_path) as bench:
        sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
        async with connected(sandbox) as connection:
            held = [await connection.create_process("cat") for _ in range(2)]
            with pytest.raises(asyncssh.ChannelOpenError):
                await connection.run("true")
            for process in held:
                process.stdin.write_eof()
                await process.wait()
            assert (await connection.run("true")).exit_status == 0
