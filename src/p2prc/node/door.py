"""Who asks to be let in, and what becomes of it: listed, handed on, approved, denied, withdrawn.

The member that is asked keeps the newcomer's connection and hands the request on to members that
may invite, so that any of them decides. The first decision counts. In an open network a member
that may invite decides at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from p2prc.authority import Rights, verify_chain
from p2prc.errors import (
    P2prcError,
    PeerBusy,
    PeerError,
    PeerLost,
    PeerMisbehaved,
    RequestDenied,
    RightMissing,
)
from p2prc.model.identity import NodeId, short
from p2prc.node.handshake import Knock, let_in, refuse
from p2prc.node.link import Answer
from p2prc.node.links import Links
from p2prc.node.standing import Standing
from p2prc.node.tasks import Tasks, Work
from p2prc.plugins.hooks import HookSet, Joiner
from p2prc.protocol.asking import AskConfig, Asked, RequestBook
from p2prc.protocol.messages import (
    NOTICES_SINCE_VERSION,
    AskAnswered,
    AskWaits,
    ForwardAsk,
    Refused,
    WithdrawAsk,
)

WAITS_EVERY_S = 4.0
HANDED_ON_LIMIT = 4
"""To how many other members a request goes."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request as people see it; `asked_at` in unix seconds."""

    asked: Asked
    asked_at: float


