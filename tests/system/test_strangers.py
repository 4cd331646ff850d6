"""Whoever is not a member learns a refusal and nothing else; members cannot break a node either.

After each attack the node answers its owner and runs a command, and has not grown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from random import Random

import msgspec
import psutil
import pytest

from p2prc.authority import shown_half
from p2prc.errors import LeaseUnknown, P2prcError, PeerBusy, PeerError, PolicyRefuses
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId, random_id
from p2prc.model.record import open_record
from p2prc.model.resources import Limits
from p2prc.model.testimony import Life
from p2prc.model.workload import Command, Workload
from p2prc.node.framed import FramedStream
from p2prc.node.session import run_remotely
from p2prc.node.standing import Standing
from p2prc.protocol.messages import (
    AskAttempts,
    AskSpecs,
    Attempts,
    Delta,
    Done,
    EndLease,
    FetchTree,
    LeaseGranted,
    Refused,
    RequestLease,
    Specs,
    StartAttempt,
    Want,
    bulk_codec,
)
from p2prc.runtime.port import OutputChunk
from p2prc.transport.port import Channel
from p2prc.wire.codec import encode
from p2prc.wire.framing import frame
from p2prc.wire.signed import Envelope, sign
from tests.system.nodes import NodeUnderTest, stop_all, up_all, wait_until
from tests.system.raw_peer import RawPeer, raw_peer, seconds_until_closed

HANDSHAKE_LIMIT_S = 14.0
"""Ten seconds that a handshake may take, and a slow machine."""
GROWTH_LIMIT_BYTES = 48 << 20
RNG = Random(20)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[NodeUnderTest]]:
    """The node that is attacked, and a member whose things are not the attacker's."""
    folder = tmp_path_factory.mktemp("strangers")
    nodes = [NodeUnderTest(folder / name, name) for name in ("target", "victim")]
    try:
        up_all(nodes, "--cpus", "2")
        nodes[1].p2prc("join", nodes[0].p2prc("invite", "--lan").out.strip())
        wait_until(lambda: nodes[0].states().get("victim") == "alive", "they see each other")
        yield nodes
    finally:
        stop_all(nodes)


@pytest.fixture
async def target(pair: list[NodeUnderTest]) -> AsyncIterator[NodeUnderTest]:
    """The attacked node; it must be as well after the test as before."""
    node, victim = pair
    process = psutil.Process(node.pid)
    before = process.memory_info().rss
    yield node
    assert process.is_running()
    assert node.p2prc("run", "target", "--", "echo", "well").out == "well\n"
    assert victim.p2prc("run", "target", "--", "echo", "well").out == "well\n"
    wait_until(lambda: node.json("leases") == [], "nothing of it is left", timeout_s=20)
    wait_until(
        lambda: process.memory_info().rss - before < GROWTH_LIMIT_BYTES,
        "what the attack took is given back",
    )


@pytest.fixture
async def stranger(target: NodeUnderTest) -> AsyncIterator[RawPeer]:
    async with raw_peer(target) as peer:
        yield peer


@pytest.fixture
async def standing(target: NodeUnderTest, stranger: RawPeer) -> Standing:
    """The stranger's place after it joined by a ticket."""
    return await stranger.join(target.p2prc("invite", "--lan").out.strip())


def refusals(node: NodeUnderTest) -> dict[str, int]:
    found: dict[str, int] = node.json("status")["refusals"]
    return found


async def expect_counted(node: NodeUnderTest, code: str, before: dict[str, int]) -> None:
    more = await asyncio.to_thread(refusals, node)
    assert more.get(code, 0) > before.get(code, 0), (code, before, more)


# -- strangers --------------------------------------------------------------------------------


async def test_whoever_shows_no_good_chain_is_refused_with_a_reason_and_nothing_else(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer
) -> None:
    before = refusals(target)
    stolen = open_record(await _record_of(pair[1], target)).record.membership
    for channel in (Channel.CONTROL, Channel.BULK):
        for chain in (b"", b"\0" * 100, stranger.own_network_chain(), stolen):
            answer = await stranger.show(chain, channel)
            assert isinstance(answer, Refused), answer
            assert answer.code == "not-member"
            assert stranger.target not in answer.message
    await expect_counted(target, "not-member", before)


