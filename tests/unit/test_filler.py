"""Bandwidth: measured by bytes that mean nothing, bounded for whoever is measured."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import PeerBusy, PeerError, PeerLost, PeerMisbehaved, PeerTooOld
from p2prc.files.filler import FIRST_BYTES, bring_filler, filler, measured, send_filler
from p2prc.files.pace import Pace
from p2prc.files.serve import serve_bulk_stream
from p2prc.model.identity import NodeId
from p2prc.protocol.filler_budget import BUDGET_BYTES, FillerBudget
from p2prc.protocol.messages import Filler, Refused
from p2prc.storage.blobs import BlobStore
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame
from tests.unit.test_files_transfer import PipeConnection, PipeStream, answering

ADA, GRACE = NodeId("ab" * 32), NodeId("cd" * 32)
SIZE = 1_000_003


def test_filler_is_as_much_as_was_asked_for() -> None:
    for size in (1, FIRST_BYTES, SIZE):
        assert sum(map(len, filler(size))) == size


def test_a_peer_may_have_only_so_much_and_more_with_time() -> None:
    budget = FillerBudget()
    budget.take(ADA, BUDGET_BYTES, now=0)
    with pytest.raises(PeerBusy):
        budget.take(ADA, 1 << 20, now=0.1)
    budget.take(GRACE, BUDGET_BYTES, now=0.1)
    budget.take(ADA, BUDGET_BYTES // 2, now=301)
    with pytest.raises(PeerBusy):
        budget.take(ADA, BUDGET_BYTES // 2, now=302)


@given(st.lists(st.tuples(st.integers(1, BUDGET_BYTES), st.floats(0, 1000)), max_size=50))
def test_over_any_time_a_peer_has_no_more_than_the_rate(asked: list[tuple[int, float]]) -> None:
    budget, now, had = FillerBudget(), 0.0, 0
    for size_bytes, later_s in asked:
        now += later_s
        try:
            budget.take(ADA, size_bytes, now)
        except PeerBusy:
            continue
        had += size_bytes
    assert had <= BUDGET_BYTES * (1 + now / 600) + 1


async def test_a_measurement_grows_until_it_takes_long_enough() -> None:
    moved: list[int] = []

    async def move(size_bytes: int) -> None:
        moved.append(size_bytes)

    assert await measured(move, limit_bytes=FIRST_BYTES * 20) > 0
    assert moved == [FIRST_BYTES, FIRST_BYTES * 4, FIRST_BYTES * 16]


@asynccontextmanager
async def serving(
    store: BlobStore, allow_filler: Callable[[int], None] | None = None
) -> AsyncIterator[PipeConnection]:
    async def serve(stream: PipeStream) -> None:
        with suppress(PeerError):
            await serve_bulk_stream(
                stream,
                store=store,
                may_read=lambda _: False,
                silence_s=30,
                allow_filler=allow_filler,
            )

    async with asyncio.TaskGroup() as group:
        yield PipeConnection(lambda stream: group.create_task(serve(stream)))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path, quota_bytes=1 << 20)


async def test_bytes_go_both_ways_and_are_counted(store: BlobStore) -> None:
    asked: list[int] = []
    async with serving(store, asked.append) as connection:
        await bring_filler(connection, SIZE, Pace())
        await send_filler(connection, SIZE, Pace())
    assert asked == [SIZE, SIZE]
    assert connection.server_streams[0].written_bytes > SIZE
    assert connection.server_streams[1].written_bytes < 100


async def test_who_may_not_have_more_is_told_before_the_last_byte(store: BlobStore) -> None:
    budget = FillerBudget()
    budget.take(ADA, BUDGET_BYTES, now=0)
    # More than the pipe holds while nobody reads it.
    for move in (bring_filler, send_filler):
        async with serving(store, lambda size: budget.take(ADA, size, now=0)) as connection:
            with pytest.raises(PeerBusy):
                await move(connection, 20 * SIZE, Pace())


async def test_a_node_that_measures_nothing_says_so(store: BlobStore) -> None:
    async with serving(store) as connection:
        with pytest.raises(PeerTooOld):
            await bring_filler(connection, SIZE, Pace())


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        (frame(encode(Refused("wire-error", "not a request"))), PeerTooOld),
        (frame(encode(Filler(SIZE + 1))), PeerMisbehaved),
        (frame(b"\x93\x00"), PeerMisbehaved),
        (frame(encode(Filler(SIZE))) + b"too little", PeerLost),
    ],
    ids=["refused", "another size", "garbage", "too little"],
)
async def test_what_a_peer_says_instead_is_an_error(answer: bytes, error: type[Exception]) -> None:
    async with answering(answer) as connection:
        with pytest.raises(error):
            await bring_filler(connection, SIZE, Pace())
