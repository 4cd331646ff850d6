"""Ports of this side that have a public port at another node, the gateway.

The gateway hands over what connects there. An exposure is asked for again now and then: so it comes
back after a restart of either side, and moves to another gateway where that is wanted.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import msgspec

from p2prc.errors import (
    InvalidInput,
    NoNodeMatches,
    NotFound,
    P2prcError,
    PeerBusy,
    PeerError,
    PolicyRefuses,
    PortClosed,
    PortTaken,
)
from p2prc.model.identity import LeaseId, NodeId
from p2prc.node.carriage import Carriages
from p2prc.node.counted import CountedLink, Traffic, until_idle
from p2prc.node.framed import FramedStream
from p2prc.node.host_ports import IDLE_S, UDP_IDLE_S, dialled
from p2prc.node.inside import Inside
from p2prc.node.post import Post
from p2prc.node.splicing import splice
from p2prc.node.tasks import Tasks, Work
from p2prc.protocol.domains import PROOF_LABEL
from p2prc.protocol.forwarding import THIS_MACHINE, UDP, Protocol
from p2prc.protocol.messages import (
    Done,
    EndMapping,
    MappingOpened,
    OpenMapping,
    Session,
    TakeConnection,
)
from p2prc.protocol.proxy_header import proxy_header
from p2prc.runtime.port import Link
from p2prc.storage.state import State

EXPOSURES_LIMIT = 1000
CONNECTIONS_LIMIT = 2500
RENEW_S = 15.0
RETRY_S = 2.0
MOVE_AFTER_S = 20.0
"""A gateway that does not answer for so long is left, where that is wanted."""
AWAY_S = 5.0
"""The same for one that said that it stops, or that the network holds for dead."""
_ASKED_LIMIT = 8
_ASK_S = 15.0
_KEY = "expose:"

log = logging.getLogger(__name__)


class Exposure(msgspec.Struct, frozen=True):
    """An exposure as it is remembered.

    `service` is a port of this machine at its loopback address, of the container `lease` at `node`,
    or a port or name of the machine `node`. `wanted_port` 0 is any, `port` the one that was given.
    """

    id: str
    gateway: NodeId
    service: str
    protocol: Protocol
    created_at: float
    name: str = ""
    node: NodeId | None = None
    lease: LeaseId | None = None
    wanted_port: int = 0
    port: int = 0
    hosts: tuple[str, ...] = ()
    expires_at: float | None = None
    follows: bool = False
    domain: str = ""
    is_tls: bool = False
    """Of a domain: the service speaks TLS itself."""
    is_secured: bool = False
    """Of a domain: it is reached by TLS."""
    certificate_ends_at: float | None = None
    tells_client: bool = False
    """The service is told who connects, by a header of the PROXY protocol."""


@dataclass(slots=True)
class Exposed:
    """An exposure now. `trouble`: why its gateway has it not, or what its last connection met."""

    exposure: Exposure
    traffic: Traffic = field(default_factory=Traffic)
    connections: int = 0
    trouble: str = ""
    keeping: Work[None] | None = None
    carrying: set[asyncio.Task[None]] = field(default_factory=set)


class Exposures:
    """The exposures of this node. `gateways` are the nodes to ask, the best first."""

    def __init__(
        self,
        inside: Inside,
        state: State,
        post: Post,
        *,
        tasks: Tasks,
        carriages: Carriages,
        gateways: Callable[[], Sequence[NodeId]],
        widen: Callable[[NodeId], None],
    ) -> None:
        self._inside = inside
        self._state = state
        self._post = post
        self._tasks = tasks
        self._carriages = carriages
        self._gateways = gateways
        self._widen = widen
        self._exposed: dict[str, Exposed] = {}

    def start(self) -> None:
        """Take up those of the last run."""
        for key, content in self._state.values().items():
            if key.startswith(_KEY):
                exposed = Exposed(msgspec.json.decode(content, type=Exposure))
                self._keep_up(exposed, 0.0)

    def all(self) -> list[Exposed]:
        """Return every exposure, the oldest first."""
        return sorted(self._exposed.values(), key=lambda each: each.exposure.created_at)

    async def add(self, exposure: Exposure, via: NodeId | None) -> Exposed:
        """Get a public port for what is described, at one gateway or at any that gives one.

        Raises PeerBusy, PeerError, PolicyRefuses, PortTaken, MachineCannot, NoNodeMatches.
        """
        if len(self._exposed) >= EXPOSURES_LIMIT:
            raise PeerBusy(f"there are {EXPOSURES_LIMIT} exposures already")
        if exposure.name in {each.exposure.name for each in self._exposed.values()} - {""}:
            raise InvalidInput(
                f"a tunnel is called `{exposure.name}` already", hint="see `p2prc tunnels`"
            )
        exposed = Exposed(msgspec.structs.replace(exposure, id=secrets.token_hex(5)))
        if via is not None:
            await self._ask(exposed, via)
        else:
            await self._ask_any(exposed, besides=None)
        self._store(exposed)
        self._keep_up(exposed, RENEW_S)
        return exposed

    async def end(self, identity: str) -> Exposed:
        """End an exposure, by its id, its name or the beginning of an id. Raises NotFound."""
        found = [
            each
            for each in self._exposed.values()
            if each.exposure.id.startswith(identity) or each.exposure.name == identity
        ]
        if len(found) != 1 or not identity:
            raise NotFound(f"no tunnel has the id `{identity[:40]}`", hint="see `p2prc tunnels`")
        await self._end(found[0])
        return found[0]

    async def _end(self, exposed: Exposed) -> None:
        exposure = exposed.exposure
        self._exposed.pop(exposure.id, None)
        self._state.set_values({_KEY + exposure.id: None})
        for task in exposed.carrying:
            task.cancel()
        if exposed.keeping is not None:
            exposed.keeping.stop()
        # It may be away: then its port ends for want of being asked for.
        self._tasks.start(
            self._post.ask(exposure.gateway, EndMapping(exposure.id), Done), "a public port's end"
        )

    # -- keeping it

    def _keep_up(self, exposed: Exposed, first_s: float) -> None:
        self._exposed[exposed.exposure.id] = exposed
        exposed.keeping = self._tasks.start(self._kept(exposed, first_s), "a public port")

    async def _kept(self, exposed: Exposed, first_s: float) -> None:
        wait_s, answered = first_s, time.monotonic()
        while True:
            await self._wait(exposed, wait_s)
            expires_at = exposed.exposure.expires_at
            if expires_at is not None and time.time() >= expires_at:
                exposed.keeping = None
                await self._end(exposed)
                return
            try:
                await self._ask(exposed, exposed.exposure.gateway)
            except P2prcError as error:
                exposed.trouble = f"its gateway: {error.message}"
                wait_s = RETRY_S if isinstance(error, PeerError) else RENEW_S
                is_away = exposed.exposure.gateway not in self._gateways()
                patience_s = AWAY_S if is_away else MOVE_AFTER_S
                is_gone = time.monotonic() >= answered + patience_s
                if exposed.exposure.follows and is_gone and await self._moved(exposed):
                    wait_s, answered = RENEW_S, time.monotonic()
            else:
                wait_s, answered = RENEW_S, time.monotonic()

    async def _wait(self, exposed: Exposed, wait_s: float) -> None:
        """Wait so long, or until it ends, or its gateway is known to be away."""
        expires_at = exposed.exposure.expires_at
        until = time.monotonic() + wait_s
        if expires_at is not None:
            until = min(until, time.monotonic() + expires_at - time.time())
        while (left_s := until - time.monotonic()) > 0:
            await asyncio.sleep(min(left_s, RETRY_S))
            if exposed.exposure.follows and exposed.exposure.gateway not in self._gateways():
                return

    async def _moved(self, exposed: Exposed) -> bool:
        before = exposed.exposure
        try:
            await self._ask_any(exposed, besides=before.gateway)
        except P2prcError as error:
            exposed.trouble = error.message
            return False
        log.info("an exposure moved", extra={"exposure": before.id})
        self._tasks.start(
            self._post.ask(before.gateway, EndMapping(before.id), Done), "a public port's end"
        )
        return True

    async def _ask_any(self, exposed: Exposed, *, besides: NodeId | None) -> None:
        refusals: list[P2prcError] = []
        for gateway in [each for each in self._gateways() if each != besides][:_ASKED_LIMIT]:
            try:
                await self._ask(exposed, gateway)
            except P2prcError as error:
                refusals.append(error)
            else:
                return
        # One that lends ports and has none left says more than those that lend none.
        for each in refusals:
            if isinstance(each, PeerError) and not isinstance(each, PeerBusy):
                continue
            if not isinstance(each, PolicyRefuses) or exposed.exposure.wanted_port:
                raise each
            # One that would give it says what is missing.
            if exposed.exposure.domain and PROOF_LABEL in each.hint:
                raise each
        if exposed.exposure.domain:
            raise NoNodeMatches(
                f"no other node gives you `{exposed.exposure.domain}`",
                hint="on a reachable node: `p2prc policy set gateway.domains DOMAIN=YOUR-ID`",
            )
        raise NoNodeMatches(
            "no other node lends you public ports",
            hint="on a reachable node: `p2prc policy set gateway.to members`",
        )

    async def _ask(self, exposed: Exposed, gateway: NodeId) -> None:
        exposure = exposed.exposure
        is_same = gateway == exposure.gateway and exposure.port != 0
        lifetime_s = None
        if exposure.expires_at is not None:
            lifetime_s = max(1.0, exposure.expires_at - time.time())
        # One that has lost its memory is asked for the port that people know.
        port = exposure.port if is_same and not exposure.domain else exposure.wanted_port
        request = OpenMapping(
            exposure.id,
            exposure.protocol,
            port,
            lifetime_s,
            domain=exposure.domain,
            is_tls=exposure.is_tls,
        )
        try:
            opened = await self._post.ask(gateway, request, MappingOpened, timeout_s=_ASK_S)
        except (PortTaken, PolicyRefuses):
            if exposure.wanted_port or port == 0:
                raise
            # It was the gateway's choice, and it may choose again.
            request = msgspec.structs.replace(request, port=0)
            opened = await self._post.ask(gateway, request, MappingOpened, timeout_s=_ASK_S)
        except PeerError:
            if exposure.id not in self._exposed:
                # It may have been granted all the same, and would keep its domain for an hour.
                end = self._post.ask(gateway, EndMapping(exposure.id), Done)
                self._tasks.start(end, "a public port's end")
            raise
        changed = msgspec.structs.replace(
            exposure,
            gateway=gateway,
            port=opened.port,
            hosts=opened.hosts,
            is_secured=opened.is_tls,
            certificate_ends_at=opened.certificate_ends_at,
        )
        if exposed.trouble.startswith("its gateway") or opened.trouble:
            exposed.trouble = f"its gateway: {opened.trouble}" if opened.trouble else ""
        if changed != exposure:
            exposed.exposure = changed
            if exposure.id in self._exposed:
                self._store(exposed)

    def _store(self, exposed: Exposed) -> None:
        exposure = exposed.exposure
        self._state.set_values({_KEY + exposure.id: msgspec.json.encode(exposure)})

    # -- carrying

    async def serve(
        self, peer: NodeId, session: FramedStream[Session], request: TakeConnection
    ) -> None:
        """Carry what came to our public port. Raises NotFound, PortClosed, PeerError."""
        exposed = self._exposed.get(request.mapping)
        if exposed is None or exposed.exposure.gateway != peer:
            raise NotFound("that public port is no longer wanted")
        if exposed.connections >= CONNECTIONS_LIMIT:
            raise PeerBusy(f"{CONNECTIONS_LIMIT} connections at once: more are refused")
        self._widen(peer)
        task = asyncio.current_task()
        exposed.connections += 1
        if task is not None:
            exposed.carrying.add(task)
        try:
            await self._carried(exposed, peer, session, request)
        finally:
            exposed.connections -= 1
            if task is not None:
                exposed.carrying.discard(task)

    async def _carried(
        self,
        exposed: Exposed,
        peer: NodeId,
        session: FramedStream[Session],
        request: TakeConnection,
    ) -> None:
        exposure = exposed.exposure
        try:
            service = await self._service(exposure)
        except P2prcError as error:
            exposed.trouble = error.message
            raise PortClosed("nothing serves there") from error
        try:
            exposed.trouble = ""
            if exposure.tells_client:
                await service.write(proxy_header(request.client, exposure.port))
            await session.send(Done())
            own = Traffic()
            idle_s = UDP_IDLE_S if exposure.protocol == UDP else IDLE_S
            async with self._carriages.served(peer, session, request.carriage) as remote:
                counted = CountedLink(remote, own, exposed.traffic)
                await until_idle(splice(counted, service), own, idle_s=idle_s)
        finally:
            await service.close()

    async def _service(self, exposure: Exposure) -> Link:
        if exposure.lease is not None and exposure.node is not None:
            return await self._inside.dial(exposure.node, exposure.lease, int(exposure.service))
        if exposure.node is not None:
            return await self._inside.open_service(
                exposure.node, exposure.service, exposure.protocol
            )
        return await dialled(
            THIS_MACHINE, int(exposure.service), exposure.service, exposure.protocol
        )
