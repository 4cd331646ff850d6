"""The name that a ClientHello asks for, beside what OpenSSL reads in it."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.protocol.client_hello import HELLO_LIMIT_BYTES, read_hello

NAME = "app.example.org"


def _hello(name: str | None, *, most: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> bytes:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.maximum_version = most
    context.set_alpn_protocols(["h2", "http/1.1"])
    said = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return said.read()


class _Oracle:
    """What OpenSSL takes a hello for."""

    def __init__(self) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.sni_callback = self._asked
        self._seen: list[str | None] = []

    def _asked(self, _: object, name: str | None, __: object) -> int:
        self._seen.append(name)
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    def read(self, content: bytes) -> list[str | None]:
        """Return the name in a list; an empty one where it is no hello."""
        self._seen = []
        incoming = ssl.MemoryBIO()
        incoming.write(content)
        server = self._context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        try:
            server.do_handshake()
        except (ssl.SSLError, UnicodeError):
            return self._seen
        return self._seen


ORACLE = _Oracle()
HELLOS = [_hello(NAME), _hello(NAME, most=ssl.TLSVersion.TLSv1_2), _hello(None)]


def _in_records(hello: bytes, size: int) -> bytes:
    body = hello[5:]
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(hello[:3] + len(piece).to_bytes(2, "big") + piece for piece in pieces)


@pytest.mark.parametrize(("hello", "name"), list(zip(HELLOS, (NAME, NAME, None), strict=True)))
def test_the_name_is_read_as_soon_as_it_is_whole(hello: bytes, name: str | None) -> None:
    for length in range(len(hello)):
        assert read_hello(hello[:length]) is None
    found = read_hello(hello + b"what comes after it")
    assert found is not None
    assert found.server_name == name
    spread = read_hello(_in_records(hello, 1 + len(hello) // 4))
    assert spread is not None
    assert spread.server_name == name


def test_what_is_no_hello_is_known_by_its_first_bytes() -> None:
    for content in (b"G", b"GET / HTTP/1.1\r\n", b"\x16\x02", b"\x15\x03\x03\0\2", b"\x80\x2e\1"):
        with pytest.raises(WireError):
            read_hello(content)


def test_a_hello_is_bounded_in_size_and_pieces() -> None:
    long = b"\1" + (HELLO_LIMIT_BYTES + 1).to_bytes(3, "big")
    with pytest.raises(WireError, match="too long"):
        read_hello(b"\x16\3\1\0\4" + long)
    with pytest.raises(WireError, match="pieces"):
        read_hello(_in_records(HELLOS[0], 10))
    with pytest.raises(WireError, match="wrong length"):
        read_hello(b"\x16\3\1\0\0")


# OpenSSL's names are decoded by a callback that cannot raise.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@settings(max_examples=400, deadline=None)
@given(
    st.sampled_from(HELLOS),
    st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), min_size=1, max_size=3),
    st.integers(0, 40),
)
def test_what_openssl_takes_for_a_hello_has_the_same_name_here(
    hello: bytes, changes: list[tuple[int, int]], cut: int
) -> None:
    content = bytearray(hello)
    for at, value in changes:
        content[at % len(content)] = value
    mutated = bytes(content[: len(content) - cut] if cut < 5 else content)
    theirs = ORACLE.read(mutated)
    try:
        ours = read_hello(mutated)
    except WireError:
        # To refuse more than OpenSSL does leads nobody to another's service.
        return
    if ours is not None and theirs:
        assert [ours.server_name] == theirs
