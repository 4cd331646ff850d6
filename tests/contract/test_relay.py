"""One suite for our relay and for iroh's own program: clients cannot tell them apart.

The program is `$P2PRC_IROH_RELAY`, `.tools/bin/iroh-relay` or on the PATH (`docs/benchmarks.md`
says how to get it); without it, its half is skipped.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, asynccontextmanager

import pytest
from benchmarks.relay import Client, datagrams, masked
from benchmarks.relays import TOLD, RunningRelay, open_ours, open_rival, rival_program

from p2prc.authority import (
    Rights,
    admit,
    commitment_to,
    found_network,
    shown_half,
    verify_chain,
    write_ticket,
)
from p2prc.errors import PeerUnreachable
from p2prc.model.identity import NodeId
from p2prc.model.ticket import Ticket
from p2prc.relay.admission import Household, RelayAdmission, member_bearer
from p2prc.relay.server import WellKnown, open_relay
from p2prc.transport.iroh_endpoint import open_iroh_endpoint
from p2prc.transport.port import Channel, Connection, Endpoint, RelayAccess
from p2prc.wire.signed import public_key_of
from tests.contract.transport_harness import PATIENCE_S, read_all

Open = Callable[[int], AbstractContextManager[RunningRelay]]


@pytest.fixture(params=["ours", "iroh-relay"])
def open_one(request: pytest.FixtureRequest) -> Open:
    if request.param == "ours":
        return open_ours
    program = rival_program()
    if program is None:
        pytest.skip(TOLD)
    return lambda port: open_rival(program, port)


@pytest.fixture
def relay(open_one: Open) -> Iterator[RunningRelay]:
    with open_one(0) as running:
        yield running


# -- frame by frame --------------------------------------------------------------------------

Dial = Callable[..., Client]


@pytest.fixture
def dial(relay: RunningRelay) -> Iterator[Dial]:
    with ExitStack() as stack:

        def enter(secret: bytes | None = None, *, claimed: bytes | None = None) -> Client:
            client = Client(relay, secret, claimed=claimed)
            stack.callback(client.close)
            return client

        yield enter


def until_echoed(client: Client) -> list[bytes]:
    """Return what a client was told up to the answer to a ping of now."""
    ping = os.urandom(8)
    client.socket.sendall(masked(b"\x09" + ping))
    told = []
    while (message := client.message()) != b"\x0a" + ping:
        told.append(message)
    return told


def test_datagrams_and_batches_arrive_with_their_source(dial: Dial) -> None:
    anna, ben = dial(), dial()
    for count, kind in ((1, b"\x06"), (10, b"\x07")):
        sent = datagrams(ben.key, count)
        anna.socket.sendall(masked(sent))
        assert ben.message() == kind + anna.key + sent[33:]


def test_an_unknown_destination_harms_nobody(dial: Dial) -> None:
    anna = dial()
    anna.socket.sendall(masked(datagrams(public_key_of(os.urandom(32)), 1)))
    assert until_echoed(anna) == []


def test_who_was_written_to_hears_that_the_writer_is_gone(dial: Dial) -> None:
    anna, ben = dial(), dial()
    # iroh's relay confirms before it registers: what arrives says that this is done.
    ben.socket.sendall(masked(datagrams(anna.key, 1)))
    anna.message()
    anna.socket.sendall(masked(datagrams(ben.key, 1)))
    ben.message()
    anna.close()
    assert ben.message() == b"\x08" + anna.key


def test_the_newest_line_of_an_id_counts_until_it_ends(dial: Dial) -> None:
    secret = os.urandom(32)
    first, ben = dial(secret), dial()
    # It is registered when something arrives.
    ben.socket.sendall(masked(datagrams(first.key, 1)))
    assert first.message()[:33] == b"\x06" + ben.key
    second = dial(secret)
    assert first.message() == b"\x0d\x01"
    ben.socket.sendall(masked(datagrams(first.key, 1)))
    assert second.message()[:33] == b"\x06" + ben.key
    second.close()
    assert first.message() == b"\x0d\x00"


@pytest.mark.parametrize(
    "frame", [b"\x3f", b"\x04short", b"\x09" + bytes(7), b"\x04" + bytes(66000)]
)
def test_a_malformed_frame_ends_the_line(dial: Dial, frame: bytes) -> None:
    anna = dial()
    anna.socket.sendall(masked(frame))
    with pytest.raises(ConnectionError):
        while anna.message():
            pass


def test_a_wrong_signature_is_denied(dial: Dial) -> None:
    with pytest.raises(ConnectionError, match="does not admit"):
        dial(claimed=public_key_of(os.urandom(32)))


# -- with iroh's endpoints ---------------------------------------------------------------------


@asynccontextmanager
async def endpoint(url: str, *, token: str = "", secret: bytes = b"") -> AsyncIterator[Endpoint]:
    opened = await open_iroh_endpoint(secret or os.urandom(32), bind_addr="127.0.0.1:0")
    try:
        await opened.use_relays([RelayAccess(url, token)])
        yield opened
    finally:
        await opened.close()


async def at_home(*endpoints: Endpoint) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not all(each.home_relays() for each in endpoints):
            await asyncio.sleep(0.02)


async def through(
    relay_url: str, ours: Endpoint, theirs: Endpoint
) -> tuple[Connection, Connection]:
    """Dial by key and relay alone: no address is known."""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        accepting = group.create_task(theirs.accept())
        dialling = group.create_task(
            ours.connect(theirs.node, [], Channel.BULK, timeout_s=PATIENCE_S, relays=[relay_url])
        )
    accepted = accepting.result()
    assert accepted is not None
    return dialling.result(), accepted


async def carry(ours: Connection, theirs: Connection, content: bytes) -> bytes:
    async with asyncio.timeout(PATIENCE_S):
        stream = await ours.open_stream()

        async def write() -> None:
            await stream.write(content)
            await stream.finish()

        async with asyncio.TaskGroup() as group:
            group.create_task(write())
            return await read_all(await theirs.accept_stream())


async def test_endpoints_reach_each_other_by_key_and_relay(relay: RunningRelay) -> None:
    async with endpoint(relay.url) as anna, endpoint(relay.url, token="unused") as ben:
        await at_home(anna, ben)
        ours, theirs = await through(relay.url, anna, ben)
        content = os.urandom(4 << 20)
        assert await carry(ours, theirs, content) == content
        assert await carry(theirs, ours, content[:1000]) == content[:1000]


async def test_a_relay_that_comes_back_is_used_again(open_one: Open) -> None:
    async with AsyncExitStack() as stack:
        with open_one(0) as first:
            url, port = first.url, first.port
            anna = await stack.enter_async_context(endpoint(url))
            ben = await stack.enter_async_context(endpoint(url))
            await at_home(anna, ben)
        with open_one(port):
            ours, theirs = await through(url, anna, ben)
            assert await carry(ours, theirs, b"again") == b"again"
            await stack.aclose()


# -- what only ours does -----------------------------------------------------------------------

FOUNDER, MEMBER = b"\x01" * 32, b"\x02" * 32
OPENER = b"\x03" * 16
NETWORK = NodeId(public_key_of(FOUNDER).hex())


async def test_members_get_in_by_their_chain_and_a_newcomer_reaches_its_inviter_alone() -> None:
    founders = found_network(FOUNDER)
    ben_id = NodeId(public_key_of(MEMBER).hex())
    members = admit(founders, network=NETWORK, secret=FOUNDER, joiner=ben_id, rights=Rights())
    now = time.time()
    chain = {NETWORK: founders, ben_id: members}
    admission = RelayAdmission(
        Household(
            network=lambda: NETWORK,
            issuer=lambda node: verify_chain(chain[node], network=NETWORK),
            judge=lambda member: None,
            now=lambda: now,
        )
    )
    ticket = write_ticket(
        Ticket(
            network=NETWORK,
            issuer=NETWORK,
            expires_at=int(now) + 600,
            commitment=commitment_to(OPENER),
        ),
        secret=FOUNDER,
        opener=OPENER,
    )
    server = await open_relay("127.0.0.1", 0, identity=WellKnown(NETWORK, 1), admit=admission)
    url = f"http://127.0.0.1:{server.port}"
    try:
        async with (
            endpoint(url, secret=FOUNDER, token=member_bearer(founders)) as founder,
            endpoint(url, secret=MEMBER, token=member_bearer(members)) as ben,
            endpoint(url, token=shown_half(ticket)) as newcomer,
            endpoint(url, token=member_bearer(members)) as thief,
        ):
            await at_home(founder, ben, newcomer)
            assert await carry(*await through(url, ben, founder), b"member") == b"member"
            assert await carry(*await through(url, newcomer, founder), b"guest") == b"guest"
            with pytest.raises(PeerUnreachable):
                await newcomer.connect(ben.node, [], Channel.BULK, timeout_s=1.0, relays=[url])
            refusals = server.stats.refusals
            assert refusals["guest-elsewhere"] > 0
            assert refusals["not-member"] > 0
            assert server.stats.clients == 3
            # iroh picks a home by `/ping`, which anybody may ask; the line itself is refused.
            with pytest.raises(PeerUnreachable):
                await thief.connect(founder.node, [], Channel.BULK, timeout_s=1.0, relays=[url])
    finally:
        await server.close()
