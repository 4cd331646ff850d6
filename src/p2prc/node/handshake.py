"""The first words on every connection: each side shows its chain before anything is answered.

The dialler speaks first, so an acceptor tells a stranger nothing but a refusal and its reason. A
newcomer shows a ticket instead of a chain and is given a chain of its own; one without a ticket
asks, and waits for a person. Both sides check that the chain names the key that the connection
proved, and that nobody in it was put out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2prc.authority import Member, verify_chain
from p2prc.errors import (
    NotMember,
    P2prcError,
    PeerMisbehaved,
    PeerTooOld,
    TicketForeign,
    from_fields,
)
from p2prc.model.identity import NodeId, short
from p2prc.node.framed import FramedStream
from p2prc.node.standing import Standing
from p2prc.protocol.messages import (
    HELLO_FRAME_LIMIT_BYTES,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    Admitted,
    Ask,
    AskWaits,
    Hello,
    Join,
    Opening,
    Refused,
    opening_codec,
)
from p2prc.transport.port import Channel, Connection, Stream
from p2prc.wire.framing import FrameReader

HANDSHAKE_TIMEOUT_S = 10.0
FAREWELL_S = 2.0


@dataclass(frozen=True, slots=True)
class Introduction:
    """A finished handshake: who the peer is, and the stream to go on with."""

    peer: Member
    stream: Stream
    reader: FrameReader
    observed_address: str
    version: int


@dataclass(frozen=True, slots=True)
class Knock:
    """Somebody without a ticket, who waits to be let in."""

    connection: Connection
    framed: FramedStream[Opening]
    request: Ask


Judge = Callable[[Member], None]
"""Raise Revoked for a member that was put out."""
Admit = Callable[[NodeId, Join], bytes]
"""Make a chain for a newcomer that shows a ticket; raises what `Refused` shall say."""


def trust(_: Member) -> None:
    """Judge nobody: of whom we have heard nothing yet."""


async def introduce(
    connection: Connection, standing: Standing, judge: Judge = trust
) -> Introduction:
    """Show our chain to the peer that we dialled, and check its own.

    Raises NotMember, TicketForeign and other refusals with the peer's reason, PeerError.
    """
    framed = _framed(await connection.open_stream())
    await framed.send(Hello(standing.network, standing.chain))
    return await _check_hello(connection, framed, standing.network, judge)


async def introduce_with_ticket(
    connection: Connection, ticket: str, *, network: NodeId, name: str
) -> tuple[Introduction, bytes]:
    """Show a ticket; return the introduction and our new chain."""
    framed = _framed(await connection.open_stream())
    await framed.send(Join(network, ticket, name=name))
    admitted = await _answer(framed)
    if not isinstance(admitted, Admitted):
        raise PeerMisbehaved("the peer answered a ticket with something else")
    return await _check_hello(connection, framed, network), admitted.membership


async def ask_in(
    connection: Connection, *, name: str, waiting: Callable[[], None]
) -> tuple[NodeId, bytes]:
    """Ask a member to let us in; return the network and our new chain, once a person has decided.

    `waiting` is called when the request is listed. Cancelling this withdraws it. Raises what the
    member answers, PeerError.
    """
    framed = _framed(await connection.open_stream())
    await framed.send(Ask(name=name))
    is_listed = False
    while isinstance(answer := await _answer(framed), AskWaits):
        if not is_listed:
            is_listed = True
            waiting()
    if not isinstance(answer, Admitted):
        raise PeerMisbehaved("the peer answered a request with something else")
    hello = await _answer(framed)
    if not isinstance(hello, Hello):
        raise PeerMisbehaved("the peer did not show its chain")
    _check_version(hello.version)
    _check_chain(hello.membership, hello.network, connection.peer)
    return hello.network, answer.membership


async def let_in(knock: Knock, chain: bytes, standing: Standing) -> None:
    """Give a newcomer that asked its chain, and show ours. Raises PeerError."""
    await knock.framed.send(Admitted(chain))
    await knock.framed.send(Hello(standing.network, standing.chain))
    await knock.framed.stream.finish()
    # It closes once it has read them; we wait a little so that it can.
    await knock.framed.receive(timeout_s=FAREWELL_S)


async def receive(
    connection: Connection, standing: Standing, admit: Admit, judge: Judge = trust
) -> Introduction | Knock:
    """Hear a dialler out; raise and refuse when it is not one of us."""
    framed = _framed(await connection.accept_stream())
    try:
        opening = await framed.receive(timeout_s=HANDSHAKE_TIMEOUT_S)
        if isinstance(opening, Ask):
            _check_version(opening.version)
            if connection.channel is not Channel.CONTROL:
                raise PeerMisbehaved("who asks to be let in asks on a control connection")
            return Knock(connection, framed, opening)
        member, version = await _hear(opening, framed, connection, standing, admit)
        judge(member)
        observed = await connection.remote_address()
        await framed.send(Hello(standing.network, standing.chain, observed_address=observed))
    except P2prcError as error:
        await refuse(framed, error)
        raise
    return Introduction(member, framed.stream, framed.take_reader(), "", version)


async def _hear(
    opening: Opening | None,
    framed: FramedStream[Opening],
    connection: Connection,
    standing: Standing,
    admit: Admit,
) -> tuple[Member, int]:
    match opening:
        case Hello():
            _check_version(opening.version)
            _check_network(opening.network, standing.network, NotMember)
            member = _check_chain(opening.membership, standing.network, connection.peer)
            return member, opening.version
        case Join():
            _check_version(opening.version)
            _check_network(opening.network, standing.network, TicketForeign)
            chain = admit(connection.peer, opening)
            await framed.send(Admitted(chain))
            return _check_chain(chain, standing.network, connection.peer), opening.version
        case _:
            raise PeerMisbehaved("a connection must begin with a chain or a ticket")


async def _check_hello(
    connection: Connection,
    framed: FramedStream[Opening],
    network: NodeId,
    judge: Judge = trust,
) -> Introduction:
    hello = await _answer(framed)
    if not isinstance(hello, Hello):
        raise PeerMisbehaved("the peer did not show its chain")
    _check_version(hello.version)
    member = _check_chain(hello.membership, network, connection.peer)
    judge(member)
    reader = framed.take_reader()
    return Introduction(member, framed.stream, reader, hello.observed_address, hello.version)


async def _answer(framed: FramedStream[Opening]) -> Opening:
    answer = await framed.receive(timeout_s=HANDSHAKE_TIMEOUT_S)
    if answer is None:
        raise PeerMisbehaved("the peer ended the handshake")
    if isinstance(answer, Refused):
        raise from_fields(answer.code, answer.message, hint=answer.hint, otherwise=NotMember)
    return answer


async def refuse(framed: FramedStream[Opening], error: P2prcError) -> None:
    """Tell a dialler why not, and wait a little until it has read it. Never raises."""
    try:
        await framed.send(Refused(error.code, error.message[:500], error.hint[:500]))
        await framed.stream.finish()
        # The dialler closes once it has read the reason; we wait a little so that it can.
        await framed.receive(timeout_s=FAREWELL_S)
    except P2prcError:
        await framed.stream.abort()


def _check_version(version: int) -> None:
    if version < OLDEST_PROTOCOL_VERSION:
        raise PeerTooOld(
            f"protocol version {version} is too old, at least {OLDEST_PROTOCOL_VERSION} is needed",
            hint="install a newer p2prc",
        )
    if version > PROTOCOL_VERSION + 1:
        raise PeerTooOld(
            f"protocol version {version} is too new, at most {PROTOCOL_VERSION + 1} is understood",
            hint="install a newer p2prc here",
        )


def _check_network(theirs: NodeId, ours: NodeId, refusal: type[P2prcError]) -> None:
    if theirs != ours:
        raise refusal("this node belongs to another network")


def _check_chain(chain: bytes, network: NodeId, peer: NodeId) -> Member:
    member = verify_chain(chain, network=network)
    if member.node != peer:
        raise NotMember(f"the chain was made for another node than {short(peer)}")
    return member


def _framed(stream: Stream) -> FramedStream[Opening]:
    return FramedStream(stream, opening_codec, limit_bytes=HELLO_FRAME_LIMIT_BYTES)
