"""Who asks to be let in: a bounded list, so that strangers can fill neither memory nor screens.

One request a key, a few from one address, a few through one member, and each for a while only.
How often one address may ask is bounded too. When the list is full, whoever has fewest places
takes the newest one of whoever has most: it takes as many addresses as places to keep others out.
"""

from __future__ import annotations

import re
from collections import Counter, OrderedDict
from dataclasses import dataclass

from p2prc.errors import PeerBusy
from p2prc.model.identity import NodeId
from p2prc.protocol.allowance import Allowance
from p2prc.protocol.crowd import crowd_of

FINGERPRINT_DIGITS = 16
_ODD = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_LIMIT = 63
_LATER = "ask later, or ask a member for a ticket"


def fingerprint(node: NodeId) -> str:
    """Return what two people compare: the first digits of the id in groups of four."""
    return "-".join(node[start : start + 4] for start in range(0, FINGERPRINT_DIGITS, 4))


def usable_name(name: str) -> str:
    """Return a stranger's name with nothing in it that a terminal or a person could mistake."""
    return _ODD.sub("-", name).strip("-._")[:_NAME_LIMIT]


def source_of(address: str) -> str:
    """Return by what those are counted together who may be one: a host, or a network of IPv6.

    Whoever comes through a relay shows no address: all these are one source.
    """
    return crowd_of(address.rpartition(":")[0].strip("[]"))


@dataclass(frozen=True, slots=True)
class AskConfig:
    """Bounds of the list. `per_source`: a stranger's address, or a member that hands on."""

    limit: int = 64
    per_source: int = 8
    expires_s: float = 3600.0
    asks_per_s: float = 0.2
    asks_burst: float = 12.0
    sources_remembered: int = 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """A request. `door` is the member that handed it on; None when it was asked here."""

    joiner: NodeId
    name: str
    address: str
    door: NodeId | None
    at: float


def _source(asked: Asked) -> str:
    return asked.door or source_of(asked.address)


def _newest_of_most(listed: list[Asked], *, more_than: int) -> Asked | None:
    """Return the newest request of the source with the most, if it has more than so many."""
    counts = Counter(map(_source, listed))
    source, count = counts.most_common(1)[0]
    if count <= more_than:
        return None
    return next(asked for asked in reversed(listed) if _source(asked) == source)


class RequestBook:
    """The requests that wait for somebody to decide."""

    def __init__(self, config: AskConfig | None = None) -> None:
        self._config = config if config is not None else AskConfig()
        self._asked: dict[NodeId, Asked] = {}
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()

    def requests(self) -> list[Asked]:
        """Return what waits, oldest first."""
        return list(self._asked.values())

    def get(self, joiner: NodeId) -> Asked | None:
        """Return the request of a key."""
        return self._asked.get(joiner)

    def add(
        self, joiner: NodeId, *, name: str, address: str, door: NodeId | None, now: float
    ) -> Asked:
        """List a request; the same key again replaces its last one. Raises PeerBusy.

        In a full list it may take the place of another one, which is then listed no more.
        """
        source = door or source_of(address)
        if not self._may_ask(source, now):
            raise PeerBusy("asked too often", hint="wait a minute, or ask a member for a ticket")
        others = [asked for asked in self._asked.values() if asked.joiner != joiner]
        same = sum(_source(asked) == source for asked in others)
        is_full = len(others) >= self._config.limit
        crowding = _newest_of_most(others, more_than=same + 1) if is_full else None
        if same >= self._config.per_source or (is_full and crowding is None):
            raise PeerBusy("too many wait to be let in here", hint=_LATER)
        self._asked.pop(joiner, None)
        if crowding is not None:
            del self._asked[crowding.joiner]
        asked = Asked(joiner, usable_name(name), address[:100], door, now)
        self._asked[joiner] = asked
        return asked

    def remove(self, asked: Asked) -> bool:
        """Forget this very request; say whether it still waited."""
        if self._asked.get(asked.joiner) is not asked:
            return False
        del self._asked[asked.joiner]
        return True

    def _may_ask(self, source: str, now: float) -> bool:
        allowance = self._allowances.get(source)
        if allowance is None:
            allowance = Allowance(
                rate_per_s=self._config.asks_per_s, burst=self._config.asks_burst, now=now
            )
            self._allowances[source] = allowance
            while len(self._allowances) > self._config.sources_remembered:
                self._allowances.popitem(last=False)
        self._allowances.move_to_end(source)
        return allowance.take(1, now)
