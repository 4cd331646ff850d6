"""The server's half of one SSH connection, over any bytes both ways, into one sandbox.

One key may enter, and nothing leads out of the sandbox: sessions are commands inside, forwarded
ports and Unix sockets are those inside; there are no passwords, no agent, no X11 and no listening
for others.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import asyncssh
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from p2prc.errors import P2prcError, PortClosed
from p2prc.model.identity import NodeId
from p2prc.runtime.port import Link, Sandbox
from p2prc.ssh.inflow import Inflow
from p2prc.ssh.keys import public_blob
from p2prc.ssh.local_sockets import dial_path
from p2prc.ssh.session import Count, Session

LOGIN_TIMEOUT_S = 30.0
CHANNELS_LIMIT = 64
"""Sessions and forwarded ports of one connection at a time."""
_PIECE_BYTES = 256 * 1024
_BUFFER_BYTES = 2 * _PIECE_BYTES
_LOOPBACK = ("localhost", "127.0.0.1", "::1")

log = logging.getLogger(__name__)
# It tells of every channel, with what the tenant typed.
logging.getLogger("asyncssh").setLevel(logging.WARNING)


async def serve_ssh(
    link: Link,
    sandbox: Sandbox,
    *,
    host_key: bytes,
    authorized: NodeId,
    banner: str = "",
    variables: Mapping[str, str] | None = None,
    count: Count = lambda *_: None,
) -> None:
    """Serve until the client leaves or the sandbox ends; the link is closed then.

    `host_key` is the 32-byte secret of the node, `authorized` the only peer that may enter.
    Shells on a terminal begin with the `banner`; `count` is told of every command's end.
    """
    ours, theirs = socket.socketpair()
    for end in (ours, theirs):
        end.setblocking(False)
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_BUFFER_BYTES)
    owner = _Server(sandbox, authorized, banner=banner, variables=variables or {}, count=count)
    tasks = [
        asyncio.create_task(_speak(theirs, host_key, owner), name="ssh"),
        asyncio.create_task(_carry_in(link, writer), name="bytes to ssh"),
        asyncio.create_task(_carry_out(reader, link), name="bytes from ssh"),
        asyncio.create_task(_until_ended(sandbox), name="end of a sandbox"),
    ]
    speaking, _, carrying, ending = tasks
    try:
        await asyncio.wait({speaking, carrying, ending}, return_when=asyncio.FIRST_COMPLETED)
        # The last word, such as why a key was refused, is still on its way.
        await asyncio.wait({carrying}, timeout=1.0)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        writer.close()
        theirs.close()
        await link.close()


async def _speak(sock: socket.socket, host_key: bytes, owner: _Server) -> None:
    key = Ed25519PrivateKey.from_private_bytes(host_key)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        connection = await asyncssh.run_server(
            sock,
            config=None,
            server_factory=lambda: owner,
            server_host_keys=[asyncssh.import_private_key(pem)],
            server_version="p2prc",
            login_timeout=LOGIN_TIMEOUT_S,
            connect_timeout=LOGIN_TIMEOUT_S,
            host_based_auth=False,
            public_key_auth=True,
            kbdint_auth=False,
            password_auth=False,
            gss_host=None,
            agent_forwarding=False,
            x11_forwarding=False,
            allow_scp=False,
            line_editor=False,
            encoding=None,
            compression_algs=["none"],
            tcp_keepalive=False,
        )
    except (asyncssh.Error, OSError, TimeoutError) as error:
        log.info("an ssh connection was refused", extra={"why": str(error)[:200]})
        return
    try:
        await connection.wait_closed()
    finally:
        connection.abort()


async def _carry_in(link: Link, writer: asyncio.StreamWriter) -> None:
    try:
        while content := await link.read():
            writer.write(content)
            await writer.drain()
    except OSError:
        pass
    finally:
        writer.close()


async def _carry_out(reader: asyncio.StreamReader, link: Link) -> None:
    try:
        while content := await reader.read(_PIECE_BYTES):
            await link.write(content)
        await link.end_writing()
    except OSError:
        return


async def _until_ended(sandbox: Sandbox) -> None:
    await sandbox.wait_ended()


class _Server(asyncssh.SSHServer):
    """Decides who may enter and what may be opened."""

    def __init__(
        self,
        sandbox: Sandbox,
        authorized: NodeId,
        *,
        banner: str,
        variables: Mapping[str, str],
        count: Count,
    ) -> None:
        self._sandbox = sandbox
        self._authorized = public_blob(authorized)
        self._banner = banner
        self._variables = variables
        self._channels = 0
        self._count = count

    def begin_auth(self, username: str) -> bool:
        return True

    def public_key_auth_supported(self) -> bool:
        return True

    def validate_public_key(self, username: str, key: asyncssh.SSHKey) -> bool:
        return key.public_data == self._authorized

    def session_requested(self) -> Session:
        self._take_channel()
        return Session(
            self._sandbox,
            self._variables,
            banner=self._banner,
            ended=self._channel_ended,
            count=self._count,
        )

    def connection_requested(
        self, dest_host: str, dest_port: int, orig_host: str, orig_port: int
    ) -> Awaitable[asyncssh.SSHTCPSession[bytes]]:
        if dest_host not in _LOOPBACK:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED, "only ports inside can be reached"
            )
        self._take_channel()
        return self._join(self._sandbox.dial(dest_port))

    def unix_connection_requested(self, dest_path: str) -> Awaitable[Any]:
        self._take_channel()
        return self._join(dial_path(self._sandbox, dest_path))

    async def _join(self, dialed: Awaitable[Link]) -> _Forward:
        try:
            link = await dialed
        except (P2prcError, OSError) as error:
            self._channel_ended()
            closed = isinstance(error, PortClosed)
            code = (
                asyncssh.OPEN_CONNECT_FAILED
                if closed
                else asyncssh.OPEN_ADMINISTRATIVELY_PROHIBITED
            )
            raise asyncssh.ChannelOpenError(code, str(error)[:200]) from error
        return _Forward(link, self._channel_ended)

    def _take_channel(self) -> None:
        if self._channels >= CHANNELS_LIMIT:
            raise asyncssh.ChannelOpenError(
                asyncssh.OPEN_RESOURCE_SHORTAGE, "too many channels at a time"
            )
        self._channels += 1

    def _channel_ended(self) -> None:
        self._channels -= 1


class _Forward(asyncssh.SSHTCPSession[bytes]):
    """A port or a socket inside, for one channel."""

    def __init__(self, link: Link, ended: Callable[[], None]) -> None:
        self._link = link
        self._ended = ended
        self._inflow = Inflow()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._channel: asyncssh.SSHTCPChannel[bytes] | None = None
        self._task: asyncio.Task[None] | None = None

    def connection_made(self, chan: asyncssh.SSHTCPChannel[bytes]) -> None:
        self._channel = chan
        self._inflow.attach(chan)

    def session_started(self) -> None:
        self._task = asyncio.create_task(self._carry(), name="a forwarded port")

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._inflow.put(data)

    def eof_received(self) -> bool:
        self._inflow.end()
        return True

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inflow.end()
        if self._task is not None:
            self._task.cancel()
        self._ended()

    async def _carry(self) -> None:
        sending = asyncio.create_task(self._send(), name="bytes to a forwarded port")
        channel = self._channel
        try:
            while channel is not None and (content := await self._link.read()):
                channel.write(content)
                await self._has_room.wait()
            if channel is not None:
                channel.write_eof()
            await sending
        except OSError:
            pass
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
            await self._link.close()
            if channel is not None:
                channel.close()

    async def _send(self) -> None:
        while content := await self._inflow.read():
            await self._link.write(content)
        await self._link.end_writing()
