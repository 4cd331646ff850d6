"""The spare file of the membership: what is kept in it, and what a damaged one does."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2prc.node.spare_network import FILE, RECORDS_LIMIT, SpareNetwork
from tests.unit.membership_room import ANNA, BERT, CARL, MANY, record


def kept(folder: Path) -> SpareNetwork:
    spare = SpareNetwork(folder)
    spare.keep_place(b"network", b"chain")
    spare.keep_records([record(ANNA), record(BERT)])
    spare.write()
    return spare


def test_what_is_kept_is_found_again_by_its_owner_alone(tmp_path: Path) -> None:
    kept(tmp_path)
    found = SpareNetwork(tmp_path)
    assert (found.network, found.chain) == (b"network", b"chain")
    assert found.records == [record(ANNA).envelope, record(BERT).envelope]
    assert (tmp_path / FILE).stat().st_mode & 0o777 == 0o600


def test_only_another_way_to_a_node_is_worth_writing(tmp_path: Path) -> None:
    spare = kept(tmp_path)
    (tmp_path / FILE).unlink()
    spare.keep_records([record(ANNA, 2, name="renamed")], gone=[CARL])
    spare.write()
    assert not (tmp_path / FILE).exists()
    spare.keep_records([record(ANNA, 3, addresses=("192.0.2.9:8088",))])
    spare.write()
    assert len(SpareNetwork(tmp_path).records) == 2


def test_there_is_an_end_to_it_and_who_is_gone_makes_room(tmp_path: Path) -> None:
    spare = kept(tmp_path)
    spare.keep_records(record(node) for node in MANY[2 : RECORDS_LIMIT + 9])
    assert len(spare.records) == RECORDS_LIMIT
    spare.keep_records([], gone=[ANNA, BERT])
    spare.write()
    assert len(SpareNetwork(tmp_path).records) == RECORDS_LIMIT - 2
    spare.forget_records()
    spare.write()
    assert SpareNetwork(tmp_path).records == []


@pytest.mark.parametrize("share", [0.0, 0.5, 0.9])
def test_a_damaged_one_is_none(tmp_path: Path, share: float) -> None:
    kept(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content[: int(len(content) * share)])
    assert SpareNetwork(tmp_path).chain == b""


def test_a_forged_record_is_left_out(tmp_path: Path) -> None:
    spare = kept(tmp_path)
    content = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(content.replace(b"192.0.2.1:8088", b"192.0.2.2:8088", 1))
    assert len(SpareNetwork(tmp_path).records) == len(spare.records) - 1
