"""What a person types for a node: strangers choose their names, which must fool nobody."""

from __future__ import annotations

import pytest

from p2prc.daemon.names import find_asking, find_container, find_job, find_node
from p2prc.errors import JobUnknown, LeaseUnknown, NameAmbiguous, NodeUnknown
from p2prc.model.identity import JobId, LeaseId, NodeId, short
from p2prc.model.likeness import guess
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


def test_a_containers_name_is_free_again_once_the_container_is_gone() -> None:
    old, older, new = LeaseId("1a" * 10), LeaseId("2b" * 10), LeaseId("3c" * 10)
    names = {older: "box", old: "box", new: "box"}
    assert find_container("box", names, {older, old}) == new
    assert find_container("box", {older: "box", old: "box"}, {older, old}) == old
    assert find_container(older[:8], names, {older, old}) == older
    with pytest.raises(NameAmbiguous, match=f"{old}, {new}"):
        find_container("box", names, {older})


@pytest.mark.parametrize("typed", ["", "boxx", "aaaaaaaa"])
def test_who_means_no_container_is_sent_to_the_list_of_containers(typed: str) -> None:
    with pytest.raises(LeaseUnknown) as refusal:
        find_container(typed, {LeaseId("1a" * 10): ""}, ())
    assert refusal.value.hint == "see `p2prc ps`"


def test_who_mistypes_a_name_is_told_the_one_like_it() -> None:
    with pytest.raises(NodeUnknown) as refusal:
        find_node("Dekstop", names("desktop"))
    assert refusal.value.hint == "did you mean `desktop`? see `p2prc nodes`"
    with pytest.raises(NodeUnknown) as refusal:
        find_node("qqqqqq", names("desktop"))
    assert refusal.value.hint == "see `p2prc nodes`"
    there, gone = LeaseId("1a" * 10), LeaseId("2b" * 10)
    with pytest.raises(LeaseUnknown) as no_container:
        find_container("bx", {there: "box", gone: "bxx"}, {gone})
    assert no_container.value.hint == "did you mean `box`? see `p2prc ps`"
    with pytest.raises(JobUnknown) as no_job:
        find_job("flim", {JobId("3c" * 10): "film"})
    assert no_job.value.hint == "did you mean `film`? see `p2prc jobs`"


def test_names_that_peers_chose_cost_little_to_compare() -> None:
    assert guess("desktop", ["x" * 1_000_000, "", *map(str, range(100_000))], "see") == "see"
