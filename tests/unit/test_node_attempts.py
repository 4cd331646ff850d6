"""What a provider keeps of attempts, and what it lets go."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from p2prc.errors import DiskFull, WireError
from p2prc.model.identity import AttemptId, LeaseId
from p2prc.model.workload import Command, Workload
from p2prc.node.node import Node
from p2prc.protocol.messages import (
    AcknowledgeAttempt,
    AttemptEnded,
    CancelAttempt,
    Control,
    Done,
    EndLease,
    LeaseGranted,
    RequestLease,
    StartAttempt,
)
from tests.unit.test_node_in_memory import two_nodes

LEASE = LeaseId("1" * 20)
ATTEMPT = AttemptId("2" * 20 + "-0-0-1")


class Ears:
    """Hears what a provider tells a node about its attempts."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.heard: asyncio.Queue[AttemptEnded] = asyncio.Queue()
        original = node.jobs.letter

        def letter(peer: object, body: Control) -> bool:
            if isinstance(body, AttemptEnded):
                self.heard.put_nowait(body)
                return True
            return original(peer, body)  # type: ignore[arg-type]

        monkeypatch.setattr(node.jobs, "letter", letter)

    async def next(self) -> AttemptEnded:
        async with asyncio.timeout(5):
            return await self.heard.get()


async def _start(ada: Node, grace: Node, *argv: str) -> None:
    await ada.post.ask(grace.id, RequestLease(LEASE, Workload()), LeaseGranted)
    command = Command(argv, outputs=("out",) if argv[0] == "touch" else ())
    await ada.post.ask(grace.id, StartAttempt(LEASE, ATTEMPT, command), Done)


async def test_an_outcome_that_cannot_be_read_again_is_told_as_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        ears = Ears(ada, monkeypatch)

        def tree(_: object) -> None:
            raise WireError("too large")

        monkeypatch.setattr(grace.blobs, "tree", tree)
        await _start(ada, grace, "touch", "out")
        assert (await ears.next()).outcome.code == "wire-error"
        assert grace.blobs.keepers() == []


async def test_what_a_cancelled_attempt_made_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        await _start(ada, grace, "touch", "out")
        await ada.post.ask(grace.id, CancelAttempt(ATTEMPT), Done)
        await ada.post.ask(grace.id, EndLease(LEASE), Done)
        await grace.provider.kill([LEASE])
        grace.blobs.make_room(grace.blobs.quota_bytes)
        assert grace.blobs.used_bytes == 0


async def test_a_full_disk_does_not_cost_the_link_on_which_an_outcome_is_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        ears = Ears(ada, monkeypatch)
        await _start(ada, grace, "true")
        await ears.next()

        def full(*_: object) -> None:
            raise DiskFull

        monkeypatch.setattr(grace._adapters.state, "drop_attempts", full)
        link = ada.links.get(grace.id)
        await ada.post.ask(grace.id, AcknowledgeAttempt(ATTEMPT), Done)
        assert ada.links.get(grace.id) is link


async def test_pins_that_no_outcome_stands_for_are_let_go_at_the_start(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        tree = ada.blobs.put_bytes(b"x")
        grace.blobs._pins.keep("attempt-of-nobody", tree)
        grace.blobs._pins.keep("job-of-somebody", tree)
        grace.provider.start()
        assert grace.blobs.keepers() == ["job-of-somebody"]


async def test_who_asks_for_one_lease_without_end_is_not_remembered_without_end(
    tmp_path: Path,
) -> None:
    async with two_nodes(tmp_path) as (ada, grace):
        request, said = RequestLease(LEASE, Workload()), list[Control]()
        for _ in range(1000):
            grace.provider.letter(ada.id, request, said.append)
        assert sum(map(len, grace.provider._asked.values())) <= 8


async def test_nothing_is_lent_while_the_node_stops(tmp_path: Path) -> None:
    async with two_nodes(tmp_path) as (_, grace):
        await grace.provider.close()
        assert not grace.provider.is_lending