async def test_garbage_is_refused_at_once(target: NodeUnderTest, stranger: RawPeer) -> None:
    before = refusals(target)
    nested = b"\x91" * 10_000 + b"\xc0"
    attacks = {
        "garbage": RNG.randbytes(5000),
        "a letter of text": frame(b"GET / HTTP/1.1\r\n\r\n"),
        "deep nesting": frame(nested),
        "deep nesting of maps": frame(b"\x81\xa1a" * 5000 + b"\xc0"),
        "a frame of 4 GiB": (0xFFFFFFFF).to_bytes(4, "big") + b"x" * 1000,
        "a frame just too large": (16 * 1024 + 1).to_bytes(4, "big"),
        "an unknown message": frame(encode({"type": "open-sesame"})),
        "a field too many": frame(
            encode({"type": "hello", "network": "a" * 64, "membership": b"", "sesame": 1})
        ),
        "a message of another conversation": frame(encode(AskAttempts(JobId("a" * 20)))),
        "an end before a word": b"",
    }
    for name, payload in attacks.items():
        stream = await stranger.say(payload or b"\0")
        await stream.finish()
        took_s = await seconds_until_closed(stream, within_s=HANDSHAKE_LIMIT_S)
        assert took_s < 5.0, name
    await expect_counted(target, "wire-error", before)


async def test_silence_costs_a_stranger_its_connection_and_members_nothing(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer
) -> None:
    """Two hundred say nothing, some half a word; meanwhile members come and go."""
    before = refusals(target)
    half = frame(encode({"type": "hello"}) + b" " * 100)[:50]
    halves = [await stranger.say(half) for _ in range(3)]
    waiting = [asyncio.create_task(seconds_until_closed(s, within_s=60)) for s in halves]
    crowd = await asyncio.gather(*(stranger.dial() for _ in range(200)), return_exceptions=True)
    quiet = [found for found in crowd if not isinstance(found, BaseException)]
    assert len(quiet) > 100
    said = await asyncio.to_thread(pair[1].p2prc, "run", "target", "--", "echo", "through")
    assert said.out == "through\n"
    async with raw_peer(target) as newcomer:
        ticket = (await asyncio.to_thread(target.p2prc, "invite", "--lan")).out.strip()
        async with asyncio.timeout(5):
            await newcomer.join(ticket)
    assert max(await asyncio.gather(*waiting)) < HANDSHAKE_LIMIT_S
    async with asyncio.timeout(HANDSHAKE_LIMIT_S):
        while not all(connection.is_closed for connection in quiet):
            await asyncio.sleep(0.05)
    after = await asyncio.to_thread(refusals, target)
    assert after.get("too-many-handshakes", 0) > before.get("too-many-handshakes", 0)


async def test_a_stranger_gets_no_bytes(target: NodeUnderTest, stranger: RawPeer) -> None:
    stream = await stranger.say(frame(encode(FetchTree(BlobId("a" * 64)))), Channel.BULK)
    framed = FramedStream(stream, bulk_codec, limit_bytes=1 << 20)
    answer = await framed.receive(timeout_s=5)
    assert isinstance(answer, Refused)
    assert answer.code in ("wire-error", "peer-misbehaved")


async def test_an_expired_or_made_up_ticket_is_no_way_in(
    target: NodeUnderTest, stranger: RawPeer
) -> None:
    ticket = target.p2prc("invite", "--lan", "--expires", "1s").out.strip()
    wait_until(
        lambda: target.json("invite", "--lan", "--expires", "1s")["ticket"] != ticket, "time passes"
    )
    with pytest.raises(P2prcError) as refused:
        await stranger.join(ticket[:-8] + "aaaaaaaa")
    assert refused.value.code == "ticket-invalid"
    # What relays are shown, and whoever listens on the way to them hears.
    shown = shown_half(ticket)
    for heard in (shown, "p2prc2" + shown.removeprefix("shown2")):
        with pytest.raises(P2prcError) as refused:
            await stranger.join(heard)
        assert refused.value.code == "ticket-invalid"
    async with asyncio.timeout(10):
        while True:
            try:
                await stranger.join(ticket)
            except P2prcError as error:
                assert error.code == "ticket-expired"
                break
            await asyncio.sleep(0.2)


# -- members that misbehave -------------------------------------------------------------------


async def test_a_member_that_sends_garbage_loses_its_link_and_is_counted(
    target: NodeUnderTest, stranger: RawPeer, standing: Standing
) -> None:
    letters = {
        "an unknown message": encode([0, False, {"type": "open-sesame"}]),
        "deep nesting": b"\x91" * 10_000 + b"\xc0",
        "garbage": RNG.randbytes(1000),
        "a name that is none": encode([1, False, {"type": "end-lease", "lease": "../../etc"}]),
    }
    for name, letter in letters.items():
        before = await asyncio.to_thread(refusals, target)
        connection = await stranger.dial()
        stream = await connection.open_stream()
        framed = FramedStream(stream, bulk_codec, limit_bytes=1 << 20)
        await stream.write(frame(encode({"type": "hello", **_hello(standing)})))
        assert await framed._next_payload(), name
        await stream.write(frame(letter))
        assert await seconds_until_closed(stream, within_s=10) < 3, name
        await expect_counted(target, "wire-error", before)


