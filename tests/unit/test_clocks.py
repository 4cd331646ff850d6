"""Other nodes' clocks: asked of those that know the question, for a bounded time."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from p2prc.errors import WireError
from p2prc.node import clocks
from p2prc.node.node import Node
from p2prc.protocol.messages import CLOCK_SINCE_VERSION, AskClock, Clock, Letter, letter_codec
from p2prc.wire.codec import encode
from tests.unit.test_node_in_memory import DAY_S, two_nodes


@pytest_asyncio.fixture
async def pair(tmp_path: Path) -> AsyncIterator[tuple[Node, Node]]:
    async with two_nodes(tmp_path) as nodes:
        yield nodes


async def test_the_same_clock_is_not_found_wrong(pair: tuple[Node, Node]) -> None:
    (skew_s,) = await pair[0].clock_skews_s()
    assert abs(skew_s) < 1


@pytest.mark.parametrize("wrong_s", [DAY_S, -DAY_S])
async def test_a_peer_whose_clock_is_wrong(
    pair: tuple[Node, Node], wrong_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Clock(round((time.time() + wrong_s) * 1000))
    monkeypatch.setattr("p2prc.node.node.tell_clock", lambda: shown)
    (skew_s,) = await pair[0].clock_skews_s()
    assert skew_s == pytest.approx(wrong_s, abs=5)


async def test_a_peer_of_an_older_version_is_not_asked(pair: tuple[Node, Node]) -> None:
    link = pair[0].links.get(pair[1].id)
    assert link is not None
    link.version = CLOCK_SINCE_VERSION - 1
    assert await pair[0].clock_skews_s() == ()


async def test_a_peer_that_does_not_answer_is_left_out(
    pair: tuple[Node, Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "PATIENCE_S", 0.05)
    monkeypatch.setattr(pair[1], "letter", lambda *_: None)
    assert await pair[0].clock_skews_s() == ()
    assert pair[0].links.get(pair[1].id) is not None, "it is a peer all the same"


@pytest.mark.parametrize("unix_ms", [-1, 1 << 53, 1.5, float("nan"), "now", None])
def test_a_clock_that_is_none_is_refused(unix_ms: object) -> None:
    said = [0, True, {"type": "clock", "unix_ms": unix_ms}]
    assert letter_codec.decode(encode(Letter(1, False, AskClock()))).body == AskClock()
    with pytest.raises(WireError):
        letter_codec.decode(encode(said))
