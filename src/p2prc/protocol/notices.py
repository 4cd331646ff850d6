"""The notice board: who was put out by whom, the same at every member within moments.

A set that grows and is bounded. A new notice is pushed to every connected peer at once; a hash of
the whole set goes to one peer at random every `summary_interval_s`, and to each new one, so that
whoever was away catches up. Nothing is sent while there is no notice.

A notice counts against the chains that lead through its author to the node that it names, and
against nothing else. So a stranger's or a liar's notice does no harm but take room: an author has
so many places, and when the board is full, those nearer to the founder stay. Who stays is the
same everywhere, whatever came first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from random import Random
from typing import assert_never

from blake3 import blake3

from p2prc.errors import P2prcError
from p2prc.model.identity import NodeId
from p2prc.model.notice import SignedNotice, notice_id
from p2prc.protocol.allowance import Allowance
from p2prc.protocol.messages import NoticeList, Notices, NoticeSummary
from p2prc.wire.signed import Envelope

REFUSED = "notice-refused"
TOO_MANY = "too-many-notices"
_BATCH = 100


@dataclass(frozen=True, slots=True)
class CheckedNotice:
    """A notice of a member that may invite; `depth` is how far it is from the founder."""

    signed: SignedNotice
    depth: int


@dataclass(frozen=True, slots=True)
class NoticeConfig:
    """The board's own settings; the allowances are each peer's."""

    summary_interval_s: float = 10.0
    limit: int = 4096
    limit_per_author: int = 512
    notices_per_s: float = 20.0
    notices_burst: float = 600.0
    lists_per_s: float = 0.5
    lists_burst: float = 6.0


# -- what may happen, and what we then want done ----------------------------------------------


@dataclass(frozen=True, slots=True)
class PeerConnected:
    """A connection to a member that understands notices exists."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerLost:
    """The last connection to the peer is gone."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A peer told us of notices."""

    peer: NodeId
    message: NoticeSummary | NoticeList | Notices


@dataclass(frozen=True, slots=True)
class OwnNotice:
    """We have signed a notice."""

    checked: CheckedNotice


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline has come."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send the message to a connected peer; losing it does little harm."""

    peer: NodeId
    message: NoticeSummary | NoticeList | Notices


@dataclass(frozen=True, slots=True)
class Posted:
    """A notice is on the board that was not there: keep it, and act on it."""

    signed: SignedNotice


@dataclass(frozen=True, slots=True)
class Dropped:
    """A notice had to make room: it need not be kept."""

    signed: SignedNotice


Event = PeerConnected | PeerLost | MessageReceived | OwnNotice | Tick
Effect = Send | Posted | Dropped


