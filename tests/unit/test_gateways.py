"""Public ports that are lent: who gets which, when they end, what forged sources are answered."""

from __future__ import annotations

import asyncio
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import PeerBusy, PolicyRefuses, PortTaken, SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.node.public_datagrams import FLOWS_LIMIT, Address, Flow, PublicDatagrams
from p2prc.protocol.forwarding import Protocol, parse_port_ranges
from p2prc.protocol.gateways import (
    ABSENCE_S,
    DAY_S,
    FlowBudget,
    GatewayBook,
    GatewayRules,
    Granted,
)
from p2prc.runtime.port import Link

OWN, ADA, GRACE = NodeId("0" * 64), NodeId("a" * 64), NodeId("b" * 64)
NAME = "ab" * 5
TCP: Protocol = "tcp"


def _book(**changes: object) -> GatewayBook:
    values: dict[str, object] = {"to": None, "ports": ((2000, 2003), (90, 90))} | changes
    return GatewayBook(OWN, GatewayRules(**values))  # type: ignore[arg-type]


def _granted(book: GatewayBook, owner: NodeId, identity: str, *, wanted: int = 0) -> Granted:
    port = next(book.candidates(owner, identity, TCP, wanted))
    granted = Granted(identity, owner, TCP, port, 0.0, 0.0)
    book.take_up(granted)
    return granted


def test_by_default_nobody_gets_a_port_but_the_owner() -> None:
    book = GatewayBook(OWN)
    with pytest.raises(PolicyRefuses, match="lends you no public ports"):
        book.candidates(ADA, NAME, TCP, 0)
    assert 20000 <= next(book.candidates(OWN, NAME, TCP, 0)) <= 29999


def test_ports_are_of_the_ranges_and_each_is_lent_once() -> None:
    book = _book()
    ports = {_granted(book, ADA, f"{number:010x}").port for number in range(5)}
    assert ports == {90, 2000, 2001, 2002, 2003}
    assert list(book.candidates(ADA, NAME, TCP, 0)) == []
    assert list(book.candidates(ADA, NAME, "udp", 2000)) == [2000]
    with pytest.raises(PortTaken):
        book.candidates(GRACE, NAME, TCP, 2000)
    for wanted in (91, 1999, 2004, 65535):
        with pytest.raises(PolicyRefuses, match=f"does not lend port {wanted}"):
            book.candidates(GRACE, NAME, TCP, wanted)


def test_a_name_tries_the_same_ports_again() -> None:
    first = list(_book().candidates(ADA, NAME, TCP, 0))
    assert sorted(first) == [90, 2000, 2001, 2002, 2003]
    assert list(_book().candidates(ADA, NAME, TCP, 0)) == first


def test_one_peer_has_so_many_and_cannot_name_anothers() -> None:
    book = _book(per_peer_mappings=1)
    _granted(book, ADA, NAME)
    with pytest.raises(PeerBusy):
        book.candidates(ADA, "cd" * 5, TCP, 0)
    assert book.get(GRACE, NAME) is None
    assert book.renew(GRACE, NAME, TCP, None, 1.0) is None
    assert _granted(book, GRACE, NAME).owner == GRACE


def test_it_ends_with_its_time_its_owners_absence_or_other_rules() -> None:
    book = _book(denied=frozenset({GRACE}))
    granted = _granted(book, ADA, NAME)
    assert book.overdue(ABSENCE_S - 1) == []
    assert book.overdue(ABSENCE_S) == [granted]
    renewed = book.renew(ADA, NAME, TCP, 5000.0, 4000.0)
    assert book.overdue(4999.0) == []
    assert book.overdue(5000.0) == [renewed]
    book.rules = GatewayRules(to=None, ports=((1, 1),))
    assert book.overdue(4000.0) == [renewed]
    book.rules = GatewayRules(to=frozenset({GRACE}), ports=((1, 65535),))
    assert book.overdue(4000.0) == [renewed]


def test_traffic_is_counted_for_a_peer_and_a_day() -> None:
    book = _book(traffic_bytes=100)
    now = 10.5 * DAY_S
    book.count(ADA, 99, now)
    assert book.has_traffic_left(ADA, now)
    book.count(ADA, 1, now)
    assert not book.has_traffic_left(ADA, now)
    assert book.has_traffic_left(GRACE, now)
    after = _book(traffic_bytes=100)
    after.take_up_day(*book.day())
    assert not after.has_traffic_left(ADA, now)
    assert after.has_traffic_left(ADA, now + DAY_S)


def test_ranges_have_no_names() -> None:
    assert parse_port_ranges("20-30, 443") == ((20, 30), (443, 443))
    assert parse_port_ranges("none") == ()
    with pytest.raises(SettingInvalid):
        parse_port_ranges("web=127.0.0.1:80")


# -- datagrams

Step = tuple[bool, int, float]
STEPS = st.lists(st.tuples(st.booleans(), st.integers(0, 1500), st.floats(0, 2)), max_size=60)


@given(STEPS)
def test_no_source_is_answered_beyond_its_factor(steps: list[Step]) -> None:
    budget, now, came, went = FlowBudget(0.0), 0.0, 0, 0
    for is_answer, size, wait_s in steps:
        now += wait_s
        cost = size + FlowBudget.OVERHEAD_BYTES
        if not is_answer:
            budget.came(size, now)
            came += cost
        elif budget.may_answer(size):
            went += cost
        factor = budget.PROVEN_FACTOR if budget.is_proven else budget.UNPROVEN_FACTOR
        assert went <= factor * came


def test_who_only_sends_is_never_proven_and_who_talks_is() -> None:
    flood = FlowBudget(0.0)
    for number in range(1000):
        flood.came(100, number / 10)
    assert not flood.is_proven
    talk = FlowBudget(0.0)
    for number in range(5):
        talk.came(100, number / 2)
        assert talk.may_answer(200)
    assert talk.is_proven
    talk.came(100, 3.0)
    assert talk.may_answer(60 * 100)


class _Sent(asyncio.DatagramTransport):
    def __init__(self) -> None:
        super().__init__()
        self.sent: list[tuple[bytes, object]] = []

    def sendto(self, data: object, addr: object = None) -> None:
        self.sent.append((cast(bytes, data), addr))


async def test_flows_are_bounded_in_number_and_memory() -> None:
    flows: list[Flow] = []

    def carry(link: Link, name: str) -> asyncio.Task[None]:
        flows.append(cast(Flow, link))
        return asyncio.create_task(asyncio.Event().wait(), name=name)  # type: ignore[arg-type]

    port, transport = PublicDatagrams(carry), _Sent()
    port.connection_made(transport)
    sources: list[Address] = [("192.0.2.1", number) for number in range(FLOWS_LIMIT + 50)]
    for source in sources:
        for _ in range(10):
            port.datagram_received(b"x" * 60_000, source)
    assert len(flows) == FLOWS_LIMIT + 50
    await asyncio.sleep(0)
    alive = [flow for flow in flows if flow.task is not None and not flow.task.cancelling()]
    # The newest make the oldest unproven ones go.
    assert alive == flows[50:]
    assert port.queued_bytes <= 4 << 20
    last = alive[-1]
    await last.write(len(b"answer").to_bytes(2, "big") + b"answer")
    assert transport.sent == [(b"answer", sources[-1])]
    port.pause_writing()
    await last.write(len(b"answer").to_bytes(2, "big") + b"answer")
    assert len(transport.sent) == 1
    for flow in flows:
        if flow.task is not None:
            flow.task.cancel()
    await asyncio.gather(*(flow.task for flow in flows if flow.task), return_exceptions=True)
    assert port.queued_bytes == 0
