"""TLS over a link whose first bytes were read already."""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress

from p2prc.web.links import Bytes

_READ_BYTES = 256 * 1024


class TlsLink:
    """Both directions of a TLS connection over another link. `early` came on that already.

    With `server_hostname` it is the client's end, else the server's. Raises OSError, of which
    ssl.SSLError is one.
    """

    def __init__(
        self,
        link: Bytes,
        context: ssl.SSLContext,
        *,
        early: bytes = b"",
        server_hostname: str | None = None,
    ) -> None:
        self._link = link
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._incoming.write(early)
        self._tls = context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_hostname is None,
            server_hostname=server_hostname,
        )
        self._sending = asyncio.Lock()

    async def shake_hands(self) -> None:
        """Agree on keys. Raises OSError."""
        try:
            while True:
                try:
                    self._tls.do_handshake()
                except ssl.SSLWantReadError:
                    await self._send()
                    if not await self._receive():
                        raise ConnectionResetError("it ended before keys were agreed") from None
                else:
                    break
        finally:
            # Also what is wrong is told.
            await self._send()

    async def read(self) -> bytes:
        """Return what comes next; nothing at the end."""
        while True:
            content = self._read_here()
            if content is not None:
                return content
            # A change of keys is answered by reading.
            await self._send()
            if not await self._receive():
                return b""

    async def write(self, content: bytes) -> None:
        """Send bytes; returns when there is room for more."""
        if content:
            self._tls.write(content)
            await self._send()

    async def end_writing(self) -> None:
        """Say that nothing more comes from us."""
        # It would wait for the other side's own end, which we do not.
        with suppress(ssl.SSLError):
            self._tls.unwrap()
        await self._send()
        await self._link.end_writing()

    async def close(self) -> None:
        """Let go of it."""
        await self._link.close()

    def _read_here(self) -> bytes | None:
        """Return what can be read without waiting; None where that is nothing."""
        pieces: list[bytes] = []
        size = 0
        while size < _READ_BYTES:
            try:
                piece = self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                break
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                piece = b""
            if not piece:
                return b"".join(pieces)
            pieces.append(piece)
            size += len(piece)
        return b"".join(pieces) or None

    async def _receive(self) -> bool:
        content = await self._link.read()
        if content:
            self._incoming.write(content)
        return bool(content)

    async def _send(self) -> None:
        async with self._sending:
            while content := self._outgoing.read():
                await self._link.write(content)
