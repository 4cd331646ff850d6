"""The codec of the relay's frames: exact bytes, strict, and safe on whatever arrives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.protocol import relay_frames as frames
from p2prc.protocol.relay_frames import BODY_LIMIT_BYTES, ClientAuth, Datagrams, Ping, Pong, Status

KEY, OTHER = bytes(range(32)), bytes(range(32, 64))
keys = st.binary(min_size=32, max_size=32)


@given(st.integers(0, (1 << 62) - 1), st.binary(max_size=4))
def test_numbers_come_back_and_take_the_fewest_bytes(value: int, rest: bytes) -> None:
    written = frames.write_number(value)
    assert frames.read_number(written + rest) == (value, len(written))
    assert len(written) == next(size for size in (1, 2, 4, 8) if value < 1 << (8 * size - 2))


def test_numbers_are_those_of_quic() -> None:
    # RFC 9000, appendix A.1.
    assert frames.read_number(bytes.fromhex("c2197c5eff14e88c")) == (151288809941952652, 8)
    assert frames.read_number(bytes.fromhex("9d7f3e7d")) == (494878333, 4)
    assert frames.read_number(bytes.fromhex("7bbd")) == (15293, 2)
    assert frames.read_number(bytes.fromhex("25")) == (37, 1)
    assert frames.read_number(bytes.fromhex("4025")) == (37, 2)
    with pytest.raises(WireError):
        frames.write_number(1 << 62)


@given(keys, st.binary(max_size=200), st.integers(0, 255), st.booleans())
def test_a_datagram_is_forwarded_with_its_source_in_place_of_its_destination(
    key: bytes, payload: bytes, ecn: int, is_batch: bool
) -> None:
    segment = b"\x05\x00" if is_batch else b""
    rest = bytes([ecn]) + segment + payload
    said = frames.read_frame(bytes([5 if is_batch else 4]) + key + rest)
    assert said == Datagrams(key, is_batch, memoryview(rest))
    assert frames.received(OTHER, said) == bytes([7 if is_batch else 6]) + OTHER + rest


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\x40",
        b"\x04",
        b"\x04" + KEY,
        b"\x05" + KEY + b"\x00\x01",
        b"\x09" + bytes(7),
        b"\x0a" + bytes(9),
        b"\x00" + bytes(16),
        b"\x01" + KEY + b"\x40" + bytes(64),
        b"\x06" + KEY + b"\x00hello",
        b"\x3f",
        b"\xff" + bytes(7),
        b"\x04" + KEY + bytes(BODY_LIMIT_BYTES - 31),
    ],
)
def test_what_no_client_says_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        frames.read_frame(frame)


def test_the_largest_body_is_read_whole() -> None:
    said = frames.read_frame(b"\x04" + KEY + bytes(BODY_LIMIT_BYTES - 32))
    assert isinstance(said, Datagrams)
    assert len(frames.received(OTHER, said)) == BODY_LIMIT_BYTES + 1


def test_pings_and_proofs() -> None:
    assert frames.read_frame(b"\x09" + b"abcdefgh") == Ping(b"abcdefgh")
    assert frames.read_frame(b"\x0a" + b"abcdefgh") == Pong(b"abcdefgh")
    signature = bytes(range(64))
    assert frames.read_auth(b"\x01" + KEY + b"\x40" + signature) == ClientAuth(KEY, signature)


@pytest.mark.parametrize(
    "frame",
    [b"\x01" + KEY + b"\x3f" + bytes(64), b"\x01" + KEY, b"\x04" + KEY + b"\x40" + bytes(64)],
)
def test_a_malformed_proof_is_refused(frame: bytes) -> None:
    with pytest.raises(WireError):
        frames.read_auth(frame)


def test_what_the_relay_says_is_laid_out_as_iroh_reads_it() -> None:
    assert frames.challenge(bytes(16)) == b"\x00" + bytes(16)
    assert frames.confirm() == b"\x02"
    assert frames.deny("no") == b"\x03\x02no"
    assert frames.deny("n" * 200) == b"\x03\xc8\x01" + b"n" * 200
    assert frames.endpoint_gone(KEY) == b"\x08" + KEY
    assert frames.ping(b"12345678") == b"\x0912345678"
    assert frames.pong(b"12345678") == b"\x0a12345678"
    restarting = frames.restarting(reconnect_in_s=1.5, try_for_s=1e9)
    assert restarting == b"\x0c\x00\x00\x05\xdc\xff\xff\xff\xff"
    for state in Status:
        assert frames.status(state, version=frames.VERSION_2) == b"\x0d" + bytes([state])
    told = frames.status(Status.SAME_ID_ELSEWHERE, version=frames.VERSION_1)
    assert told is not None
    assert told[:1] == b"\x0b"
    assert b"another endpoint" in told
    assert frames.status(Status.HEALTHY, version=frames.VERSION_1) is None


def test_a_long_reason_is_cut_between_letters() -> None:
    denied = frames.deny("ä" * 1000)
    size, used = frames.REASON_LIMIT_BYTES, 3
    assert denied[used:].decode() == "ä" * (size // 2)


@given(st.binary(max_size=300))
def test_any_bytes_are_a_frame_or_refused(garbage: bytes) -> None:
    for read in (frames.read_frame, frames.read_auth, frames.read_number):
        try:
            read(garbage)
        except WireError:
            continue


@given(st.sampled_from([1, 4, 5, 9, 10]), st.binary(max_size=300))
def test_any_body_under_a_known_type_is_a_frame_or_refused(kind: int, body: bytes) -> None:
    for read in (frames.read_frame, frames.read_auth):
        try:
            said = read(bytes([kind]) + body)
        except WireError:
            continue
        if isinstance(said, Datagrams):
            assert said.destination + said.rest == body
