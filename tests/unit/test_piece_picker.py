"""The picker of pieces: everything comes, once, and the origin sends little more than one copy."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from p2prc.protocol.piece_picker import BATCH_BYTES, SLOW_S, PiecePicker

Picker = PiecePicker[str, str]


def _pieces(count: int, size: int = BATCH_BYTES // 2) -> dict[str, int]:
    return {f"piece{number}": size for number in range(count)}


def _picker(count: int) -> Picker:
    return PiecePicker(_pieces(count), origin="origin")


def test_the_origin_is_asked_for_what_nobody_else_has() -> None:
    picker = _picker(4)
    picker.told("peer", ["piece0", "piece1", "piece2", "unknown"])
    assert picker.next_for("origin", 0.0) == ["piece3"]
    assert picker.next_for("origin", 0.0) == []
    assert len(picker.next_for("peer", 0.0)) == 2
    assert len(picker.next_for("peer", 0.0)) == 1
    assert picker.next_for("stranger", 0.0) == []


def test_a_peer_that_is_gone_leaves_its_pieces_to_the_origin() -> None:
    picker = _picker(1)
    picker.told("peer", ["piece0"])
    batch = picker.next_for("peer", 0.0)
    picker.gone("peer")
    assert picker.next_for("origin", 0.0) == []
    picker.failed(batch)
    assert picker.next_for("origin", 0.0) == ["piece0"]


def test_what_a_peer_is_slow_with_is_asked_elsewhere_too() -> None:
    picker = _picker(1)
    picker.told("peer", ["piece0"])
    assert picker.next_for("peer", 0.0) == ["piece0"]
    assert picker.next_for("origin", SLOW_S) == []
    assert picker.next_for("origin", SLOW_S + 0.1) == ["piece0"]
    picker.arrived("piece0")
    assert picker.is_done


def test_what_others_are_fetching_is_not_fetched_twice() -> None:
    picker = _picker(3)
    picker.told("peer", [], ["piece1"], now=0.0)
    assert picker.next_for("origin", 0.0) == ["piece0", "piece2"]
    picker.told("peer", [], ["piece1"], now=SLOW_S - 0.1)
    assert picker.next_for("origin", SLOW_S - 0.1) == []
    # It has not brought it in all that time.
    picker.told("peer", [], ["piece1"], now=SLOW_S)
    assert picker.next_for("origin", SLOW_S) == ["piece1"]


def test_the_rarest_come_first() -> None:
    picker = _picker(2)
    picker.told("one", ["piece0", "piece1"])
    picker.told("two", ["piece0"])
    assert picker.next_for("one", 0.0)[0] == "piece1"
    # It has evicted what it had: the count follows.
    picker.told("two", [])
    picker.told("one", [])
    picker.failed(["piece0", "piece1"])
    assert sorted(picker.next_for("origin", 0.0)) == ["piece0", "piece1"]


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 1000))
def test_readers_that_begin_together_take_about_one_copy(
    pieces: int, readers: int, seed: int
) -> None:
    """In turns of equal speed: each reader takes one batch of each source a turn."""
    names = [f"reader{number}" for number in range(readers)]
    pickers = {
        name: PiecePicker[str, str](_pieces(pieces), origin="origin", begin=number / readers)
        for number, name in enumerate(names)
    }
    held: dict[str, set[str]] = {name: set() for name in names}
    sent_by_origin = 0
    draw = random.Random(seed)
    for turn in range(10 * pieces + 10):
        now = float(turn)
        for name in draw.sample(names, len(names)):
            picker = pickers[name]
            for other in names:
                if other != name:
                    picker.told(other, held[other])
            for source in ["origin", *names]:
                batch = picker.next_for(source, now)
                if source == "origin":
                    sent_by_origin += len(batch)
                else:
                    assert set(batch) <= held[source]
                for piece in batch:
                    picker.arrived(piece)
                    held[name].add(piece)
        if all(picker.is_done for picker in pickers.values()):
            break
    assert all(len(found) == pieces for found in held.values())
    assert sent_by_origin <= pieces
