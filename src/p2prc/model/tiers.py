"""What a tier of a runtime keeps a tenant from, and what it does not.

A tier is a name for walls. In `userns` everything here is stopped; so it is in
`container`, but by an engine that knows no filters of calls.
The table is the worst case, for machines and users of all kinds; what is true of one node, its
runtime says after it has tried.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


class Attack(StrEnum):
    """What a tenant may try against the owner of the machine or against other tenants."""

    READ_FILES = "read-files"
    """Read the owner's files, keys, other leases."""
    SEE_FILES = "see-files"
    """Learn which files there are, their sizes and owners, without reading them."""
    WRITE_FILES = "write-files"
    """Write anything outside of the lease's own folders."""
    SEE_PROCESSES = "see-processes"
    """Learn what runs on the machine, by whom and with which words."""
    SIGNAL_PROCESSES = "signal-processes"
    """Stop, kill, slow down or trace processes that are not its own."""
    USE_NETWORK = "use-network"
    """Reach the machine's own ports, its neighbours, and the world."""
    ODD_CALLS = "odd-calls"
    """Use parts of the kernel that programs seldom need and attackers often: keys, namespaces."""


_ALL = frozenset(Attack)
UNSTOPPED: Mapping[str, frozenset[Attack]] = {
    "container": frozenset({Attack.ODD_CALLS}),
    "userns": frozenset(),
    "unshare": frozenset(),
    "landlock": frozenset({Attack.SEE_FILES, Attack.SIGNAL_PROCESSES}),
    "none": _ALL,
}
"""For each tier the attacks that it may not stop. Of a tier that is not here nothing is known."""


def unstopped(tier: str) -> frozenset[Attack]:
    """Return the attacks that a tier may not stop; all of them for one that nobody knows."""
    return UNSTOPPED.get(tier, _ALL)
