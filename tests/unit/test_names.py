"""What a person types for a node: strangers choose their names, which must fool nobody."""

from __future__ import annotations

import pytest

from p2prc.daemon.names import find_asking, find_node
from p2prc.errors import NameAmbiguous, NodeUnknown
from p2prc.model.identity import NodeId, short
from p2prc.protocol.asking import fingerprint

FRIEND = NodeId("0123456789abcdef" * 4)
STRANGER = NodeId("f" * 64)


def names(of_stranger: str) -> dict[NodeId, str]:
    return {STRANGER: of_stranger, FRIEND: "laptop"}


@pytest.mark.parametrize("typed", [fingerprint(FRIEND), FRIEND[:16], FRIEND[:24], FRIEND])
def test_a_name_that_is_anothers_fingerprint_is_not_taken_for_it(typed: str) -> None:
    assert find_asking(typed, names(typed)) == FRIEND


@pytest.mark.parametrize("typed", [FRIEND[:6], short(FRIEND), "0123-4567", "0123-45"])
def test_a_name_that_is_the_beginning_of_anothers_id_is_ambiguous(typed: str) -> None:
    with pytest.raises(NameAmbiguous):
        find_asking(typed, names(typed))


@pytest.mark.parametrize("typed", [short(FRIEND), FRIEND[:6]])
def test_members_are_no_more_mistaken_for_each_other(typed: str) -> None:
    with pytest.raises(NameAmbiguous):
        find_node(typed, names(typed))
    assert find_node(typed, names("desktop")) == FRIEND


def test_fingerprints_and_names_are_understood() -> None:
    for typed in (fingerprint(FRIEND), fingerprint(FRIEND).upper(), "0123-4567", "laptop"):
        assert find_asking(typed, names("my-desktop")) == FRIEND
    assert find_asking("my-desktop", names("my-desktop")) == STRANGER
    with pytest.raises(NodeUnknown):
        find_asking("some-body", names("my-desktop"))
