"""What a node tells its local network: one sealed word, which members of its own network can open.

A LAN is full of strangers. They see that some p2prc node is at an address and port; which node, and
of which network, only those can read who know the network's id: members, and who holds a ticket.
The word is new at each start, so that strangers cannot follow a node from café to café.
"""

from __future__ import annotations

import base64
import binascii
import hashlib

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from p2prc.errors import WireError
from p2prc.model.identity import NodeId

NONCE_BYTES = 12
_ID_BYTES = 32
_WORD_BYTES = NONCE_BYTES + _ID_BYTES + 16
_TEXT_BYTES = _WORD_BYTES // 3 * 4


class ForeignWord(WireError):
    """A word of another network: no misbehaviour, there may be several on one LAN."""


def seal(node: NodeId, *, network: NodeId, port: int, nonce: bytes) -> bytes:
    """Return the word, fit for a TXT record. A nonce is used once."""
    sealed = _cipher(network).encrypt(nonce, bytes.fromhex(node), _bound(port))
    return base64.urlsafe_b64encode(nonce + sealed)


def unseal(text: bytes, *, network: NodeId, port: int) -> NodeId:
    """Return the node that says it is there. Raises ForeignWord, WireError.

    Whoever heard a word can say it again at an address of its own: it proves nothing, and the
    connection that follows does.
    """
    if len(text) != _TEXT_BYTES:
        raise WireError("a word of a strange length")
    try:
        word = base64.b64decode(text, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise WireError("a word that cannot be read") from error
    try:
        node = _cipher(network).decrypt(word[:NONCE_BYTES], word[NONCE_BYTES:], _bound(port))
    except InvalidTag as error:
        raise ForeignWord("a word of another network") from error
    return NodeId(node.hex())


def _cipher(network: NodeId) -> ChaCha20Poly1305:
    secret = bytes.fromhex(network)
    return ChaCha20Poly1305(hashlib.blake2b(secret, digest_size=32, person=b"p2prc lan 1").digest())


def _bound(port: int) -> bytes:
    return port.to_bytes(2, "big")
