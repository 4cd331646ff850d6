"""Claims about records: their author speaks for itself alone, and bytes are kept as signed."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import WireError
from p2prc.model.identity import NodeId
from p2prc.model.record import RECORD_LIMIT_BYTES, NodeRecord, open_record, sign_record
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.wire.codec import encode
from p2prc.wire.signed import Envelope, public_key_of, sign

SECRET, OTHER = b"\1" * 32, b"\2" * 32
NODE = NodeId(public_key_of(SECRET).hex())
RECORD = NodeRecord(node=NODE, network=NODE, version=7, name="attic", membership=b"chain")
PURPOSE = "p2prc record 1"
_texts = st.text(max_size=20)


def test_a_record_is_read_back_as_it_was_signed() -> None:
    signed = sign_record(RECORD, SECRET)
    assert open_record(signed.envelope) == signed


@given(
    version=st.integers(0, 1 << 62),
    name=_texts,
    membership=st.binary(max_size=100),
    addresses=st.lists(_texts, max_size=8).map(tuple),
    has_left=st.booleans(),
    metadata=st.dictionaries(_texts, _texts, max_size=4),
    lent=st.builds(Capacity, cpu_millis=st.integers(0, 64_000)),
    runtimes=st.lists(st.builds(RuntimeOffer, _texts, _texts), max_size=3).map(tuple),
)
def test_every_record_survives_the_wire(**fields: Any) -> None:
    record = msgspec.structs.replace(RECORD, **fields)
    assert open_record(sign_record(record, SECRET).envelope).record == record


def test_nobody_can_speak_for_another_node() -> None:
    with pytest.raises(WireError, match="another key"):
        open_record(sign_record(RECORD, OTHER).envelope)
    by_other = sign_record(RECORD, OTHER).envelope
    with pytest.raises(WireError, match="signature"):
        open_record(msgspec.structs.replace(by_other, author=bytes.fromhex(NODE)))


@given(st.integers(0, 10**6), st.integers(1, 255))
def test_a_changed_byte_is_a_refusal(position: int, change: int) -> None:
    envelope = sign_record(RECORD, SECRET).envelope
    payload = bytearray(envelope.payload)
    payload[position % len(payload)] ^= change
    with pytest.raises(WireError):
        open_record(msgspec.structs.replace(envelope, payload=bytes(payload)))


def test_bytes_signed_for_another_purpose_are_no_record() -> None:
    with pytest.raises(WireError):
        open_record(sign(SECRET, "p2prc ticket 1", encode(RECORD)))


def test_a_newer_authors_unknown_field_is_ignored_and_kept() -> None:
    fields = msgspec.to_builtins(RECORD) | {"membership": b"chain", "colour": "green"}
    envelope = sign(SECRET, PURPOSE, encode(fields))
    signed = open_record(envelope)
    assert signed.record == RECORD
    assert b"green" in signed.envelope.payload


@pytest.mark.parametrize(
    "changes",
    [
        {"version": -1},
        {"version": 1 << 63},
        {"name": "x" * 201},
        {"membership": b"x" * 4097},
        {"addresses": ("a:1",) * 9},
        {"node": "not hex"},
        {"memory_bytes": -1},
        {"metadata": {"note": "x" * 201}},
        {"metadata": {str(number): "x" * 200 for number in range(60)}},
    ],
)
def test_a_record_beyond_its_bounds_is_refused_though_well_signed(changes: dict[str, Any]) -> None:
    fields = msgspec.to_builtins(RECORD) | {"membership": b"chain"} | changes
    with pytest.raises(WireError):
        open_record(sign(SECRET, PURPOSE, encode(fields)))


def test_an_oversized_record_is_refused_by_its_size() -> None:
    with pytest.raises(WireError, match="at most"):
        open_record(sign(SECRET, PURPOSE, bytes(RECORD_LIMIT_BYTES + 1)))


@given(st.binary(max_size=40), st.binary(max_size=100), st.binary(max_size=70))
def test_garbage_is_refused(author: bytes, payload: bytes, signature: bytes) -> None:
    with pytest.raises(WireError):
        open_record(Envelope(author, payload, signature))
