"""Conversations that change their carrier lose and repeat nothing."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import PeerLost, PeerMisbehaved
from p2prc.model.identity import NodeId
from p2prc.node import carriage
from p2prc.node.carriage import Carriage
from p2prc.protocol.carriage import (
    WINDOW_BYTES,
    Ack,
    Ask,
    Data,
    End,
    Frames,
    Receiving,
    Sending,
    ack_frame,
    ask_frame,
    data_head,
    end_frame,
)
from p2prc.transport.memory_pipe import MemoryStream, Pipe
from p2prc.transport.port import Stream

ADA, GRACE = NodeId("aa" * 32), NodeId("bb" * 32)
MEBIBYTE = 1 << 20


# -- the books


@given(st.lists(st.binary(min_size=1, max_size=40), max_size=12), st.data())
def test_what_is_given_arrives_whatever_breaks(pieces: list[bytes], data: st.DataObject) -> None:
    sending, receiving = Sending(window_bytes=64), Receiving(window_bytes=64)
    came, waiting = b"", list(pieces)
    while waiting or sending.received < sending.given:
        if waiting and sending.room_bytes >= len(waiting[0]):
            sending.give(waiting.pop(0))
        elif (piece := sending.next_piece()) is not None:
            offset, content = piece
            sending.sent(offset + len(content))
            # Lost on the way, with what follows, or it comes in two parts.
            if data.draw(st.booleans()):
                receiving.arrived(Data(offset, content[:1]))
                receiving.arrived(Data(offset + 1, content[1:]))
            else:
                sending.rewind()
        if receiving.has_some and data.draw(st.booleans()):
            came += receiving.take()
        if data.draw(st.booleans()):
            sending.acknowledged(receiving.ack())
        elif not receiving.has_some and sending.next_piece() is None:
            sending.rewind()
    while receiving.has_some:
        came += receiving.take()
    assert came == b"".join(pieces)
    receiving.ended(len(came))
    assert receiving.is_over
    sending.acknowledged(receiving.ack())
    assert sending.has_end


@given(st.lists(st.integers(1, 9), min_size=1), st.binary(min_size=1, max_size=200))
def test_frames_come_however_they_are_cut(cuts: list[int], content: bytes) -> None:
    said = data_head(7, len(content)) + content
    said += ack_frame(Ack(3, 5, has_end=True)) + ask_frame() + end_frame(9)
    frames, found, position, turn = Frames(), [], 0, 0
    while position < len(said):
        size = cuts[turn % len(cuts)]
        found += list(frames.feed(said[position : position + size]))
        position, turn = position + size, turn + 1
    parts = [frame for frame in found if isinstance(frame, Data)]
    assert b"".join(part.content for part in parts) == content
    assert parts[0].offset == 7
    assert found[len(parts) :] == [Ack(3, 5, has_end=True), Ask(), End(9)]
    assert frames.is_between


def test_a_peer_that_lies_is_refused() -> None:
    with pytest.raises(PeerMisbehaved):
        list(Frames().feed(b"\x09"))
    with pytest.raises(PeerMisbehaved):
        list(Frames().feed(data_head(0, WINDOW_BYTES + 1)))
    with pytest.raises(PeerMisbehaved):
        Sending().acknowledged(Ack(0, 1))
    sending = Sending()
    sending.give(b"ab")
    with pytest.raises(PeerMisbehaved):
        sending.acknowledged(Ack(2, 1))
    receiving = Receiving(window_bytes=4)
    with pytest.raises(PeerMisbehaved):
        receiving.arrived(Data(0, b"12345"))
    with pytest.raises(PeerMisbehaved):
        receiving.arrived(Data(1, b"1"))
    receiving.arrived(Data(0, b"12"))
    with pytest.raises(PeerMisbehaved):
        receiving.ended(1)
    receiving.ended(2)
    with pytest.raises(PeerMisbehaved):
        receiving.ended(3)
    with pytest.raises(PeerMisbehaved):
        receiving.arrived(Data(2, b"3"))


# -- over streams


def _streams() -> tuple[MemoryStream, MemoryStream]:
    there, here = Pipe(), Pipe()
    return (
        MemoryStream(here, there, GRACE, announce=None),
        MemoryStream(there, here, ADA, announce=None),
    )


class Lanes:
    """Faster streams that can be counted, broken and silenced."""

    def __init__(self) -> None:
        self.opened: list[tuple[Stream, Stream]] = []
        self.other: Carriage | None = None
        self.are_there = True
        self._serving: set[asyncio.Task[None]] = set()

    async def open(self) -> Stream | None:
        if not self.are_there or self.other is None:
            return None
        ours, theirs = _streams()
        self.opened.append((ours, theirs))
        self._serving.add(asyncio.create_task(self.other.carry_on(theirs)))
        return ours

    async def served(self) -> None:
        await asyncio.gather(*self._serving)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Carriage, Carriage, Lanes]]:
    lanes = Lanes()
    base, other_base = _streams()
    one = Carriage(base, b"", open_fast=lanes.open)
    other = lanes.other = Carriage(other_base, b"")
    async with asyncio.timeout(30):
        try:
            yield one, other, lanes
        finally:
            await asyncio.gather(one.close(), other.close())


async def _send(link: Carriage, content: bytes) -> None:
    for begin in range(0, len(content), 100_000):
        await link.write(content[begin : begin + 100_000])
    await link.end_writing()


async def _all_of(link: Carriage) -> str:
    found = hashlib.sha256()
    while content := await link.read():
        found.update(content)
    return found.hexdigest()


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


async def test_much_moves_to_a_faster_stream() -> None:
    async with pair() as (one, other, lanes):
        there, back = random.randbytes(12 * MEBIBYTE), random.randbytes(9 * MEBIBYTE)
        *_, came, came_back = await asyncio.gather(
            _send(one, there), _send(other, back), _all_of(other), _all_of(one)
        )
        assert (came, came_back) == (_digest(there), _digest(back))
        assert len(lanes.opened) == 1
    await lanes.served()


async def test_little_stays_where_it_is() -> None:
    async with pair() as (one, other, lanes):
        await one.write(b"hello")
        assert await other.read() == b"hello"
        await other.write(b"and back")
        await other.end_writing()
        assert await one.read() == b"and back"
        assert await one.read() == b""
        await one.end_writing()
        assert await other.read() == b""
        assert not lanes.opened


async def test_a_faster_stream_may_break_at_any_time() -> None:
    for seed in range(12):
        chance = random.Random(seed)
        async with pair() as (one, other, lanes):
            content = chance.randbytes(8 * MEBIBYTE)

            async def break_it(lanes: Lanes = lanes, chance: random.Random = chance) -> None:
                while not lanes.opened:
                    await asyncio.sleep(0)
                for _ in range(chance.randrange(400)):
                    await asyncio.sleep(0)
                await chance.choice(lanes.opened[0]).abort()

            *_, came, came_back = await asyncio.gather(
                _send(one, content),
                _send(other, content),
                break_it(),
                _all_of(other),
                _all_of(one),
            )
            assert came == came_back == _digest(content)


async def test_a_stream_that_brings_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(carriage, "LOOK_S", 0.02)
    async with pair() as (one, other, lanes):
        sending = asyncio.create_task(_send(one, content := random.randbytes(8 * MEBIBYTE)))
        receiving = asyncio.create_task(_all_of(other))
        while not lanes.opened:
            await asyncio.sleep(0)
        # What is on its way there, and all that follows, goes nowhere.
        swallowed = lanes.opened[0][1]
        monkeypatch.setattr(swallowed, "read", asyncio.Event().wait)
        await sending
        assert await receiving == _digest(content)


async def test_a_slow_reader_holds_its_sender_and_keeps_its_stream(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(carriage, "LOOK_S", 0.01)
    async with pair() as (one, other, lanes):
        content = random.randbytes(12 * MEBIBYTE)
        sending = asyncio.create_task(_send(one, content))
        taken = await other.read()
        while one._sending.room_bytes > 0 or one._sending.received < one._sending.given:
            await asyncio.sleep(0)
        given = one._sending.given
        assert given <= len(taken) + WINDOW_BYTES + MEBIBYTE
        await asyncio.sleep(20 * carriage.LOOK_S)
        assert one._sending.given == given
        found = hashlib.sha256(taken)
        while piece := await other.read():
            found.update(piece)
        await sending
        assert found.hexdigest() == _digest(content)
        assert len(lanes.opened) == 1


async def test_a_lost_conversation_is_told_to_both() -> None:
    async with pair() as (one, other, _):
        await one.write(b"x")
        assert await other.read() == b"x"
        await one.close()
        with pytest.raises(ConnectionResetError):
            await other.read()
        with pytest.raises(ConnectionResetError):
            while True:
                await other.write(b"y")


async def test_what_was_said_last_arrives_though_its_sender_leaves() -> None:
    async with pair() as (one, other, _):
        await one.write(content := random.randbytes(3 * MEBIBYTE))
        await one.end_writing()
        leaving = asyncio.create_task(one.close())
        assert await _all_of(other) == _digest(content)
        await leaving


async def test_a_conversation_has_one_faster_stream() -> None:
    async with pair() as (one, other, lanes):
        ours, theirs = _streams()
        carrying = asyncio.create_task(other.carry_on(theirs))
        await asyncio.sleep(0)
        with pytest.raises(PeerMisbehaved):
            await other.carry_on(_streams()[1])
        await ours.abort()
        await carrying
        await one.write(b"still there")
        assert await other.read() == b"still there"
        assert not lanes.opened


@pytest.mark.parametrize("refusal", [None, PeerLost("not here")])
async def test_what_is_written_goes_before_the_peers_word_and_a_refusal_breaks_the_link(
    refusal: PeerLost | None,
) -> None:
    word = asyncio.Event()

    async def opening() -> bytes:
        await word.wait()
        if refusal is not None:
            raise refusal
        return data_head(0, 3) + b"abc"

    base, other_base = _streams()
    one = Carriage(base, b"", opening=opening)
    other = Carriage(other_base, b"")
    async with asyncio.timeout(30):
        await one.write(b"early")
        assert await other.read() == b"early"
        word.set()
        if refusal is None:
            assert await one.read() == b"abc"
        else:
            with pytest.raises(ConnectionResetError, match="not here"):
                await one.read()
        await asyncio.gather(one.close(), other.close())
