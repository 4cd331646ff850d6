"""Whose a domain is, as its DNS says: a TXT record with the id of a node."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable

from p2prc.model.identity import NodeId
from p2prc.protocol.domains import proof_name
from p2prc.web.names import NamesSilent, texts_of

KEPT_S = 600.0
"""What was found is believed so long; what was not is looked for each time."""
_LIMIT = 10_000
Texts = Callable[[str], Awaitable[list[str]]]


class DomainProofs:
    """Asks DNS, and remembers for a while."""

    def __init__(
        self, texts: Texts = texts_of, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._texts = texts
        self._clock = clock
        self._found: dict[tuple[str, NodeId], float] = {}

    async def has_proved(self, domain: str, peer: NodeId) -> bool | None:
        """Say whether the domain's DNS names the node; None where it does not answer."""
        now = self._clock()
        until = self._found.get((domain, peer))
        if until is not None and now < until:
            return True
        try:
            is_there = peer in await self._texts(proof_name(domain))
        except NamesSilent:
            return None
        self._found.pop((domain, peer), None)
        if is_there:
            if len(self._found) >= _LIMIT:
                self._found.clear()
            self._found[domain, peer] = now + KEPT_S
        return is_there
