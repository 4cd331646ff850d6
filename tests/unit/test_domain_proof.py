"""Whose a domain is, asked of a server of names that the test runs."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import cast

import dns.message
import dns.rcode
import dns.rrset
import pytest

from p2prc.model.identity import NodeId
from p2prc.node.domain_proof import KEPT_S, DomainProofs
from p2prc.web import names
from p2prc.web.names import NamesSilent, texts_of

ADA, GRACE = NodeId("a" * 64), NodeId("b" * 64)
APP = "app.example.org"


class _Names(asyncio.DatagramProtocol):
    """Answers with TXT records by name; `is_broken` says that it cannot."""

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.is_broken = False
        self.transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # Not every loop's transports are of asyncio's class.
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        question = dns.message.from_wire(data)
        answer = dns.message.make_response(question)
        name = question.question[0].name.to_text()
        self.asked.append(name)
        if self.is_broken:
            answer.set_rcode(dns.rcode.SERVFAIL)
        elif texts := self.texts.get(name):
            quoted = [f'"{text}"' for text in texts]
            answer.answer.append(dns.rrset.from_text(name, 60, "IN", "TXT", *quoted))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        assert self.transport is not None
        self.transport.sendto(answer.to_wire(), addr)


@pytest.fixture
async def served() -> AsyncIterator[tuple[_Names, tuple[str, int]]]:
    transport, protocol = await asyncio.get_running_loop().create_datagram_endpoint(
        _Names, local_addr=("127.0.0.1", 0)
    )
    yield protocol, transport.get_extra_info("sockname")
    transport.close()


async def test_the_record_of_a_domain_names_its_node(
    served: tuple[_Names, tuple[str, int]],
) -> None:
    server, address = served
    now = 0.0
    proofs = DomainProofs(partial(texts_of, server=address), clock=lambda: now)
    assert await proofs.has_proved(APP, ADA) is False
    server.texts[f"_p2prc.{APP}."] = ["v=something else", ADA]
    assert await proofs.has_proved(APP, ADA) is True
    assert await proofs.has_proved(APP, GRACE) is False
    # A wildcard is proved by the name below which it is.
    server.texts["_p2prc.example.org."] = [GRACE]
    assert await proofs.has_proved("*.example.org", GRACE) is True

    # What was found is not asked for again at once; later its end is seen.
    server.asked.clear()
    del server.texts[f"_p2prc.{APP}."]
    assert await proofs.has_proved(APP, ADA) is True
    assert server.asked == []
    now = KEPT_S
    assert await proofs.has_proved(APP, ADA) is False


async def test_names_that_cannot_be_asked_say_neither(
    served: tuple[_Names, tuple[str, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "ASKED_S", 0.2)
    server, address = served
    server.is_broken = True
    with pytest.raises(NamesSilent):
        await texts_of(f"_p2prc.{APP}", server=address)
    assert await DomainProofs(partial(texts_of, server=address)).has_proved(APP, ADA) is None
