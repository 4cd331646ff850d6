"""The name in the first message of TLS (RFC 8446, 4.1.2; RFC 6066, 3), read and not answered."""

from __future__ import annotations

from dataclasses import dataclass

from p2prc.errors import WireError

HELLO_LIMIT_BYTES = 16 << 10
"""With post-quantum key shares a hello has about 2 KiB."""
_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_HOST_NAME = 0
_RECORD_LIMIT_BYTES = 1 << 14
_RECORDS_LIMIT = 8


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What was asked for; `server_name` None where no name was."""

    server_name: str | None


def read_hello(content: bytes) -> ClientHello | None:
    """Read what came so far, records as they stand; None where more is needed.

    Raises WireError for what is no ClientHello, or can be read in two ways.
    """
    message = _message(content)
    if message is None:
        return None
    body = _Bytes(message)
    body.take(2 + 32)  # the version and the random bytes
    body.vector(1, most=32)  # the session
    body.vector(2)  # the ciphers
    body.vector(1)  # the compressions
    if body.is_empty:
        return ClientHello(None)
    extensions = _Bytes(body.vector(2))
    body.check_empty()
    name: str | None = None
    seen: set[int] = set()
    while not extensions.is_empty:
        kind = extensions.number(2)
        extension = extensions.vector(2)
        if kind in seen:
            raise WireError("an extension comes twice")
        seen.add(kind)
        if kind == _SERVER_NAME:
            name = _name(extension)
    return ClientHello(name)


def _name(extension: bytes) -> str:
    outer = _Bytes(extension)
    names = _Bytes(outer.vector(2))
    outer.check_empty()
    kind, name = names.number(1), names.vector(2)
    names.check_empty()
    if kind != _HOST_NAME or not name or len(name) > 255 or not name.isascii() or b"\0" in name:
        raise WireError("that is no host's name")
    return name.decode("ascii")


def _message(content: bytes) -> bytes | None:
    """Return the body of the ClientHello, which may be spread over a few records."""
    joined, at = b"", 0
    for _ in range(_RECORDS_LIMIT):
        head = content[at : at + 5]
        _check_prefix(head)
        if len(head) < 5:
            return None
        size = int.from_bytes(head[3:], "big")
        if not 0 < size <= _RECORD_LIMIT_BYTES:
            raise WireError("a record has a wrong length")
        joined += content[at + 5 : at + 5 + size]
        if joined and joined[0] != _CLIENT_HELLO:
            raise WireError("that is no ClientHello")
        if len(joined) >= 4:
            length = int.from_bytes(joined[1:4], "big")
            if length > HELLO_LIMIT_BYTES:
                raise WireError("the hello is too long")
            if len(joined) >= 4 + length:
                return joined[4 : 4 + length]
        at += 5 + size
        if at > len(content):
            return None
    raise WireError("the hello is in too many pieces")


def _check_prefix(head: bytes) -> None:
    if (head[:1] and head[0] != _HANDSHAKE) or (len(head) > 1 and head[1] != 3):
        raise WireError("that is not TLS")


class _Bytes:
    """What is left of a message."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    @property
    def is_empty(self) -> bool:
        return self._at == len(self._content)

    def check_empty(self) -> None:
        """Raise WireError where something follows."""
        if not self.is_empty:
            raise WireError("bytes follow where none belong")

    def take(self, count: int) -> bytes:
        """Return the next bytes. Raises WireError where there are fewer."""
        end = self._at + count
        if end > len(self._content):
            raise WireError("the hello is cut short")
        taken = self._content[self._at : end]
        self._at = end
        return taken

    def number(self, count: int) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def vector(self, count: int, *, most: int | None = None) -> bytes:
        """Return bytes that have their length, of `count` bytes, before them."""
        size = self.number(count)
        if most is not None and size > most:
            raise WireError("a part of the hello is too long")
        return self.take(size)
