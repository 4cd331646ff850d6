"""Frames, values and signatures: what comes out is what went in, or a refusal."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.wire.codec import Codec, encode
from p2prc.wire.framing import HEADER_BYTES, FrameReader, frame, frames
from p2prc.wire.signed import SIGNATURE_BYTES, Envelope, public_key_of, sign, verify

SECRET = b"\1" * 32
OTHER_SECRET = b"\2" * 32


class Leaf(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="leaf"):
    text: str
    count: int = 0


class Branch(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="branch"):
    children: tuple[Leaf | Branch, ...]


codec: Codec[Leaf | Branch] = Codec(Leaf | Branch, limit_bytes=4096)
leaves = st.builds(Leaf, st.text(max_size=20), st.integers(-(2**63), 2**63 - 1))
trees = st.recursive(
    leaves, lambda inner: st.builds(Branch, st.lists(inner, max_size=3).map(tuple)), max_leaves=8
)


# -- frames -----------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=300), max_size=8), st.data())
def test_frames_survive_any_cutting(payloads: list[bytes], data: st.DataObject) -> None:
    sent = frames(payloads)
    reader = FrameReader(limit_bytes=300)
    received, start = [], 0
    while start < len(sent):
        end = start + data.draw(st.integers(1, len(sent) - start))
        reader.feed(sent[start:end])
        received += reader.drain()
        start = end
    assert received == payloads
    assert reader.pending_bytes == 0


@given(st.binary(min_size=1, max_size=100), st.integers(1, 103))
def test_half_a_frame_is_held_and_not_given_out(payload: bytes, kept: int) -> None:
    piece = frame(payload)[: min(kept, len(payload) + HEADER_BYTES - 1)]
    reader = FrameReader(limit_bytes=100)
    reader.feed(piece)
    assert reader.next_frame() is None
    assert reader.pending_bytes == len(piece)


@pytest.mark.parametrize("length", [101, 1 << 31, (1 << 32) - 1])
def test_a_frame_over_the_limit_is_refused_by_its_header(length: int) -> None:
    reader = FrameReader(limit_bytes=100)
    reader.feed(length.to_bytes(HEADER_BYTES, "big"))
    with pytest.raises(WireError):
        reader.next_frame()


def test_a_frame_of_exactly_the_limit_passes() -> None:
    reader = FrameReader(limit_bytes=100)
    reader.feed(frame(bytes(100)))
    assert reader.next_frame() == bytes(100)


@given(st.binary(max_size=50), st.binary(max_size=50))
def test_what_follows_the_last_frame_can_be_taken_raw(payload: bytes, rest: bytes) -> None:
    reader = FrameReader(limit_bytes=100)
    reader.feed(frame(payload) + rest)
    assert reader.next_frame() == payload
    assert reader.take_rest() == rest
    assert reader.pending_bytes == 0


@given(st.binary(max_size=400))
def test_garbage_gives_frames_or_a_refusal_and_never_more_than_was_fed(garbage: bytes) -> None:
    reader = FrameReader(limit_bytes=100)
    reader.feed(garbage)
    try:
        found = reader.drain()
    except WireError:
        return
    assert sum(len(payload) + HEADER_BYTES for payload in found) + reader.pending_bytes == len(
        garbage
    )


# -- values -----------------------------------------------------------------------------------


@given(trees)
def test_a_value_comes_back_as_it_was(value: Leaf | Branch) -> None:
    assert Codec[Leaf | Branch](Leaf | Branch, limit_bytes=1 << 20).decode(encode(value)) == value


@given(st.dictionaries(st.text(max_size=5), st.integers(0, 1000), max_size=6))
def test_equal_values_have_equal_bytes(value: dict[str, int]) -> None:
    assert encode(value) == encode(dict(reversed(value.items())))


@given(st.binary(max_size=200))
def test_garbage_is_a_refusal_or_a_value_and_nothing_else(garbage: bytes) -> None:
    try:
        value = codec.decode(garbage)
    except WireError:
        return
    assert isinstance(value, Leaf | Branch)


@given(trees, st.data())
def test_a_value_cut_short_is_refused(value: Leaf | Branch, data: st.DataObject) -> None:
    content = encode(value)
    cut = content[: data.draw(st.integers(0, len(content) - 1))]
    with pytest.raises(WireError):
        codec.decode(cut)


def test_a_field_that_is_not_known_is_refused() -> None:
    with pytest.raises(WireError):
        codec.decode(encode({"type": "leaf", "text": "a", "surprise": 1}))


def test_another_type_of_message_is_refused() -> None:
    with pytest.raises(WireError):
        codec.decode(encode({"type": "stone", "text": "a"}))


def test_a_value_over_the_limit_is_refused_before_it_is_parsed() -> None:
    content = encode(Leaf("a"))
    assert Codec[Leaf](Leaf, limit_bytes=len(content)).decode(content) == Leaf("a")
    with pytest.raises(WireError, match="at most"):
        Codec[Leaf](Leaf, limit_bytes=len(content) - 1).decode(content)


def test_deep_nesting_is_refused() -> None:
    # A map of two: the tag, and an array of one that holds the next such map.
    level = b"\x82\xa4type\xa6branch\xa8children\x91"
    bottom = encode(Leaf("x"))
    content = level * 100_000 + bottom
    with pytest.raises(WireError):
        Codec[Leaf | Branch](Leaf | Branch, limit_bytes=len(content)).decode(content)


def test_text_that_is_not_utf_8_is_refused() -> None:
    with pytest.raises(WireError):
        codec.decode(encode(Leaf("ab")).replace(b"ab", b"\xff\xfe"))


# -- signatures -------------------------------------------------------------------------------


@given(st.binary(max_size=200), st.text(alphabet="abc-/", max_size=20))
def test_what_was_signed_is_what_is_verified(payload: bytes, purpose: str) -> None:
    envelope = sign(SECRET, purpose, payload)
    assert envelope.author == public_key_of(SECRET)
    assert verify(envelope, purpose) == payload


@given(
    st.binary(min_size=1, max_size=64),
    st.sampled_from(["author", "payload", "signature"]),
    st.data(),
)
def test_one_changed_bit_is_refused(payload: bytes, field: str, data: st.DataObject) -> None:
    envelope = sign(SECRET, "test", payload)
    content = bytearray(getattr(envelope, field))
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(WireError):
        verify(msgspec.structs.replace(envelope, **{field: bytes(content)}), "test")


def test_a_signature_holds_for_its_purpose_only() -> None:
    with pytest.raises(WireError):
        verify(sign(SECRET, "ticket", b"payload"), "record")


def test_a_purpose_cannot_be_moved_into_the_payload() -> None:
    envelope = sign(SECRET, "ab", b"c")
    with pytest.raises(WireError):
        verify(msgspec.structs.replace(envelope, payload=b"b\0c"), "a")


def test_another_key_is_not_the_author() -> None:
    envelope = sign(SECRET, "test", b"payload")
    with pytest.raises(WireError):
        verify(msgspec.structs.replace(envelope, author=public_key_of(OTHER_SECRET)), "test")


@pytest.mark.parametrize("author", [b"", b"short", bytes(33)])
@pytest.mark.parametrize("signature", [b"", bytes(SIGNATURE_BYTES), bytes(SIGNATURE_BYTES + 1)])
def test_nonsense_in_an_envelope_is_refused(author: bytes, signature: bytes) -> None:
    with pytest.raises(WireError):
        verify(Envelope(author, b"payload", signature), "test")


WEAK_KEYS = (
    bytes(32),
    bytes([1, *bytes(31)]),
    bytes([1, *bytes(30), 0x80]),
    bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"),
    bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"),
    bytes([0xEC, *[0xFF] * 30, 0x7F]),
    bytes([0xED, *[0xFF] * 30, 0x7F]),
    bytes([0xEE, *[0xFF] * 30, 0x7F]),
)


@pytest.mark.parametrize("key", WEAK_KEYS, ids=bytes.hex)
def test_a_key_that_one_signature_fits_everything_for_is_refused(key: bytes) -> None:
    signature = bytes([1, *bytes(63)])
    with pytest.raises(WireError, match="no key"):
        verify(Envelope(key, b"anything", signature), "purpose")
