"""When a main process begins again, and how much of what it prints is kept."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from p2prc.node.kept_log import KeptLog
from p2prc.protocol.restarts import FIRST_PAUSE_S, PAUSE_LIMIT_S, STEADY_S, Restarts
from p2prc.runtime.port import OutputChunk


def test_only_a_failure_begins_again_on_failure() -> None:
    assert Restarts("no").ended(1, ran_s=0)[1] is None
    assert Restarts("on-failure").ended(0, ran_s=0)[1] is None
    assert Restarts("on-failure").ended(None, ran_s=0)[1] == FIRST_PAUSE_S
    assert Restarts("always").ended(0, ran_s=0)[1] == FIRST_PAUSE_S


def test_pauses_double_up_to_a_limit_and_a_steady_run_is_forgiven() -> None:
    restarts, pauses = Restarts("always"), list[float | None]()
    for _ in range(40):
        restarts, pause_s = restarts.ended(1, ran_s=0)
        pauses.append(pause_s)
    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[-1] == PAUSE_LIMIT_S
    assert restarts.ended(1, ran_s=STEADY_S)[1] == FIRST_PAUSE_S


@given(st.lists(st.binary(max_size=40), max_size=50))
async def test_the_end_of_what_was_printed_is_kept(printed: list[bytes]) -> None:
    log = KeptLog(limit_bytes=100, limit_chunks=10)
    for content in printed:
        log.add(OutputChunk(1, content))
    log.close()
    kept = b"".join([chunk.content async for chunk in log.read(follows=True)])
    assert len(kept) <= 100
    assert b"".join(printed).endswith(kept)
