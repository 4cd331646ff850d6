"""The way in over TCP and TLS: a plain HTTP request asks for it, then TLS begins on the same line.

`GET /bulk` with `Upgrade: p2prc-bulk` is answered by 101; then the dialler begins TLS 1.3. Inside
it shows a token that it was told over its control link, and the number of its connection; one byte
answers. It trusts exactly the certificate that came with the token.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from p2prc.errors import NotAllowed, P2prcError, PeerError, PeerMisbehaved, PeerUnreachable
from p2prc.model.identity import NodeId
from p2prc.protocol.bulk_tokens import TOKEN_BYTES
from p2prc.transport import addresses as address_text
from p2prc.transport.tls_certificate import Certificate, new_certificate, trusting
from p2prc.transport.tls_connection import ServedConnection
from p2prc.transport.tls_lane import Lane

BULK_PATH = "/bulk"
BULK_PROTOCOL = "p2prc-bulk"
SESSION_BYTES = 16
ENTER_S = 5.0
"""How long somebody may take to get from the request to a token that is good."""
_ANSWER_LIMIT_BYTES = 4096
_WELCOME = b"\1"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class DoorLimits:
    """How many lanes there may be: of strangers, of one peer, and together."""

    entering: int = 64
    entering_per_address: int = 16
    per_peer: int = 64
    total: int = 256


class TlsDoor:
    """Lets in whoever shows a token; tells of each new connection."""

    def __init__(
        self,
        redeem: Callable[[bytes], NodeId],
        entered: Callable[[ServedConnection], None],
        *,
        refused: Callable[[str], None],
        limits: DoorLimits | None = None,
    ) -> None:
        self._redeem = redeem
        self._entered = entered
        self._refused = refused
        self._limits = limits or DoorLimits()
        self._certificate: Certificate | None = None
        self._entering: Counter[str] = Counter()
        self._served: dict[tuple[NodeId, bytes], ServedConnection] = {}

    @property
    def certificate(self) -> bytes:
        """What diallers must trust, in DER."""
        return self._shown().der

    def _shown(self) -> Certificate:
        # Made when it is first needed: a node that serves no bulk need not wait for it.
        if self._certificate is None:
            self._certificate = new_certificate()
        return self._certificate

    def make_room(self, address: str) -> bool:
        """Keep a place for somebody whom `receive` gets next; False, and counted: there is none."""
        limits = self._limits
        if (
            self._entering.total() < limits.entering
            and self._entering[address] < limits.entering_per_address
        ):
            self._entering[address] += 1
            return True
        self._refused("bulk-too-many")
        return False

    async def receive(self, transport: asyncio.Transport, address: str) -> None:
        """Let in whom we made room for, or close the line. Never raises PeerError."""
        lane = Lane(is_served=True)
        try:
            async with asyncio.timeout(ENTER_S):
                await _secure(transport, lane, self._shown().context, server_side=True)
                greeting = await lane.read_exactly(TOKEN_BYTES + SESSION_BYTES)
            peer = self._redeem(greeting[:TOKEN_BYTES])
            self._seat(peer, greeting[TOKEN_BYTES:], lane, transport)
        except TimeoutError:
            self._turn_away(lane, transport, "bulk-slow")
        except (OSError, PeerError):
            self._turn_away(lane, transport, "bulk-handshake")
        except NotAllowed as error:
            log.info("refused at the bulk door", extra={"from": address, "why": error.message})
            self._turn_away(lane, transport, "bulk-token")
        except BaseException:
            self._turn_away(lane, transport, "")
            raise
        finally:
            self._entering[address] -= 1
            self._entering += Counter()  # Forgets who is at zero.

    def _turn_away(self, lane: Lane, transport: asyncio.Transport, code: str) -> None:
        if code:
            self._refused(code)
        lane.abort("turned away")
        transport.abort()

    def _seat(self, peer: NodeId, session: bytes, lane: Lane, transport: asyncio.Transport) -> None:
        of_peer = sum(each.lanes for (of, _), each in self._served.items() if of == peer)
        total = sum(each.lanes for each in self._served.values())
        if of_peer >= self._limits.per_peer or total >= self._limits.total:
            self._turn_away(lane, transport, "bulk-too-many")
            return
        connection = self._served.get((peer, session))
        if connection is None:
            connection = self._connection(peer, session, transport)
            self._entered(connection)
        lane.write_plain(_WELCOME)
        connection.add(lane)

    def _connection(
        self, peer: NodeId, session: bytes, transport: asyncio.Transport
    ) -> ServedConnection:
        host, port, *_ = transport.get_extra_info("peername") or ("", 0)
        connection = ServedConnection(peer, address_text.join(str(host), int(port)))
        key = (peer, session)
        self._served[key] = connection
        connection.closed = lambda: self._forget(key, connection)
        return connection

    def _forget(self, key: tuple[NodeId, bytes], connection: ServedConnection) -> None:
        if self._served.get(key) is connection:
            del self._served[key]

    def end_of(self, peer: NodeId, reason: str) -> None:
        """End every connection of one peer."""
        for (of, _), connection in list(self._served.items()):
            if of == peer:
                connection.end(reason)

    def end_all(self, reason: str) -> None:
        """End every connection."""
        for connection in list(self._served.values()):
            connection.end(reason)


async def dial_lane(address: str, *, certificate: bytes, token: bytes, session: bytes) -> Lane:
    """Open a lane at `host:port`. Raises PeerUnreachable. The caller bounds the wait."""
    try:
        context = trusting(certificate)
        return await _dial(address, context, certificate, token + session)
    except (OSError, ValueError, PeerError) as error:
        told = error.message if isinstance(error, P2prcError) else str(error)
        raise PeerUnreachable(f"no bulk door at {address}: {told[:200]}") from error


async def _dial(address: str, context: ssl.SSLContext, certificate: bytes, greeting: bytes) -> Lane:
    host, port = address_text.parse(address)
    loop = asyncio.get_running_loop()
    transport, asking = await loop.create_connection(_Asking, str(host), port)
    lane = Lane()
    try:
        transport.write(
            f"GET {BULK_PATH} HTTP/1.1\r\nHost: {address}\r\n"
            f"Connection: Upgrade\r\nUpgrade: {BULK_PROTOCOL}\r\n\r\n".encode("ascii")
        )
        await asking.answered
        secured = await _secure(transport, lane, context, server_side=False)
        shown = secured.get_extra_info("ssl_object").getpeercert(binary_form=True)
        _see_same(shown, certificate, "another certificate than we were told")
        lane.write_plain(greeting)
        _see_same(await lane.read_exactly(len(_WELCOME)), _WELCOME, "not the answer to a token")
    except BaseException:
        lane.abort("the dial failed")
        transport.abort()
        raise
    return lane


def _see_same(found: bytes | None, expected: bytes, complaint: str) -> None:
    if found != expected:
        raise PeerMisbehaved(complaint)


async def _secure(
    transport: asyncio.Transport, lane: Lane, context: ssl.SSLContext, *, server_side: bool
) -> asyncio.Transport:
    loop = asyncio.get_running_loop()
    secured = await loop.start_tls(
        transport, lane, context, server_side=server_side, ssl_handshake_timeout=ENTER_S
    )
    if secured is None:
        raise ConnectionResetError("the line broke")
    lane.attach(secured)
    return secured


class _Asking(asyncio.Protocol):
    """Reads the answer to the request, and not a byte more."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._head = b""

    def data_received(self, data: bytes) -> None:
        self._head += data
        if self.answered.done():
            return
        if self._head.startswith(b"HTTP/1.1 101 ") and self._head.endswith(b"\r\n\r\n"):
            self.answered.set_result(None)
        elif b"\r\n\r\n" in self._head or len(self._head) > _ANSWER_LIMIT_BYTES:
            self._fail(ConnectionRefusedError("something else answers"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionResetError("the line broke"))

    def _fail(self, error: OSError) -> None:
        if not self.answered.done():
            self.answered.set_exception(error)
            # Whoever dialled may have given up.
            self.answered.exception()
