"""Tokens of the bulk door: for one peer, for a while, for some uses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import NotAllowed
from p2prc.model.identity import NodeId
from p2prc.protocol import bulk_tokens
from p2prc.protocol.bulk_tokens import TOKEN_LIFETIME_S, TOKEN_USES, TOKENS_PER_PEER, BulkTokens

ADA, GRACE = NodeId("ad" * 32), NodeId("ce" * 32)


def test_a_token_opens_for_whom_it_was_made_some_times() -> None:
    tokens = BulkTokens()
    tokens.issue(ADA, b"one", 0)
    tokens.issue(GRACE, b"two", 0)
    for _ in range(TOKEN_USES):
        assert tokens.redeem(b"one", 1) == ADA
    with pytest.raises(NotAllowed):
        tokens.redeem(b"one", 1)
    assert tokens.redeem(b"two", 1) == GRACE


def test_a_token_ends_with_its_time() -> None:
    tokens = BulkTokens()
    tokens.issue(ADA, b"one", 0)
    assert tokens.redeem(b"one", TOKEN_LIFETIME_S - 0.01) == ADA
    with pytest.raises(NotAllowed):
        tokens.redeem(b"one", TOKEN_LIFETIME_S)
    assert len(tokens) == 0


def test_tokens_of_a_peer_that_went_open_nothing() -> None:
    tokens = BulkTokens()
    tokens.issue(ADA, b"one", 0)
    tokens.issue(GRACE, b"two", 0)
    tokens.forget(ADA)
    with pytest.raises(NotAllowed):
        tokens.redeem(b"one", 0)
    assert tokens.redeem(b"two", 0) == GRACE
    tokens.clear()
    with pytest.raises(NotAllowed):
        tokens.redeem(b"two", 0)


def test_a_peer_that_asks_often_pushes_out_its_own_tokens_alone() -> None:
    tokens = BulkTokens()
    tokens.issue(GRACE, b"hers", 0)
    for number in range(100):
        tokens.issue(ADA, b"%d" % number, 0)
    assert len(tokens) == TOKENS_PER_PEER + 1
    assert tokens.redeem(b"hers", 0) == GRACE
    assert tokens.redeem(b"99", 0) == ADA
    with pytest.raises(NotAllowed):
        tokens.redeem(b"0", 0)


def test_many_peers_hold_a_bounded_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_tokens, "TOKENS_LIMIT", 8)
    tokens = BulkTokens()
    for number in range(50):
        tokens.issue(NodeId(f"{number:064x}"), b"%d" % number, 0)
    assert len(tokens) == 8


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_no_other_bytes_open(token: bytes, shown: bytes) -> None:
    tokens = BulkTokens()
    tokens.issue(ADA, token, 0)
    if shown == token:
        assert tokens.redeem(shown, 0) == ADA
    else:
        with pytest.raises(NotAllowed):
            tokens.redeem(shown, 0)
