"""A gateway's public ports on real sockets; what it hands over goes to a service of the test."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import pytest

from p2prc.model.identity import NodeId
from p2prc.node.gateway import Gateway
from p2prc.node.inside import Inside
from p2prc.protocol.gateways import GatewayRules
from p2prc.protocol.messages import Control, EndMapping, MappingOpened, OpenMapping, Refused
from p2prc.storage.state import State, open_state

OWN, ADA, GRACE = NodeId("0" * 64), NodeId("a" * 64), NodeId("b" * 64)
NAME = "ab" * 5
LARGE_BYTES = 64 << 20


class _Far:
    """The owner's end of a connection: says back what it gets, or takes nothing."""

    def __init__(self, *, is_stuck: bool) -> None:
        self._is_stuck = is_stuck
        self._pieces: asyncio.Queue[bytes] = asyncio.Queue()
        self.taken_bytes = 0

    async def read(self) -> bytes:
        return await self._pieces.get()

    async def write(self, content: bytes) -> None:
        self.taken_bytes += len(content)
        if self._is_stuck:
            await asyncio.Event().wait()
        self._pieces.put_nowait(content)

    async def end_writing(self) -> None:
        self._pieces.put_nowait(b"")

    async def close(self) -> None:
        """Nothing is held."""


class _Owners:
    """Stands for the streams to other nodes."""

    def __init__(self) -> None:
        self.is_stuck = False
        self.handed: list[tuple[NodeId, str]] = []
        self.fars: list[_Far] = []

    async def hand_over(self, owner: NodeId, mapping: str, client: str) -> Any:
        assert client.startswith("127.0.0.1:")
        self.handed.append((owner, mapping))
        self.fars.append(_Far(is_stuck=self.is_stuck))
        return self.fars[-1]


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state.db") as opened:
        yield opened


def _gateway(owners: _Owners, state: State, **rules: Any) -> Gateway:
    gateway = Gateway(
        OWN,
        cast(Inside, owners),
        state,
        hosts=lambda: ("gate.example.org",),
        is_put_out=lambda _: False,
    )
    gateway.listen = "127.0.0.1"
    gateway.change_rules(GatewayRules(to=frozenset({ADA, GRACE}), **rules))
    return gateway


async def _ask(gateway: Gateway, peer: NodeId, body: OpenMapping | EndMapping) -> Control:
    said: list[Control] = []
    await gateway.answer(peer, body, said.append)
    assert len(said) == 1
    return said[0]


async def _opened(gateway: Gateway, peer: NodeId, port: int = 0) -> int:
    answer = await _ask(gateway, peer, OpenMapping(NAME, port=port))
    assert isinstance(answer, MappingOpened), answer
    assert answer.hosts == ("gate.example.org",)
    return answer.port


async def _said(port: int, content: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(content)
        writer.write_eof()
        return await reader.read()
    finally:
        writer.close()


async def test_asked_again_it_is_the_same_port_and_after_a_restart_too(state: State) -> None:
    owners = _Owners()
    first = _gateway(owners, state)
    port = await _opened(first, ADA)
    assert await _opened(first, ADA) == port
    assert await _opened(first, GRACE) != port
    assert await _said(port, b"hello") == b"hello"
    assert owners.handed == [(ADA, NAME)]
    await first.stop()

    second = _gateway(owners, state)
    running = asyncio.create_task(second.run())
    try:
        while len(second.all()) < 2 or any(lent.close is None for lent in second.all()):
            await asyncio.sleep(0.01)
        assert await _said(port, b"again") == b"again"
        assert await _opened(second, ADA, port) == port
        await _ask(second, ADA, EndMapping(NAME))
        with pytest.raises(ConnectionRefusedError):
            await _said(port, b"")
        assert [lent.granted.owner for lent in second.all()] == [GRACE]
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        await second.stop()


async def test_a_taken_port_is_told_or_another_one_chosen(state: State) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = int(taken.getsockname()[1])
        gateway = _gateway(_Owners(), state, ports=((port, port),))
        for wanted in (0, port):
            answer = await _ask(gateway, ADA, OpenMapping(NAME, port=wanted))
            assert isinstance(answer, Refused)
            assert answer.code == "port-taken"
    assert gateway.all() == []
    assert await _opened(gateway, ADA, port) == port
    await gateway.stop()


async def test_what_the_gateways_owner_ended_is_not_had_again(state: State) -> None:
    gateway = _gateway(_Owners(), state)
    await _opened(gateway, ADA)
    await gateway.end(ADA, NAME)
    # Nor in its next life.
    for each in (gateway, _gateway(_Owners(), state)):
        answer = await _ask(each, ADA, OpenMapping(NAME))
        assert isinstance(answer, Refused)
        assert answer.code == "policy-refuses"
    await _opened(gateway, GRACE)
    await gateway.stop()


async def test_no_more_of_what_was_ended_is_remembered_than_there_is_room_for(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2prc.node.gateway._ENDED_LIMIT", 1)
    gateway = _gateway(_Owners(), state)
    for owner in (ADA, GRACE):
        await _opened(gateway, owner)
        await gateway.end(owner, NAME)
    again = _gateway(_Owners(), state)
    assert isinstance(await _ask(again, GRACE, OpenMapping(NAME)), Refused)
    await _opened(again, ADA)
    await again.stop()


async def test_who_takes_nothing_makes_the_client_wait(state: State) -> None:
    owners = _Owners()
    owners.is_stuck = True
    gateway = _gateway(owners, state)
    port = await _opened(gateway, ADA)
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(bytes(LARGE_BYTES))
    with suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await writer.drain()
    # Nothing beyond the first piece was read from the client: the rest waits with it.
    assert owners.fars[0].taken_bytes <= 1 << 20
    assert writer.transport.get_write_buffer_size() > LARGE_BYTES // 2
    writer.transport.abort()
    await gateway.stop()


async def test_a_connection_lasts_no_longer_than_is_allowed(state: State) -> None:
    gateway = _gateway(_Owners(), state, total_s=0.05)
    port = await _opened(gateway, ADA)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    assert "longer than this node allows" in gateway.all()[0].trouble
    await gateway.stop()


async def test_a_connection_on_which_nothing_moves_is_ended(state: State) -> None:
    gateway = _gateway(_Owners(), state, idle_s=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", await _opened(gateway, ADA))
    with pytest.raises(ConnectionResetError):
        await reader.read()
    writer.close()
    await gateway.stop()


@pytest.mark.parametrize("bound", ["per_peer_connections", "per_mapping_connections"])
async def test_one_connection_too_many_is_refused_and_said(state: State, bound: str) -> None:
    gateway = _gateway(_Owners(), state, **{bound: 1})
    port = await _opened(gateway, ADA)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"
    more, more_writer = await asyncio.open_connection("127.0.0.1", port)
    with pytest.raises(ConnectionResetError):
        await more.read()
    more_writer.close()
    assert "connections" in gateway.all()[0].trouble
    writer.write(b"again")
    assert await reader.readexactly(5) == b"again"
    writer.close()
    await gateway.stop()
