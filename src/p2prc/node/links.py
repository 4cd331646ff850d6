"""All live conversations of this node: accept, dial when somebody is needed, notice who is lost.

Two nodes that dial each other at once have two links; both work, the newest is used, and the peer
is lost when the last one is. A link that ends while another lives may have taken letters with it,
or belonged to a process that was killed and started again: that is told too.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from p2prc.authority import Member
from p2prc.errors import NodeUnknown, P2prcError, PeerError, PeerMisbehaved, PeerUnreachable
from p2prc.model.identity import NodeId, short
from p2prc.model.ticket import Bootstrap
from p2prc.node.handshake import (
    HANDSHAKE_TIMEOUT_S,
    Introduction,
    Knock,
    ask_in,
    introduce,
    introduce_with_ticket,
    receive,
)
from p2prc.node.lanes import Lanes, Surroundings
from p2prc.node.link import Answer, Link
from p2prc.node.room import Room
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks, Work
from p2prc.protocol.messages import AskBulkDoor, Control, Goodbye, Join
from p2prc.transport.port import Channel, Connection, Endpoint, Stream
from p2prc.transport.tls_connection import DialledConnection

DIAL_TIMEOUT_S = 10.0
JOIN_DIAL_TIMEOUT_S = 4.0
"""A person waits, and nobody may be there."""
NEWS_PATIENCE_S = 2.0
"""A dial that knows no relay of the peer begins anew after this long: it may know one by then."""
NEWS_PAUSE_S = 0.2
HANDSHAKES_LIMIT = 64
CONNECTIONS_PER_PEER = 4
"""Of each channel; an honest peer has one, two after dialling at once, one more that just died."""

log = logging.getLogger(__name__)


class Switchboard(Protocol):
    """What the node does with what arrives over links."""

    def standing(self) -> Standing: ...

    def admit(self, joiner: NodeId, request: Join) -> bytes: ...

    def judge(self, member: Member) -> None: ...

    async def knocked(self, knock: Knock) -> None: ...

    def seen_afresh(self, peer: NodeId, address: str) -> None: ...

    def addresses_of(self, peer: NodeId) -> tuple[str, ...]: ...

    def relays_of(self, peer: NodeId) -> tuple[str, ...]: ...

    async def ready_relays(self, relays: Sequence[str]) -> tuple[str, ...]: ...

    def link_up(self, peer: NodeId) -> None: ...

    def link_down(self, peer: NodeId, *, on_purpose: bool) -> None: ...

    def link_renewed(self, peer: NodeId) -> None: ...

    def letter(self, peer: NodeId, body: Control, answer: Answer | None) -> None: ...

    async def session(self, peer: NodeId, stream: Stream) -> None: ...

    async def serve_bulk(self, peer: NodeId, stream: Stream) -> None: ...


@dataclass(frozen=True, slots=True)
class Meeting:
    """A connection on which both sides have said who they are, and that nobody uses yet."""

    connection: Connection
    introduction: Introduction


class Links:
    """The table of links, by peer."""

    def __init__(self, endpoint: Endpoint, switchboard: Switchboard, tasks: Tasks) -> None:
        self._endpoint = endpoint
        self._board = switchboard
        self._tasks = tasks
        self._links: dict[NodeId, list[Link]] = {}
        self._dials: dict[NodeId, Work[Link]] = {}
        self._bulk: dict[NodeId, Work[Connection]] = {}
        self._served: dict[NodeId, list[Connection]] = {}
        self._bulk_members: dict[NodeId, Member] = {}
        self._departed: set[NodeId] = set()
        self._guests: dict[int, Connection] = {}
        self._dismissed: set[NodeId] = set()
        self.refusals: Counter[str] = Counter()
        around = Surroundings(
            link_of=self.get,
            addresses_of=switchboard.addresses_of,
            serve=lambda connection: self._serve_streams(connection, switchboard.serve_bulk),
            refused=lambda code: self.refusals.update((code,)),
        )
        self.lanes = Lanes(around, tasks)

    # -- asking about links --

    def get(self, peer: NodeId) -> Link | None:
        """Return the newest live link to the peer."""
        links = reversed(self._links.get(peer, []))
        return next((link for link in links if not link.is_lost), None)

    def peers(self) -> list[NodeId]:
        """Return whom we talk to."""
        return list(self._links)

    def members(self) -> list[Member]:
        """Return who has any connection to us, as they introduced themselves."""
        links = [links[-1].member for links in self._links.values() if links]
        return [
            *links,
            *(who for who in self._bulk_members.values() if who.node not in self._links),
        ]

    def tell(self, peer: NodeId, body: Control) -> bool:
        """Send a notice when there is a link; say whether there was."""
        link = self.get(peer)
        if link is None:
            return False
        link.tell(body)
        return True

    def widen(self, peer: NodeId) -> None:
        """Serve far more streams of a peer than others get: this node's owner depends on it."""
        for link in self._links.get(peer, ()):
            link.room.widen(link.connection)

    async def reach(self, peer: NodeId) -> Link:
        """Return a link to the peer, dialling when there is none. Raises PeerError, NotAllowed."""
        if (link := self.get(peer)) is not None:
            return link
        if (dial := self._dials.get(peer)) is not None:
            began_at = asyncio.get_running_loop().time()
            try:
                return await asyncio.shield(dial)
            except PeerUnreachable:
                # One that began when the peer's relay was away may fail though all is well now;
                # whoever has waited for most of it need not hear the same twice.
                if asyncio.get_running_loop().time() - began_at > DIAL_TIMEOUT_S / 2:
                    raise
        dial = self._dials.get(peer)
        if dial is None:
            dial = self._tasks.start_for_peer(self._dial(peer), f"dial {short(peer)}")
            self._dials[peer] = dial
            dial.add_done_callback(lambda _: self._dials.pop(peer, None))
        return await asyncio.shield(dial)

    async def bulk_connection(self, peer: NodeId) -> Connection:
        """Return the connection on which we fetch from the peer: over TCP if that goes."""
        if (direct := await self.lanes.connection(peer)) is not None:
            return direct
        task = self._bulk.get(peer)
        if task is not None and task.done():
            stale = task.cancelled() or task.exception() is not None or task.result().is_closed
            task = None if stale else task
        if task is None:
            task = self._tasks.start_for_peer(self._dial_bulk(peer), f"bulk {short(peer)}")
            self._bulk[peer] = task
        return await asyncio.shield(task)

    def give_up_lanes(self, connection: Connection, reason: str) -> bool:
        """Fetch over iroh for a while; False where that was so, or the peer itself is gone."""
        if not isinstance(connection, DialledConnection) or self.get(connection.peer) is None:
            return False
        self.lanes.give_up(connection.peer, reason)
        return True

    async def join(
        self, to: Bootstrap, ticket: str, *, network: NodeId, name: str, relays: Sequence[str] = ()
    ) -> tuple[bytes, Meeting]:
        """Show a ticket to a member; return our new chain, and the connection to go on with.

        Raises the member's refusal, PeerError.
        """
        peer = to.node
        connection = await self._endpoint.connect(
            peer,
            to.addresses,
            Channel.CONTROL,
            timeout_s=DIAL_TIMEOUT_S if relays else JOIN_DIAL_TIMEOUT_S,
            relays=relays,
        )
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                introduction, chain = await introduce_with_ticket(
                    connection, ticket, network=network, name=name
                )
        except TimeoutError as error:
            await connection.close("no answer")
            raise PeerUnreachable(f"{short(peer)} did not answer the ticket") from error
        except BaseException:
            await connection.close("not joined")
            raise
        return chain, Meeting(connection, introduction)

    async def keep(self, meeting: Meeting) -> bool:
        """Go on with the connection on which we were let in; False when a new one is better.

        A guest's way through a member's relay is slow, and ends within a minute.
        """
        connection = meeting.connection
        if not connection.is_closed and (await connection.path()).kind == "direct":
            self._adopt(connection, meeting.introduction)
            return True
        await connection.close("joined")
        return False

    async def ask_in(
        self, peer: NodeId, addresses: Sequence[str], *, name: str, waiting: Callable[[], None]
    ) -> tuple[NodeId, bytes]:
        """Ask a member to let us in and wait; return the network and our new chain.

        Cancelling this withdraws the request. Raises the member's refusal, PeerError.
        """
        connection = await self._endpoint.connect(
            peer, addresses, Channel.CONTROL, timeout_s=JOIN_DIAL_TIMEOUT_S
        )
        try:
            return await ask_in(connection, name=name, waiting=waiting)
        finally:
            await connection.close("no longer asks")

    # -- life --

    async def run(self) -> None:
        """Accept connections until the endpoint is closed."""
        while (connection := await self._endpoint.accept()) is not None:
            self._tasks.start_for_peer(self._welcome(connection), "welcome")

    async def leave_all(self, *, farewell: bool) -> None:
        """Close every link, saying goodbye first."""
        links = [link for several in self._links.values() for link in several]
        async with asyncio.TaskGroup() as group:
            for link in links:
                group.create_task(_take_leave(link, farewell=farewell))
        self.lanes.close("this node stops")
        for task in self._bulk.values():
            if task.done() and not task.cancelled() and task.exception() is None:
                await _hang_up(task.result(), "this node stops")
        self._bulk.clear()
        for connection in [each for several in self._served.values() for each in several]:
            await _hang_up(connection, "this node stops")

    async def drop(self, peer: NodeId, reason: str) -> None:
        """Close every link to one peer."""
        for link in list(self._links.get(peer, ())):
            await link.close(reason)

    def release(self, peer: NodeId) -> None:
        """Hang up when the link has served for nothing but news of the network."""
        links = self._links.get(peer, [])
        if len(links) == 1 and not links[0].is_used and peer not in self._bulk:
            self._departed.add(peer)
            self._tasks.start_for_peer(
                _take_leave(links[0], farewell=True), f"release {short(peer)}"
            )

    def dismiss(self, peer: NodeId, reason: str) -> None:
        """Hear a peer no longer, and hang up on all channels once it has read what we said."""
        if peer in self._dismissed:
            return
        self._dismissed.add(peer)
        for connection in self._served.get(peer, ()):
            self._tasks.start_for_peer(_hang_up(connection, reason), "bulk is over")
        self._drop_bulk(peer)
        self._tasks.start_for_peer(self._dismiss(peer), f"dismiss {short(peer)}")

    async def _dismiss(self, peer: NodeId) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                for link in list(self._links.get(peer, ())):
                    group.create_task(_take_leave(link, farewell=True))
        finally:
            self._dismissed.discard(peer)

    # -- dialling --

    async def _dial(self, peer: NodeId) -> Link:
        connection, introduction = await self._connect(peer, Channel.CONTROL)
        return self._adopt(connection, introduction)

    async def _dial_bulk(self, peer: NodeId) -> Connection:
        connection, introduction = await self._connect(peer, Channel.BULK)
        try:
            await introduction.stream.finish()
            self._board.judge(introduction.peer)
        except P2prcError:
            await _hang_up(connection, "put out")
            raise
        self._bulk_members[peer] = introduction.peer
        self._tasks.start_for_peer(
            self._serve_streams(connection, self._board.serve_bulk), f"bulk of {short(peer)}"
        )
        return connection

    async def reach_at(
        self, peer: NodeId, addresses: Sequence[str], relays: Sequence[str] = ()
    ) -> Link:
        """Return a link to a peer whose record we do not have yet. Raises PeerError."""
        if (link := self.get(peer)) is not None:
            return link
        return self._adopt(*await self._connect_at(peer, Channel.CONTROL, addresses, relays))

    async def _connect(self, peer: NodeId, channel: Channel) -> tuple[Connection, Introduction]:
        if peer == self._endpoint.node:
            raise PeerUnreachable("a node does not dial itself")
        loop = asyncio.get_running_loop()
        until = loop.time() + DIAL_TIMEOUT_S
        while True:
            addresses, relays = self._board.addresses_of(peer), self._board.relays_of(peer)
            if not addresses and not relays:
                raise NodeUnknown(f"no address of {short(peer)} is known")
            # Who has just come tells within a second or two by which relay it is reached.
            may_hear = not relays and loop.time() + NEWS_PATIENCE_S < until
            patience_s = NEWS_PATIENCE_S if may_hear else max(1.0, until - loop.time())
            try:
                return await self._connect_at(
                    peer, channel, addresses, relays, timeout_s=patience_s
                )
            except PeerUnreachable as error:
                if not may_hear:
                    if isinstance(error.__cause__, TimeoutError):
                        # The last try alone was shorter.
                        reason = f"{short(peer)} did not answer within {DIAL_TIMEOUT_S:g} s"
                        raise PeerUnreachable(reason) from error
                    raise
            await asyncio.sleep(NEWS_PAUSE_S)

    async def _connect_at(
        self,
        peer: NodeId,
        channel: Channel,
        addresses: Sequence[str],
        relays: Sequence[str],
        *,
        timeout_s: float = DIAL_TIMEOUT_S,
    ) -> tuple[Connection, Introduction]:
        connection = await self._endpoint.connect(
            peer,
            addresses,
            channel,
            timeout_s=timeout_s,
            relays=await self._board.ready_relays(relays),
        )
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                standing, judge = self._board.standing(), self._board.judge
                introduction = await introduce(connection, standing, judge)
                # It may have been put out since it showed its chain.
                judge(introduction.peer)
                return connection, introduction
        except TimeoutError as error:
            await connection.close("no handshake")
            raise PeerUnreachable(f"{short(peer)} did not finish the handshake") from error
        except BaseException:
            await connection.close("no handshake")
            raise

    # -- being dialled --

    async def _welcome(self, connection: Connection) -> None:
        if connection.channel is Channel.PROBE:
            # It came to be, and by its own packets: that is all that the peer wants to know.
            self._board.seen_afresh(connection.peer, await connection.remote_address())
            await _hang_up(connection, "reached")
            return
        await self._make_room_for_a_guest()
        self._guests[id(connection)] = connection
        try:
            async with asyncio.timeout(HANDSHAKE_TIMEOUT_S):
                introduction = await receive(
                    connection, self._board.standing(), self._board.admit, self._board.judge
                )
            if isinstance(introduction, Introduction):
                # It may have been put out since it showed its chain.
                self._board.judge(introduction.peer)
        except (P2prcError, TimeoutError) as error:
            code = error.code if isinstance(error, P2prcError) else "silent-handshake"
            self.refusals[code] += 1
            log.info("refused a connection", extra={"peer": connection.peer, "reason": str(error)})
            await _hang_up(connection, "refused")
            return
        finally:
            self._guests.pop(id(connection), None)
        if isinstance(introduction, Knock):
            try:
                await self._board.knocked(introduction)
            finally:
                await _hang_up(connection, "answered")
        elif connection.channel is Channel.BULK:
            self._bulk_members[connection.peer] = introduction.peer
            await self._serve_bulk(connection)
        else:
            self._adopt(connection, introduction)

    async def _make_room_for_a_guest(self) -> None:
        # The one that has been silent for longest goes: a member needs milliseconds to introduce
        # itself, so that strangers who say nothing cannot keep members out.
        while len(self._guests) >= HANDSHAKES_LIMIT:
            guest = self._guests.pop(next(iter(self._guests)))
            self.refusals["too-many-handshakes"] += 1
            await _hang_up(guest, "busy")

    def _adopt(self, connection: Connection, introduction: Introduction) -> Link:
        link = Link(connection, introduction, self._take)
        self._links.setdefault(link.peer, []).append(link)
        self._departed.discard(link.peer)
        self._tasks.start_for_peer(self._keep(link), f"link {short(link.peer)}")
        links = self._links[link.peer]
        if len(links) == 1:
            self._board.link_up(link.peer)
        for surplus in links[:-CONNECTIONS_PER_PEER]:
            self._tasks.start_for_peer(surplus.close("too many connections"), "one link less")
        return link

    async def _keep(self, link: Link) -> None:
        streams = self._tasks.start_for_peer(
            self._serve_streams(link.connection, self._board.session, link.room),
            f"sessions of {short(link.peer)}",
        )
        try:
            await link.run()
            if isinstance(link.lost_by, PeerMisbehaved):
                self.refusals[link.lost_by.code] += 1
        finally:
            streams.stop()
            links = self._links[link.peer]
            links.remove(link)
            if not links:
                del self._links[link.peer]
                self._drop_bulk(link.peer)
                await self._drop_served(link.peer)
                self._board.link_down(link.peer, on_purpose=link.peer in self._departed)
            else:
                self._board.link_renewed(link.peer)

    async def _drop_served(self, peer: NodeId) -> None:
        # iroh sends all that is for a peer by the path of its open connections: as long as one
        # that lost its relay is open (half a minute), no new dial by another relay arrives.
        for connection in list(self._served.get(peer, ())):
            await _hang_up(connection, "the peer is lost")

    def _drop_bulk(self, peer: NodeId) -> None:
        self.lanes.drop(peer, "the peer is lost")
        # The transport takes half a minute to notice what the pulse has told already.
        dialled = self._bulk.get(peer)
        if dialled is None or not dialled.done():
            return
        del self._bulk[peer]
        self._forget_bulk_member(peer)
        if not dialled.cancelled() and dialled.exception() is None:
            self._tasks.start_for_peer(
                _hang_up(dialled.result(), "the peer is lost"), "bulk is over"
            )

    def _forget_bulk_member(self, peer: NodeId) -> None:
        if peer not in self._bulk and peer not in self._served:
            self._bulk_members.pop(peer, None)

    def _take(self, link: Link, body: Control, answer: Answer | None) -> None:
        if link.peer in self._dismissed:
            return
        if isinstance(body, Goodbye):
            self._departed.add(link.peer)
            self._tasks.start_for_peer(link.close("the peer said goodbye"), "goodbye")
            return
        if isinstance(body, AskBulkDoor):
            if answer is not None:
                self.lanes.asked(link.peer, answer)
            return
        self._board.letter(link.peer, body, answer)

    async def _serve_bulk(self, connection: Connection) -> None:
        served = self._served.setdefault(connection.peer, [])
        served.append(connection)
        try:
            for surplus in served[:-CONNECTIONS_PER_PEER]:
                await _hang_up(surplus, "too many connections")
            await self._serve_streams(connection, self._board.serve_bulk)
        finally:
            served.remove(connection)
            if not served:
                self._served.pop(connection.peer, None)
                self._forget_bulk_member(connection.peer)

    async def _serve_streams(
        self,
        connection: Connection,
        serve: Callable[[NodeId, Stream], Awaitable[None]],
        room: Room | None = None,
    ) -> None:
        room = room or Room()
        try:
            async with asyncio.TaskGroup() as group:
                while True:
                    stream = await connection.accept_stream()
                    await room.enter()
                    group.create_task(self._serve_one(connection.peer, stream, serve, room))
        except* PeerError:
            await _hang_up(connection, "")

    async def _serve_one(
        self,
        peer: NodeId,
        stream: Stream,
        serve: Callable[[NodeId, Stream], Awaitable[None]],
        room: Room,
    ) -> None:
        try:
            await self._tasks.for_peer(_serve(peer, stream, serve), f"stream of {short(peer)}")
        except P2prcError as error:
            self.refusals[error.code] += 1
            log.info("a stream ended early", extra={"peer": peer, "reason": error.message})
            await stream.abort()
        except asyncio.CancelledError:
            await stream.abort()
            raise
        finally:
            room.leave()


async def _serve(
    peer: NodeId, stream: Stream, serve: Callable[[NodeId, Stream], Awaitable[None]]
) -> None:
    try:
        await serve(peer, stream)
    except OSError as error:
        # Too many open files, a failing disk: our trouble, and no reason to end the node.
        log.warning("the machine refuses a peer's stream", extra={"reason": str(error)})
        await stream.abort()


async def _take_leave(link: Link, *, farewell: bool) -> None:
    if farewell:
        link.tell(Goodbye())
        try:
            await link.wait_heard()
        except TimeoutError:
            log.info("a peer did not take our goodbye", extra={"peer": link.peer})
    with suppress(PeerError):
        await link.close("this node stops")


async def _hang_up(connection: Connection, reason: str) -> None:
    # What is gone already needs no closing.
    with suppress(PeerError):
        await connection.close(reason)
