"""No bytes of a peer do more than be refused."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import p2prc
from p2prc.errors import P2prcError
from tests.fuzz.decoders import DECODERS, Decoder
from tests.fuzz.mutation import mutated

OUR_OWN_BYTES = {
    # What only this node itself wrote: its ledger, its shelf of outcomes, what it tells.
    "protocol/jobs/facts.py",
    "node/shelf.py",
    "node/own_record.py",
    "node/job_pages.py",
}


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_the_examples_are_understood_or_refused_as_ours(decoder: Decoder) -> None:
    accepted = 0
    for example in decoder.examples:
        with suppress(P2prcError):
            decoder.decode(example)
            accepted += 1
    assert accepted or decoder.name == "job"


@pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)
def test_any_bytes_are_taken_or_refused(decoder: Decoder) -> None:
    @settings(max_examples=150, deadline=None)
    @given(st.binary(max_size=400) | mutated(decoder.examples))
    def takes(content: bytes) -> None:
        with suppress(P2prcError):
            decoder.decode(content)

    takes()


def test_every_codec_is_fuzzed() -> None:
    """A new codec has to be entered in the list, or named as one that reads our own bytes."""
    package = Path(p2prc.__file__).parent
    listed = {name for decoder in DECODERS for name in decoder.codecs}
    for path in package.rglob("*.py"):
        place = path.relative_to(package).as_posix()
        for name in re.findall(r"^(\w+): Codec\[", path.read_text(), re.MULTILINE):
            assert name in listed or place in OUR_OWN_BYTES, f"{place}: {name} is not fuzzed"