class NoticeBoard:
    """The notices of one network, as one member holds them.

    `check` returns a notice of this network whose author is a member that may invite, and raises
    anything of `errors` for all others.
    """

    def __init__(
        self,
        *,
        check: Callable[[Envelope], CheckedNotice],
        rng: Random,
        now: float,
        known: Iterable[CheckedNotice] = (),
        config: NoticeConfig | None = None,
    ) -> None:
        self._config = config if config is not None else NoticeConfig()
        self._check = check
        self._rng = rng
        self._held: dict[bytes, CheckedNotice] = {}
        self._digest: bytes | None = None
        self._ids: dict[tuple[NodeId, NodeId], bytes] = {}
        self._peers: dict[NodeId, tuple[Allowance, Allowance]] = {}
        self._summary_at = now + rng.uniform(0.0, self._config.summary_interval_s)
        self.refusals: Counter[str] = Counter()
        for checked in known:
            self._put(checked)

    @property
    def deadline(self) -> float:
        """When `handle` wants to be called at the latest."""
        return self._summary_at

    @property
    def notices(self) -> list[SignedNotice]:
        """Every notice, by id."""
        return [self._held[name].signed for name in sorted(self._held)]

    def digest(self) -> bytes:
        """Return the hash of the whole set."""
        # Kept: any peer may make us compare it, as often as it can write.
        if self._digest is None:
            self._digest = blake3(b"".join(sorted(self._held))).digest()
        return self._digest

    @property
    def is_empty(self) -> bool:
        """Whether nobody was put out."""
        return not self._ids

    def revoker_in(self, line: Sequence[NodeId]) -> NodeId | None:
        """Return who put somebody out of this line of admissions; None while it stands."""
        if not self._ids:
            return None
        for at, author in enumerate(line):
            if any((author, node) in self._ids for node in line[at + 1 :]):
                return author
        return None

    def names(self, node: NodeId) -> bool:
        """Whether some notice puts out this node, whatever its chain."""
        return any(named == node for _, named in self._ids)

    # -- the one door --

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take the event; return what is to be done."""
        match event:
            case PeerConnected():
                return self._connected(event.peer, now)
            case PeerLost():
                self._peers.pop(event.peer, None)
                return []
            case MessageReceived():
                return self._received(event.peer, event.message, now)
            case OwnNotice():
                return self._post(event.checked, besides=None)
            case Tick():
                return self._tick(now)
            case _:
                assert_never(event)

    def _connected(self, peer: NodeId, now: float) -> list[Effect]:
        settings = self._config
        self._peers[peer] = (
            Allowance(rate_per_s=settings.notices_per_s, burst=settings.notices_burst, now=now),
            Allowance(rate_per_s=settings.lists_per_s, burst=settings.lists_burst, now=now),
        )
        return [Send(peer, NoticeSummary(self.digest()))] if self._held else []

    def _tick(self, now: float) -> list[Effect]:
        if now < self._summary_at:
            return []
        self._summary_at = now + self._config.summary_interval_s
        if not self._held or not self._peers:
            return []
        peer = self._rng.choice(sorted(self._peers))
        return [Send(peer, NoticeSummary(self.digest()))]

    def _received(
        self, peer: NodeId, message: NoticeSummary | NoticeList | Notices, now: float
    ) -> list[Effect]:
        if (allowances := self._peers.get(peer)) is None:
            return []
        checks, lists = allowances
        match message:
            case NoticeSummary():
                if message.digest == self.digest():
                    return []
                if not lists.take(1, now):
                    return self._too_many()
                return [Send(peer, NoticeList(tuple(sorted(self._held))))]
            case NoticeList():
                if not lists.take(1, now):
                    return self._too_many()
                return self._compare(peer, message)
            case Notices():
                return self._take(peer, message.notices, checks, now)
            case _:
                assert_never(message)

    def _compare(self, peer: NodeId, theirs: NoticeList) -> list[Effect]:
        named = set(theirs.notices)
        missing = [self._held[name].signed.envelope for name in sorted(self._held.keys() - named)]
        effects: list[Effect] = [
            Send(peer, Notices(tuple(missing[start : start + _BATCH])))
            for start in range(0, len(missing), _BATCH)
        ]
        if not theirs.is_reply and named - self._held.keys():
            effects.append(Send(peer, NoticeList(tuple(sorted(self._held)), is_reply=True)))
        return effects

    def _take(
        self, peer: NodeId, envelopes: tuple[Envelope, ...], checks: Allowance, now: float
    ) -> list[Effect]:
        effects: list[Effect] = []
        for envelope in envelopes:
            if notice_id(envelope) in self._held:
                continue
            if not checks.take(1, now):
                return effects + self._too_many()
            try:
                checked = self._check(envelope)
            except P2prcError:
                self.refusals[REFUSED] += 1
                continue
            effects += self._post(checked, besides=peer)
        return effects

    def _too_many(self) -> list[Effect]:
        self.refusals[TOO_MANY] += 1
        return []

    # -- what is held --

    def _post(self, checked: CheckedNotice, *, besides: NodeId | None) -> list[Effect]:
        changed = self._put(checked)
        if not any(isinstance(effect, Posted) for effect in changed):
            return changed
        message = Notices((checked.signed.envelope,))
        # Pushed before it is acted on: the node that is put out shall read why.
        pushed: list[Effect] = [
            Send(peer, message) for peer in sorted(self._peers) if peer != besides
        ]
        return pushed + changed

    def _put(self, checked: CheckedNotice) -> list[Effect]:
        """Put it up if it belongs to those that stay; return what has changed."""
        signed = checked.signed
        self._digest = None
        key = (signed.author, signed.notice.node)
        if (known := self._ids.get(key)) is not None:
            if known <= signed.id:
                return []
            # Its author said it twice: everybody keeps the same one, and it is no news.
            del self._held[known]
            self._held[signed.id], self._ids[key] = checked, signed.id
            return []
        self._held[signed.id], self._ids[key] = checked, signed.id
        same = [name for name, held in self._held.items() if held.signed.author == signed.author]
        surplus = max(same) if len(same) > self._config.limit_per_author else None
        if surplus is None and len(self._held) > self._config.limit:
            surplus = max(self._held, key=lambda name: (self._held[name].depth, name))
        if surplus is None:
            return [Posted(signed)]
        gone = self._held.pop(surplus).signed
        del self._ids[gone.author, gone.notice.node]
        self.refusals[TOO_MANY] += 1
        return [] if gone.id == signed.id else [Posted(signed), Dropped(gone)]
