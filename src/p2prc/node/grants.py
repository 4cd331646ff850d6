"""Which peer may fetch which tree, and why: nothing is served that nobody was promised."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from p2prc.model.identity import BlobId, NodeId


class Grants:
    """Trees that peers may read, each for a reason (a lease, an attempt, a job)."""

    def __init__(self) -> None:
        self._readers: Counter[tuple[NodeId, BlobId]] = Counter()
        self._by_reason: dict[str, set[tuple[NodeId, BlobId]]] = {}
        self._rules: dict[str, Callable[[NodeId, BlobId], bool]] = {}

    def allow(self, peer: NodeId, tree: BlobId, *, reason: str) -> None:
        """Let the peer read the tree until the reason is revoked; twice is once."""
        held = self._by_reason.setdefault(reason, set())
        if (peer, tree) not in held:
            held.add((peer, tree))
            self._readers[peer, tree] += 1

    def allow_by_rule(self, reason: str, rule: Callable[[NodeId, BlobId], bool]) -> None:
        """Let the rule say what a peer may read, until the reason is revoked."""
        self._rules[reason] = rule

    def revoke(self, reason: str) -> None:
        """Take back what was allowed for this reason."""
        self._rules.pop(reason, None)
        for pair in self._by_reason.pop(reason, ()):
            self._readers[pair] -= 1
            if not self._readers[pair]:
                del self._readers[pair]

    def readers(self, tree: BlobId) -> list[NodeId]:
        """Return who may read a tree."""
        return [peer for peer, granted in self._readers if granted == tree]

    def may_read(self, peer: NodeId, tree: BlobId) -> bool:
        """Say whether some reason stands."""
        if (peer, tree) in self._readers:
            return True
        return any(rule(peer, tree) for rule in self._rules.values())
