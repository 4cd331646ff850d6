"""Drives the notice board of our network: who was put out, kept on disk and told to everybody."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from random import Random

from p2prc.authority import Member, verify_chain
from p2prc.errors import NotMember, P2prcError, Revoked, RightMissing, WireError
from p2prc.model.identity import NodeId, short
from p2prc.model.notice import NOTICE_LIMIT_BYTES, Revocation, open_notice, sign_notice
from p2prc.node.drive import Driver
from p2prc.node.standing import Standing
from p2prc.protocol import notices
from p2prc.protocol.messages import Control, NoticeList, Notices, NoticeSummary
from p2prc.protocol.notices import CheckedNotice, NoticeBoard
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope

NOTICE_KEY = "notice/"

log = logging.getLogger(__name__)
_envelopes: Codec[Envelope] = Codec(Envelope, limit_bytes=NOTICE_LIMIT_BYTES + 512)


class Revocations:
    """Who was put out of one network, as far as we know."""

    def __init__(
        self,
        network: NodeId,
        *,
        state: State,
        rng: Random,
        tell: Callable[[NodeId, Control], object],
        posted: Callable[[], None],
    ) -> None:
        self._network = network
        self._state = state
        self._tell = tell
        self._posted = posted
        self._board = NoticeBoard(
            check=self.check,
            rng=rng,
            now=asyncio.get_running_loop().time(),
            known=self._stored(),
        )
        self._driver = Driver(self._board, self._perform, tick=notices.Tick)

    def start(self) -> None:
        """Begin: the first deadline is set."""
        self._driver.feed(notices.Tick())

    def stop(self) -> None:
        """Hear and say nothing more."""
        self._driver.stop()

    def forget(self, *, but_of: NodeId) -> None:
        """Forget it: this node is in another network now.

        What is known of the network that our own key names stays. We may found it anew at any
        time, and the chains of whom we put out are as good as ever.
        """
        self.stop()
        gone = [key for key, envelope in self._kept() if _network_of(envelope) != but_of]
        self._state.set_values(dict.fromkeys(gone))

    # -- asking --

    @property
    def is_empty(self) -> bool:
        """Whether nobody was put out."""
        return self._board.is_empty

    def revoker_of(self, member: Member) -> NodeId | None:
        """Return who put this member, or somebody it was admitted through, out."""
        return self._board.revoker_in(member.line)

    def judge(self, member: Member) -> None:
        """Raise Revoked when the member's chain is void."""
        if (revoker := self.revoker_of(member)) is not None:
            raise Revoked(f"{short(member.node)} was put out of the network by {short(revoker)}")

    def is_named(self, node: NodeId) -> bool:
        """Whether anybody has put out this very key: it comes back by a person's word alone."""
        return self._board.names(node)

    def refusals(self) -> dict[str, int]:
        """Return how often what was refused."""
        return dict(self._board.refusals)

    # -- putting out --

    def revoke(self, member: Member, standing: Standing, *, secret: bytes, reason: str) -> None:
        """Put a member out. Raises RightMissing unless we are before it in its chain."""
        own = standing.member.node
        if member.node == standing.network:
            raise RightMissing(
                "nobody can put out the founder of a network",
                hint="to go oneself: `p2prc leave`; to lend it nothing: `p2prc policy deny NODE`",
            )
        if member.node == own:
            raise RightMissing("a node does not put out itself", hint="to go: `p2prc leave`")
        if own not in member.line[:-1]:
            able = ", ".join(short(node) for node in member.line[:-1])
            raise RightMissing(
                f"this node did not let {short(member.node)} in",
                hint=f"who can put it out: {able}; here, `p2prc policy deny NODE` lends it nothing",
            )
        self.judge(standing.member)
        notice = Revocation(
            network=self._network,
            node=member.node,
            membership=standing.chain,
            issued_at=int(time.time()),
            reason=reason,
        )
        checked = CheckedNotice(sign_notice(notice, secret), standing.member.depth)
        self._driver.feed(notices.OwnNotice(checked))
        if self._board.revoker_in((own, member.node)) is None:
            raise RightMissing("this node has put out as many others as it may", hint="")

    # -- what others tell --

    def link_up(self, peer: NodeId) -> None:
        """A link to a peer that understands notices exists."""
        self._driver.feed(notices.PeerConnected(peer))

    def link_down(self, peer: NodeId) -> None:
        """The last link to the peer is gone."""
        self._driver.feed(notices.PeerLost(peer))

    def heard(self, peer: NodeId, message: NoticeSummary | NoticeList | Notices) -> None:
        """Take a peer's letter."""
        self._driver.feed(notices.MessageReceived(peer, message))

    def check(self, envelope: Envelope) -> CheckedNotice:
        """Return a notice that a member who may invite signed; raise WireError, NotMember."""
        signed = open_notice(envelope)
        if signed.notice.network != self._network:
            raise NotMember("a notice of another network")
        author = verify_chain(signed.notice.membership, network=self._network)
        if author.node != signed.author or not author.rights.may_invite:
            raise NotMember("a notice by somebody who can put nobody out")
        return CheckedNotice(signed, author.depth)

    def _perform(self, effect: notices.Effect) -> None:
        match effect:
            case notices.Send():
                self._tell(effect.peer, effect.message)
            case notices.Posted():
                self._save({_key(effect.signed.id): encode(effect.signed.envelope)})
                log.info(
                    "a node was put out",
                    extra={"peer": effect.signed.notice.node, "by": effect.signed.author},
                )
                self._posted()
            case notices.Dropped():
                self._save({_key(effect.signed.id): None})

    def _save(self, values: dict[str, bytes | None]) -> None:
        try:
            self._state.set_values(values)
        except P2prcError as error:
            # It holds while we run, and the others tell it again after a restart.
            log.warning("a notice was not saved", extra={"reason": error.message})

    def _stored(self) -> list[CheckedNotice]:
        found = []
        for _, envelope in self._kept():
            if _network_of(envelope) != self._network:
                continue
            try:
                found.append(self.check(envelope))
            except (WireError, NotMember) as error:
                log.info("a stored notice is unusable", extra={"reason": error.message})
        return found

    def _kept(self) -> list[tuple[str, Envelope]]:
        found = []
        for key, content in self._state.values().items():
            if key.startswith(NOTICE_KEY):
                try:
                    found.append((key, _envelopes.decode(content)))
                except WireError as error:
                    log.info("a stored notice is unreadable", extra={"reason": error.message})
        return found


def _network_of(envelope: Envelope) -> NodeId | None:
    try:
        return open_notice(envelope).notice.network
    except WireError:
        return None


def _key(name: bytes) -> str:
    return NOTICE_KEY + name.hex()
