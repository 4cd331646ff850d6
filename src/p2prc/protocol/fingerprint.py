"""A fingerprint of the table in three levels, kept up to date with every change.

Two equal tables are recognised by eight bytes. Where they differ, 32 branches and then the 32
leaves of a differing branch lead to the few entries that differ (Merkle trees as anti-entropy:
Demers and others, 1987; DeCandia and others: "Dynamo", 2007). A level is the exclusive or of what
is below it, so a change costs three operations and the order of changes does not matter.
"""

from __future__ import annotations

from array import array
from functools import lru_cache

from blake3 import blake3

from p2prc.model.identity import NodeId

BRANCHES = 32
LEAVES_PER_BRANCH = 32
LEAVES = BRANCHES * LEAVES_PER_BRANCH
MARK_BYTES = 8
_BRANCH_BYTES = LEAVES_PER_BRANCH * MARK_BYTES


def leaf_of(node: NodeId) -> int:
    """Return the leaf in which the node is counted: the first ten bits of its id."""
    return int(node[:3], 16) >> 2


# In a simulation ten thousand tables meet the same lives one after another.
@lru_cache(maxsize=4096)
def mark_of(node: NodeId, version: int, incarnation: int) -> int:
    """Return what one entry adds to the fingerprint."""
    text = f"{node} {version} {incarnation}".encode()
    return int.from_bytes(blake3(text).digest(MARK_BYTES), "big")


class Fingerprint:
    """The exclusive or of the marks of all entries, by leaf, by branch and altogether."""

    __slots__ = ("_branches", "_leaves", "_root")

    def __init__(self) -> None:
        self._root = 0
        self._branches = array("Q", bytes(BRANCHES * MARK_BYTES))
        self._leaves = array("Q", bytes(LEAVES * MARK_BYTES))

    def copy(self) -> Fingerprint:
        """Return one that changes on its own."""
        twin = Fingerprint()
        twin._root, twin._branches, twin._leaves = self._root, self._branches[:], self._leaves[:]
        return twin

    def toggle(self, leaf: int, mark: int) -> None:
        """Add an entry that is not in, or remove one that is."""
        self._root ^= mark
        self._branches[leaf // LEAVES_PER_BRANCH] ^= mark
        self._leaves[leaf] ^= mark

    @property
    def root(self) -> bytes:
        return self._root.to_bytes(MARK_BYTES, "big")

    @property
    def branches(self) -> bytes:
        """The branches' fingerprints one after another."""
        return b"".join(mark.to_bytes(MARK_BYTES, "big") for mark in self._branches)

    def leaves(self, branches: tuple[int, ...]) -> bytes:
        """The fingerprints of these branches' leaves one after another."""
        return b"".join(
            mark.to_bytes(MARK_BYTES, "big")
            for branch in branches
            for mark in self._leaves[branch * LEAVES_PER_BRANCH : (branch + 1) * LEAVES_PER_BRANCH]
        )

    def differing_branches(self, marks: bytes) -> tuple[int, ...]:
        """Return the branches in which a peer's fingerprints are others than ours."""
        return tuple(
            branch for branch, mark in enumerate(_split(marks)) if mark != self._branches[branch]
        )

    def differing_leaves(self, branches: tuple[int, ...], marks: bytes) -> dict[int, bool]:
        """Return the leaves that differ, and of each whether it is empty at the peer's."""
        found: dict[int, bool] = {}
        if len(marks) != len(branches) * _BRANCH_BYTES:
            return found
        theirs = _split(marks)
        for position, branch in enumerate(branches):
            for offset in range(LEAVES_PER_BRANCH):
                leaf = branch * LEAVES_PER_BRANCH + offset
                mark = theirs[position * LEAVES_PER_BRANCH + offset]
                if mark != self._leaves[leaf]:
                    found[leaf] = mark == 0
        return found


def _split(marks: bytes) -> list[int]:
    return [
        int.from_bytes(marks[start : start + MARK_BYTES], "big")
        for start in range(0, len(marks), MARK_BYTES)
    ]
