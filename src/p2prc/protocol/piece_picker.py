"""Which piece to fetch from whom, so that the origin sends little more than one copy to all.

Pieces that peers have come from them, the rarest first. The origin is asked for those that nobody
else has or is fetching, and each reader begins with another part of them: so readers that start
together fetch different ones and then serve each other. (Rarest first: Cohen, "Incentives build
robustness in BitTorrent", 2003. That the origin gives each piece once before it gives it twice is
what BitTorrent calls super-seeding; here the readers see to it.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Peer = TypeVar("Peer")
PieceName = TypeVar("PieceName", bound=str)

BATCH_BYTES = 2 << 20
BATCH_PIECES = 64
SLOW_S = 5.0
"""After so long a piece that a peer should send is asked of somebody else too."""


@dataclass(slots=True)
class _Source(Generic[PieceName]):
    is_origin: bool
    has: set[PieceName] = field(default_factory=set)
    coming: dict[PieceName, float] = field(default_factory=dict)


class PiecePicker(Generic[Peer, PieceName]):
    """The pieces still wanted and who has them. Time is what callers say it is, in seconds.

    `begin` (0 to 1) is where in the list this reader starts.
    """

    def __init__(
        self, wanted: Mapping[PieceName, int], *, origin: Peer, begin: float = 0.0
    ) -> None:
        self._sizes = dict(wanted)
        names = list(wanted)
        first = int(begin * len(names))
        self._order = {name: place for place, name in enumerate(names[first:] + names[:first])}
        self._origin = origin
        self._sources: dict[Peer, _Source[PieceName]] = {origin: _Source(is_origin=True)}
        self._holders: Counter[PieceName] = Counter()
        self._asked: dict[PieceName, float] = {}

    @property
    def is_done(self) -> bool:
        """Whether nothing is wanted any more."""
        return not self._sizes

    @property
    def under_way(self) -> Collection[PieceName]:
        """What somebody has been asked for and has not brought."""
        return self._asked.keys()

    @property
    def missing(self) -> Collection[PieceName]:
        """What is still wanted."""
        return self._sizes.keys()

    def told(
        self,
        peer: Peer,
        has: Iterable[PieceName],
        coming: Iterable[PieceName] = (),
        *,
        now: float = 0.0,
    ) -> None:
        """Note what a peer has and what it is fetching: all of it, each time."""
        source = self._sources.setdefault(peer, _Source(is_origin=False))
        new = {name for name in has if name in self._sizes}
        self._holders.subtract(source.has - new)
        self._holders.update(new - source.has)
        source.has = new
        source.coming = {name: source.coming.get(name, now) for name in coming}

    def gone(self, peer: Peer) -> None:
        """Forget a peer that failed."""
        source = self._sources.pop(peer, None)
        if source is not None:
            self._holders.subtract(source.has)

    def next_for(self, peer: Peer, now: float) -> list[PieceName]:
        """Return what to ask the peer for now; nothing when others serve or nothing is left."""
        source = self._sources.get(peer)
        if source is None:
            return []
        if source.is_origin:
            open_to_it = [name for name in self._sizes if self._is_for_origin(name, now)]
            open_to_it.sort(key=self._order.__getitem__)
        else:
            open_to_it = [name for name in source.has if self._is_open(name, now)]
            open_to_it.sort(key=lambda name: (self._holders[name], self._order[name]))
        return self._batch(open_to_it, now)

    def arrived(self, name: PieceName) -> None:
        """Note that a piece is here."""
        self._sizes.pop(name, None)
        self._asked.pop(name, None)
        self._holders.pop(name, None)

    def failed(self, names: Iterable[PieceName]) -> None:
        """Note that an answer did not come: others may be asked at once."""
        for name in names:
            self._asked.pop(name, None)

    def _is_open(self, name: PieceName, now: float) -> bool:
        if name not in self._sizes:
            return False
        asked_at = self._asked.get(name)
        return asked_at is None or now - asked_at > SLOW_S

    def _is_for_origin(self, name: PieceName, now: float) -> bool:
        asked_at = self._asked.get(name)
        if asked_at is not None:
            return now - asked_at > SLOW_S
        if self._holders[name] > 0:
            return False
        return not any(
            now - source.coming.get(name, -SLOW_S) < SLOW_S for source in self._sources.values()
        )

    def _batch(self, names: Iterable[PieceName], now: float) -> list[PieceName]:
        batch: list[PieceName] = []
        size_bytes = 0
        for name in names:
            size_bytes += self._sizes[name]
            if batch and (size_bytes > BATCH_BYTES or len(batch) == BATCH_PIECES):
                break
            batch.append(name)
            self._asked[name] = now
        return batch
