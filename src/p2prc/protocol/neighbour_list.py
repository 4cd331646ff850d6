"""Who was heard on the local network, and when each may be dialled: bounded, and ever more rarely.

Whoever knows the network's id can announce any number of nodes, at any address of the local
network. So few are remembered, few are dialled at once, and each failure doubles the pause.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from p2prc.model.identity import NodeId

NEIGHBOURS_LIMIT = 256
DIALS_AT_ONCE = 4
AGAIN_S = 10.0
AGAIN_LIMIT_S = 600.0


@dataclass(slots=True)
class _Neighbour:
    addresses: tuple[str, ...]
    next_at: float = 0.0
    failures: int = 0
    is_dialled: bool = False


class NeighbourList:
    """The nodes that were heard, oldest first."""

    def __init__(self) -> None:
        self._known: dict[NodeId, _Neighbour] = {}

    def __len__(self) -> int:
        return len(self._known)

    def heard(self, node: NodeId, addresses: tuple[str, ...]) -> None:
        """A node is announced; at new addresses it may be dialled at once."""
        known = self._known.get(node)
        if known is None:
            if len(self._known) >= NEIGHBOURS_LIMIT:
                del self._known[next(iter(self._known))]
            self._known[node] = _Neighbour(addresses)
        elif known.addresses != addresses:
            known.addresses, known.next_at, known.failures = addresses, 0.0, 0

    def due(
        self, now: float, *, is_wanted: Callable[[NodeId], bool]
    ) -> list[tuple[NodeId, tuple[str, ...]]]:
        """Return whom to dial now; each is told of by `dialled` when that has ended."""
        room = DIALS_AT_ONCE - sum(each.is_dialled for each in self._known.values())
        found: list[tuple[NodeId, tuple[str, ...]]] = []
        for node, each in self._known.items():
            if len(found) >= room:
                break
            if not each.is_dialled and each.next_at <= now and is_wanted(node):
                each.is_dialled = True
                found.append((node, each.addresses))
        return found

    def dialled(self, node: NodeId, *, is_reached: bool, now: float) -> None:
        """A dial has ended."""
        known = self._known.get(node)
        if known is None:
            return
        known.is_dialled = False
        known.failures = 0 if is_reached else known.failures + 1
        known.next_at = now + min(AGAIN_LIMIT_S, AGAIN_S * 2.0 ** min(known.failures, 8))

    def forget(self) -> None:
        """Another network: nobody is a neighbour any more."""
        self._known.clear()
