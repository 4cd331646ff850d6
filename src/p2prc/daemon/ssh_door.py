"""Where the system's OpenSSH client comes in: a Unix socket of raw bytes beside the API's.

The client's connector (`cli/ssh_connector.py`) says a container's name in one line and is answered
in one: `ok` with the host key to expect, or `error` with the reason. From then on the bytes are
SSH's own; so the connector can hand the socket itself to the client and be gone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from p2prc.api.listening import close_listener, listen_on
from p2prc.errors import InvalidInput, P2prcError
from p2prc.model.identity import NodeId
from p2prc.node.splicing import SocketBytes, splice
from p2prc.runtime.port import Link
from p2prc.ssh.keys import public_line

NAME_LIMIT_BYTES = 200
_NAME_TIMEOUT_S = 10.0
_BUFFER_BYTES = 512 * 1024
OpenSsh = Callable[[str], Awaitable[tuple[NodeId, Link]]]
"""Find a container and open its SSH; returns whose host key it has. Raises P2prcError."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def open_ssh_door(open_ssh: OpenSsh, path: str) -> AsyncIterator[None]:
    """Let clients in inside the block. Raises HomeBusy, HomeUnusable."""
    listener = listen_on(path)
    conversations: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(_converse(reader, writer, open_ssh), name="an ssh client")
        conversations.add(task)
        task.add_done_callback(conversations.discard)

    try:
        server = await asyncio.start_unix_server(begin, sock=listener, limit=_BUFFER_BYTES)
        try:
            yield
        finally:
            server.close()
            for task in conversations:
                task.cancel()
            await asyncio.gather(*conversations, return_exceptions=True)
    finally:
        close_listener(listener, path)


async def _converse(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, open_ssh: OpenSsh
) -> None:
    client = SocketBytes(reader, writer)
    try:
        try:
            node, link = await open_ssh(await _name(reader))
        except P2prcError as error:
            await client.write(_refusal(error))
            return
        try:
            await client.write(f"ok {public_line(node)}\n".encode())
            await splice(client, link)
        finally:
            await link.close()
    except OSError as error:
        log.debug("an ssh client left", extra={"reason": str(error)})
    finally:
        await client.close()


async def _name(reader: asyncio.StreamReader) -> str:
    try:
        async with asyncio.timeout(_NAME_TIMEOUT_S):
            line = await reader.readuntil(b"\n")
    except (TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        line = b""
    with suppress(UnicodeDecodeError):
        if 0 < len(line) <= NAME_LIMIT_BYTES and (name := line.decode().strip()):
            return name
    raise InvalidInput("an ssh client says a container's name in its first line")


def _refusal(error: P2prcError) -> bytes:
    words = "\t".join(" ".join(text.split()) for text in (error.message, error.hint) if text)
    return f"error {words}\n".encode()