async def test_a_letter_that_a_node_does_not_serve_is_answered_unsupported(
    stranger: RawPeer, standing: Standing
) -> None:
    async with stranger.link(standing) as link:
        with pytest.raises(P2prcError) as refused:
            await link.ask(LeaseGranted(LeaseId("a" * 20), 1.0, "userns"), Done, timeout_s=20)
        assert refused.value.code == "unsupported"


async def test_a_record_signed_by_another_key_changes_nothing(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer, standing: Standing
) -> None:
    before = refusals(target)
    true = open_record(await _record_of(pair[1], target)).record
    lie = msgspec.structs.replace(true, version=true.version + 10**9, name="evil", has_left=True)
    forged = sign(stranger.secret, "p2prc record 1", encode(lie))
    claimed = msgspec.structs.replace(forged, author=bytes.fromhex(true.node))
    async with stranger.link(standing) as link:
        link.tell(Delta((forged, claimed)))
        await link.measure_s(timeout_s=5)
    rows = await asyncio.to_thread(target.json, "nodes")
    assert {row["name"] for row in rows} >= {"target", "victim"}
    assert "evil" not in {row["name"] for row in rows}
    await expect_counted(target, "forged", before)


async def test_an_old_record_replayed_changes_nothing(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer, standing: Standing
) -> None:
    victim = pair[1]
    old = await _record_of(victim, target)
    async with stranger.link(standing) as link:
        await asyncio.to_thread(victim.p2prc, "pause")
        try:
            await asyncio.to_thread(
                wait_until, lambda: not _is_lending(target, "victim"), "the pause is known"
            )
            before = await asyncio.to_thread(refusals, target)
            link.tell(Delta((old,)))
            await link.measure_s(timeout_s=5)
            assert not await asyncio.to_thread(_is_lending, target, "victim")
            await expect_counted(target, "old", before)
        finally:
            await asyncio.to_thread(victim.p2prc, "resume")


async def test_a_tree_that_was_not_granted_looks_like_one_that_does_not_exist(
    target: NodeUnderTest, stranger: RawPeer, standing: Standing, tmp_path: object
) -> None:
    secret = target.home.parent / "secret.txt"
    secret.write_text("for the victim only")
    target.p2prc("run", "victim", "--in", str(secret), "--", "cat", "secret.txt")
    stored = [
        BlobId(shelf.name + file.name)
        for shelf in (target.home / "blobs").iterdir()
        if len(shelf.name) == 2
        for file in shelf.iterdir()
        if len(file.name) == 62
    ]
    assert len(stored) >= 2
    connection = await stranger.enter(standing, Channel.BULK)
    answers = []
    for tree in (*stored, BlobId("ab" * 32)):
        framed = FramedStream(await connection.open_stream(), bulk_codec, limit_bytes=1 << 20)
        await framed.send(FetchTree(tree))
        answer = await framed.receive(timeout_s=5)
        assert isinstance(answer, Refused)
        answers.append((answer.code, answer.message.replace(tree[:10], "TREE"), answer.hint))
    assert len(set(answers)) == 1, answers
    assert answers[0][0] == "file-unknown"


async def test_somebody_elses_lease_looks_like_none(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer, standing: Standing
) -> None:
    running = pair[1].start("run", "target", "--", "sh", "-c", "echo started; sleep 60")
    assert running.stdout is not None
    await asyncio.to_thread(running.stdout.readline)
    lease = LeaseId((await asyncio.to_thread(target.json, "leases"))[0]["id"])
    command = Command(("true",))
    try:
        async with stranger.link(standing) as link:
            for named in (lease, LeaseId("ab" * 10)):
                with pytest.raises(LeaseUnknown):
                    attempt = AttemptId(f"{'c' * 20}-0-0-1")
                    await link.ask(StartAttempt(named, attempt, command), Done, timeout_s=20)
                with pytest.raises(LeaseUnknown):
                    await _run(link.connection, named, command)
                # Ending twice is ending once, so an unknown lease is "ended" as well.
                await link.ask(EndLease(named), Done, timeout_s=20)
            with pytest.raises(PeerBusy):
                await link.ask(RequestLease(lease, Workload()), LeaseGranted, timeout_s=20)
            asked = await link.ask(AskAttempts(JobId("a" * 20)), Attempts, timeout_s=20)
            assert asked == Attempts()
        assert [row["id"] for row in await asyncio.to_thread(target.json, "leases")] == [lease]
        assert running.poll() is None
    finally:
        await asyncio.to_thread(target.p2prc, "kill", "--all")
        running.communicate(timeout=10)


