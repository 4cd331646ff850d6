"""A node's key as OpenSSH writes it: a node id is an Ed25519 public key."""

from __future__ import annotations

from binascii import b2a_base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Not when it runs: the command line, which is in a hurry, needs nothing else of it.
    from p2prc.model.identity import NodeId

_KIND = b"ssh-ed25519"
_BLOCK_BYTES = 8
_LINE_CHARACTERS = 70


def public_blob(node: NodeId) -> bytes:
    """Return the public key in the encoding of RFC 8709."""
    return _text(_KIND) + _text(bytes.fromhex(node))


def public_line(node: NodeId) -> str:
    """Return `ssh-ed25519 AAAA...`."""
    return f"{_KIND.decode()} {b2a_base64(public_blob(node), newline=False).decode()}"


def private_file(secret: bytes, node: NodeId) -> bytes:
    """Return a node's 32-byte secret as an unencrypted OpenSSH key file (PROTOCOL.key)."""
    # The check word only tells a wrong passphrase, of which there is none.
    check = bytes(4) * 2
    pair = _text(_KIND) + _text(bytes.fromhex(node)) + _text(secret + bytes.fromhex(node))
    body = check + pair + _text(b"p2prc")
    body += bytes(range(1, 1 + -len(body) % _BLOCK_BYTES))
    head = b"openssh-key-v1\0" + _text(b"none") + _text(b"none") + _text(b"")
    content = head + (1).to_bytes(4) + _text(public_blob(node)) + _text(body)
    encoded = b2a_base64(content, newline=False).decode()
    starts = range(0, len(encoded), _LINE_CHARACTERS)
    lines = [encoded[start : start + _LINE_CHARACTERS] for start in starts]
    kind = "OPENSSH PRIVATE KEY"
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""]).encode()


def _text(content: bytes) -> bytes:
    return len(content).to_bytes(4) + content
