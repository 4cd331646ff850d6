"""What transfers say of the paths to peers."""

from __future__ import annotations

from p2prc.model.identity import NodeId
from p2prc.protocol.path_speeds import PEERS_LIMIT, PathSpeeds

PEER = NodeId("a" * 64)
MEBIBYTE = 1 << 20


def test_the_speed_is_a_mean_that_forgets() -> None:
    speeds = PathSpeeds()
    assert speeds.bytes_per_s(PEER) is None
    speeds.took(PEER, 10 * MEBIBYTE, 1.0)
    assert speeds.bytes_per_s(PEER) == 10 * MEBIBYTE
    for _ in range(30):
        speeds.took(PEER, MEBIBYTE, 1.0)
    speed = speeds.bytes_per_s(PEER)
    assert speed is not None
    assert MEBIBYTE <= speed < 1.1 * MEBIBYTE


def test_small_transfers_say_nothing() -> None:
    speeds = PathSpeeds()
    speeds.took(PEER, 1000, 1.0)
    assert speeds.bytes_per_s(PEER) is None
    assert speeds.brings_s(PEER, 1 << 40) == 0


def test_how_long_bytes_take_is_told_roughly() -> None:
    speeds = PathSpeeds()
    speeds.took(PEER, MEBIBYTE, 1.0)
    assert speeds.brings_s(PEER, 100 * MEBIBYTE) == speeds.brings_s(PEER, 110 * MEBIBYTE) == 128
    assert speeds.brings_s(PEER, MEBIBYTE // 2) == 0


def test_very_many_peers_are_not_all_remembered() -> None:
    speeds = PathSpeeds()
    for number in range(PEERS_LIMIT + 1):
        speeds.took(NodeId(f"{number:064x}"), MEBIBYTE, 1.0)
    assert speeds.bytes_per_s(NodeId("0" * 64)) is None
    assert speeds.bytes_per_s(NodeId(f"{PEERS_LIMIT:064x}")) is not None