async def test_ten_thousand_lease_requests_are_bounded(
    target: NodeUnderTest, stranger: RawPeer, standing: Standing
) -> None:
    modest = Workload(Limits(cpu_millis=1000, memory_bytes=64 << 20, disk_bytes=1 << 20))
    tiny = Workload(Limits(cpu_millis=0, memory_bytes=0, disk_bytes=0))
    async with stranger.link(standing) as link:

        async def ask(workload: Workload) -> str:
            request = RequestLease(LeaseId(random_id(RNG)), workload)
            try:
                await link.ask(request, LeaseGranted, timeout_s=60)
            except (PeerBusy, PolicyRefuses) as error:
                return error.code
            return "granted"

        answers = await asyncio.gather(*(ask(modest if n % 2 else tiny) for n in range(10_000)))
        held = await asyncio.to_thread(target.json, "leases")
        assert len(held) <= 2
        assert answers.count("granted") <= 2
        # Whoever asks too often is told so before anything else is looked at.
        assert 0 < answers.count("policy-refuses") <= 5000
        assert answers.count("peer-busy") >= 4998
    await asyncio.to_thread(target.p2prc, "kill", "--peer", standing.member.node)


async def test_a_member_that_never_stops_talking_does_not_have_the_node_for_itself(
    target: NodeUnderTest, pair: list[NodeUnderTest], stranger: RawPeer, standing: Standing
) -> None:
    async with stranger.link(standing) as link:

        async def flood() -> None:
            while not link.is_lost:
                await asyncio.gather(*(link.ask(AskSpecs(), Specs) for _ in range(2000)))

        flooding = asyncio.create_task(flood())
        try:
            async with asyncio.timeout(20):
                for _ in range(3):
                    await asyncio.to_thread(target.p2prc, "status")
                    said = await asyncio.to_thread(pair[1].p2prc, "run", "target", "--", "pwd")
                    assert said.status == 0
            assert not link.is_lost
        finally:
            flooding.cancel()
            await asyncio.gather(flooding, return_exceptions=True)


async def test_a_member_that_talks_and_never_listens_is_dropped(
    target: NodeUnderTest, stranger: RawPeer, standing: Standing
) -> None:
    """It asks for a large answer again and again, and reads none of them."""
    connection = await stranger.dial()
    stream = await connection.open_stream()
    await stream.write(frame(encode({"type": "hello", **_hello(standing)})))
    asking = frame(encode([7, False, {"type": "ask-specs"}])) * 2000

    async def flood() -> None:
        while True:
            await stream.write(asking)

    with pytest.raises(PeerError):
        async with asyncio.timeout(60):
            await flood()


# -- small things -----------------------------------------------------------------------------


async def _run(connection: object, lease: LeaseId, command: Command) -> None:
    from p2prc.protocol.messages import RunCommand  # noqa: PLC0415

    async def ignore(_: OutputChunk) -> None:
        return

    async with asyncio.timeout(5):
        await run_remotely(connection, RunCommand(lease, command), ignore)  # type: ignore[arg-type]


def _hello(standing: Standing) -> dict[str, object]:
    return {"network": standing.network, "membership": standing.chain, "version": 1}


def _is_lending(node: NodeUnderTest, name: str) -> bool:
    return any(row["name"] == name and row["lending"] for row in node.json("nodes"))


async def _record_of(node: NodeUnderTest, seen_from: NodeUnderTest) -> Envelope:
    """Ask for a node's record as a member would, and return it as it was signed."""
    async with raw_peer(seen_from) as peer:
        ticket = (await asyncio.to_thread(seen_from.p2prc, "invite", "--lan")).out.strip()
        standing = await peer.join(ticket)
        wanted = NodeId(await asyncio.to_thread(lambda: node.id))
        async with peer.link(standing) as link:
            link.tell(Want((Life(bytes.fromhex(wanted), -1),)))
            async with asyncio.timeout(10):
                while True:
                    for body in peer.heard:
                        for envelope in body.records if isinstance(body, Delta) else ():
                            if envelope.author.hex() == wanted:
                                return envelope
                    await asyncio.sleep(0.02)