class Door:
    """The requests to be let in."""

    def __init__(
        self,
        *,
        links: Links,
        tasks: Tasks,
        standing: Callable[[], Standing],
        make_chain: Callable[[NodeId, Rights], bytes],
        needs_person: Callable[[NodeId], bool],
        admins: Callable[[], list[NodeId]],
        hooks: HookSet,
        config: AskConfig | None = None,
    ) -> None:
        self._hooks = hooks
        self._links = links
        self._tasks = tasks
        self._standing = standing
        self._make_chain = make_chain
        self._needs_person = needs_person
        self._admins = admins
        self._config = config if config is not None else AskConfig()
        self._book = RequestBook(self._config)
        self._decisions: dict[Asked, asyncio.Future[bytes]] = {}

    # -- people decide --

    def requests(self) -> list[Waiting]:
        """Return what waits, oldest first."""
        offset_s = time.time() - asyncio.get_running_loop().time()
        return [Waiting(asked, asked.at + offset_s) for asked in self._book.requests()]

    def approve(self, joiner: NodeId, *, may_invite: bool) -> None:
        """Let in who asks. Raises RightMissing, Revoked."""
        asked = self._book.get(joiner)
        if asked is not None:
            self._decide(asked, self._make_chain(joiner, Rights(may_invite=may_invite)))

    def deny(self, joiner: NodeId) -> None:
        """Refuse who asks."""
        if not self._standing().member.rights.may_invite:
            raise RightMissing("this member may not decide who is let in")
        asked = self._book.get(joiner)
        if asked is not None:
            self._decide(asked, RequestDenied())

    def _decide(self, asked: Asked, decision: bytes | P2prcError) -> None:
        self._book.remove(asked)
        decided = self._decisions.get(asked)
        if decided is None or decided.done():
            return
        if isinstance(decision, bytes):
            decided.set_result(decision)
        else:
            decided.set_exception(decision)

    # -- somebody asks here --

    async def knocked(self, knock: Knock) -> None:
        """Hear a newcomer out, wait for a decision and tell it. Never raises what is expected."""
        try:
            address = await knock.connection.remote_address()
            chain = await self._decided(knock, address)
            await let_in(knock, chain, self._standing())
        except PeerLost as error:
            log.info("who asked went away", extra={"why": error.message})
        except P2prcError as error:
            self._links.refusals[error.code] += 1
            await refuse(knock.framed, error)

    async def _decided(self, knock: Knock, address: str) -> bytes:
        joiner = knock.connection.peer
        if (chain := self._at_once(joiner)) is not None:
            return chain
        if (chain := self._by_plugin(joiner, knock.request.name, address)) is not None:
            return chain
        asked = self._list(joiner, knock.request.name, address, door=None)
        decided = self._decisions[asked]
        others = self._hand_on(asked, decided)
        talking: asyncio.Future[Any] = asyncio.ensure_future(_keep_waiting(knock))
        either: list[asyncio.Future[Any]] = [decided, talking]
        try:
            async with asyncio.timeout(self._config.expires_s):
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            raise RequestDenied("nobody decided in time") from None
        else:
            if decided.done():
                return decided.result()
            raise PeerLost("the newcomer hung up")
        finally:
            talking.cancel()
            await asyncio.gather(talking, return_exceptions=True)
            self._forget(asked)
            for work in others:
                work.stop()

    def _at_once(self, joiner: NodeId) -> bytes | None:
        """Return a chain when nobody needs to be asked: the network is open, and we may."""
        member = self._standing().member
        if not (member.is_open and member.rights.may_invite) or self._needs_person(joiner):
            return None
        return self._make_chain(joiner, Rights())

    def _by_plugin(self, joiner: NodeId, name: str, address: str) -> bytes | None:
        """Return a chain when a plugin lets it in. Raises RequestDenied when one refuses."""
        if not self._standing().member.rights.may_invite or self._needs_person(joiner):
            return None
        decision = self._hooks.admit(Joiner(str(joiner), name, address))
        if decision is None:
            return None
        if not decision:
            raise RequestDenied("a plugin of the member's owner refused")
        log.info("a plugin lets in", extra={"peer": joiner})
        return self._make_chain(joiner, Rights())

    def _list(self, joiner: NodeId, name: str, address: str, *, door: NodeId | None) -> Asked:
        now = asyncio.get_running_loop().time()
        before = self._book.get(joiner)
        asked = self._book.add(joiner, name=name, address=address, door=door, now=now)
        if before is not None:
            self._decide(before, RequestDenied("the same node asked again"))
        for other in list(self._decisions):
            if self._book.get(other.joiner) is not other:
                # Its place was given to one that has fewer.
                self._decide(other, PeerBusy("too many wait to be let in here"))
        self._decisions[asked] = asyncio.get_running_loop().create_future()
        # Nobody may be left to look at it.
        self._decisions[asked].add_done_callback(_looked_at)
        log.info("somebody asks to be let in", extra={"peer": joiner, "address": address})
        return asked

    def _forget(self, asked: Asked) -> None:
        self._book.remove(asked)
        self._decisions.pop(asked, None)

    # -- other members --

    def _hand_on(self, asked: Asked, decided: asyncio.Future[bytes]) -> list[Work[None]]:
        may_decide = self._standing().member.rights.may_invite
        admins = self._admins()[:HANDED_ON_LIMIT]
        if not admins and not may_decide:
            raise RightMissing(
                "nobody who may let others in can be reached from here",
                hint="ask at another member's address, or ask for a ticket: `p2prc invite`",
            )
        hopes = len(admins) + may_decide

        async def ask(admin: NodeId) -> None:
            nonlocal hopes
            try:
                chain = await self._ask_member(admin, asked)
            except RequestDenied as error:
                self._decide(asked, error)
            except P2prcError as error:
                hopes -= 1
                if not hopes:
                    self._decide(asked, error)
            else:
                self._decide(asked, chain)

        return [
            self._tasks.start_for_peer(ask(admin), f"ask {short(admin)} to let somebody in")
            for admin in admins
        ]

    async def _ask_member(self, admin: NodeId, asked: Asked) -> bytes:
        link = await self._links.reach(admin)
        if link.version < NOTICES_SINCE_VERSION:
            raise PeerError("its version cannot decide for others")
        request = ForwardAsk(asked.joiner, name=asked.name, address=asked.address)
        try:
            answer = await link.ask(request, AskAnswered, timeout_s=self._config.expires_s)
        except asyncio.CancelledError:
            link.tell(WithdrawAsk(asked.joiner))
            raise
        if answer.membership is None:
            raise RequestDenied
        member = verify_chain(answer.membership, network=self._standing().network)
        if member.node != asked.joiner:
            raise PeerMisbehaved("a member let in somebody else than who asked")
        return answer.membership

    def forwarded(self, door: NodeId, body: ForwardAsk, answer: Answer) -> None:
        """Take a request that a member hands on."""
        try:
            if not self._standing().member.rights.may_invite:
                raise RightMissing("this member may not let others in")
            if (chain := self._at_once(body.joiner)) is not None:
                answer(AskAnswered(chain))
                return
            known = self._book.get(body.joiner)
            if known is not None and known.door is None:
                # It asks here too: one decision is enough, and it has a connection to us.
                raise PeerError("it asks here itself")
            asked = self._list(body.joiner, body.name, body.address, door=door)
        except P2prcError as error:
            answer(Refused(error.code, error.message, error.hint))
            return
        self._decisions[asked].add_done_callback(lambda done: self._tell(asked, done, answer))
        loop = asyncio.get_running_loop()
        loop.call_later(self._config.expires_s, self._decide, asked, PeerError("nobody decided"))

    def _tell(self, asked: Asked, decided: asyncio.Future[bytes], answer: Answer) -> None:
        self._forget(asked)
        error = None if decided.cancelled() else decided.exception()
        if decided.cancelled() or (error and not isinstance(error, P2prcError)):
            return
        if isinstance(error, RequestDenied):
            answer(AskAnswered(None))
        elif isinstance(error, P2prcError):
            answer(Refused(error.code, error.message, error.hint))
        else:
            answer(AskAnswered(decided.result()))

    def withdrawn(self, door: NodeId, joiner: NodeId) -> None:
        """Take back what a member handed on: the newcomer has gone."""
        asked = self._book.get(joiner)
        if asked is not None and asked.door == door:
            self._decide(asked, PeerError("withdrawn"))

    def door_lost(self, door: NodeId) -> None:
        """Forget what a member handed on: its link is gone."""
        for asked in self._book.requests():
            if asked.door == door:
                self._decide(asked, PeerError("withdrawn"))


async def _keep_waiting(knock: Knock) -> None:
    """Tell the newcomer that it waits, until it hangs up or says anything."""
    hangup = asyncio.ensure_future(knock.framed.receive())
    try:
        while not hangup.done():
            await knock.framed.send(AskWaits())
            await asyncio.wait({hangup}, timeout=WAITS_EVERY_S)
    except PeerError:
        return
    finally:
        hangup.cancel()
        await asyncio.gather(hangup, return_exceptions=True)


def _looked_at(decided: asyncio.Future[bytes]) -> None:
    if not decided.cancelled():
        decided.exception()
