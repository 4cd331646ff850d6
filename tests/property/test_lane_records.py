"""A lane gives back what its records hold, however TCP cuts them, and bears any other bytes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from random import Random
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from p2prc.errors import PeerError
from p2prc.transport.tls_lane import SERVED_BUFFER_BYTES, Lane


class Line:
    """As much of a transport as a lane needs where nothing is sent."""

    def __init__(self) -> None:
        self.is_paused = False
        self.is_aborted = False

    def pause_reading(self) -> None:
        self.is_paused = True

    def resume_reading(self) -> None:
        self.is_paused = False

    def abort(self) -> None:
        self.is_aborted = True


def lane_on(line: Line) -> tuple[Lane, int]:
    lane = Lane(is_served=True)
    lane.attach(cast("asyncio.Transport", line))
    lane.be_idle()
    return lane, lane.begin()


async def feed(lane: Lane, line: Line, content: bytes, sizes: Iterable[int]) -> None:
    """Hand over the bytes in pieces, as long as the lane takes them."""
    cuts = iter(sizes)
    left = memoryview(content)
    while left and not line.is_aborted:
        while line.is_paused:
            await asyncio.sleep(0)
        room = lane.get_buffer(-1)
        piece = left[: min(len(room), next(cuts, len(left)))]
        room[: len(piece)] = piece
        lane.buffer_updated(len(piece))
        left = left[len(piece) :]
        await asyncio.sleep(0)


SIZES = st.lists(st.one_of(st.integers(1, 50), st.integers(1, 200_000)), max_size=5)
CUTS = st.lists(st.integers(1, 70_000), max_size=40)


@settings(max_examples=50, deadline=None)
@given(SIZES, CUTS, st.integers(1, 300_000))
def test_what_the_records_hold_is_read_in_order(
    sizes: list[int], cuts: list[int], limit: int
) -> None:
    records = [Random(size).randbytes(size) for size in sizes]

    async def run() -> bytes:
        line = Line()
        lane, turn = lane_on(line)
        wire = b"".join(len(each).to_bytes(4, "big") + each for each in records) + bytes(4)
        found = bytearray()
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(feed(lane, line, wire, cuts))
            while piece := await lane.read(limit, turn):
                assert len(piece) <= limit
                found += piece
        assert len(lane.get_buffer(-1)) <= SERVED_BUFFER_BYTES
        return bytes(found)

    assert asyncio.run(run()) == b"".join(records)


@given(st.binary(max_size=400), CUTS)
def test_any_bytes_end_in_content_an_end_or_a_refusal(content: bytes, cuts: list[int]) -> None:
    async def run() -> None:
        line = Line()
        lane, turn = lane_on(line)
        await feed(lane, line, content, cuts)
        lane.connection_lost(None)
        found = 0
        try:
            while piece := await lane.read(1000, turn):
                found += len(piece)
        except PeerError:
            assert lane.is_lost
        assert found <= len(content)

    asyncio.run(run())
