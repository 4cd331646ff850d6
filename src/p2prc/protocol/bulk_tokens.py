"""Who may come in by the bulk door: random tokens, each for one peer, a short time, some uses.

A token is told over a link whose peer proved its key, and shown inside TLS to the one certificate
that was told with it: so only that peer can know it, and a few uses are as safe as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from blake3 import blake3

from p2prc.errors import NotAllowed
from p2prc.model.identity import NodeId

TOKEN_BYTES = 32
TOKEN_LIFETIME_S = 30.0
TOKEN_USES = 16
TOKENS_PER_PEER = 8
TOKENS_LIMIT = 4096


@dataclass(slots=True)
class _Issued:
    peer: NodeId
    expires_at: float
    uses: int


class BulkTokens:
    """Every token that is good now, by its hash: how long a look takes tells nothing of it."""

    def __init__(self) -> None:
        self._issued: dict[bytes, _Issued] = {}

    def __len__(self) -> int:
        return len(self._issued)

    def issue(self, peer: NodeId, token: bytes, now: float) -> None:
        """Let the peer in by this token from now on; its oldest ones make room."""
        self._forget_expired(now)
        own = [name for name, issued in self._issued.items() if issued.peer == peer]
        for name in own[: max(0, len(own) + 1 - TOKENS_PER_PEER)]:
            del self._issued[name]
        while len(self._issued) >= TOKENS_LIMIT:
            del self._issued[next(iter(self._issued))]
        self._issued[_name(token)] = _Issued(peer, now + TOKEN_LIFETIME_S, TOKEN_USES)

    def redeem(self, token: bytes, now: float) -> NodeId:
        """Return whose token it is, and take one use of it away. Raises NotAllowed."""
        self._forget_expired(now)
        name = _name(token)
        issued = self._issued.get(name)
        if issued is None:
            raise NotAllowed("the token is unknown, expired or used up")
        issued.uses -= 1
        if not issued.uses:
            del self._issued[name]
        return issued.peer

    def forget(self, peer: NodeId) -> None:
        """Let the peer in no longer."""
        self._issued = {name: each for name, each in self._issued.items() if each.peer != peer}

    def clear(self) -> None:
        """Let nobody in any longer."""
        self._issued.clear()

    def _forget_expired(self, now: float) -> None:
        self._issued = {name: each for name, each in self._issued.items() if now < each.expires_at}


def _name(token: bytes) -> bytes:
    return blake3(token).digest()
