"""Asking to be let in and being put out, with whole nodes in one process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from p2prc.authority import read_ticket, shown_half
from p2prc.errors import (
    AlreadyInNetwork,
    NoNodeMatches,
    NotMember,
    RequestDenied,
    Revoked,
    RightMissing,
    TicketInvalid,
)
from p2prc.model.identity import NodeId
from p2prc.model.ticket import Ticket
from p2prc.node.handshake import introduce
from p2prc.node.lookup import Doorplate
from p2prc.node.node import Node
from p2prc.node.tasks import Tasks, Work
from p2prc.plugins.hooks import Hooks, Joiner
from p2prc.protocol.messages import Join
from p2prc.protocol.placement import NodeOffer
from p2prc.relay.admission import member_bearer
from p2prc.transport.memory import MemoryConnection, MemoryNetwork
from p2prc.transport.port import Channel, Connection
from tests.unit.test_node_in_memory import DAY_S, node_of, run


async def until(is_so: Callable[[], bool], *, within_s: float = 10.0) -> None:
    async with asyncio.timeout(within_s):
        while not is_so():
            turn = asyncio.Event()
            asyncio.get_running_loop().call_later(0.01, turn.set)
            await turn.wait()


def asks(node: Node, member: Node, tasks: Tasks) -> Work[object]:
    """The node asks the member to be let in, in the background."""
    door = Doorplate(member.id, "memory", 1, member.network.told.description.addresses)
    return tasks.start(node.joining.ask(door, waiting=lambda: None), "ask")


@asynccontextmanager
async def three(
    folder: Path, *, is_open: bool = False
) -> AsyncIterator[tuple[Node, Node, Node, Tasks]]:
    """A founder, a member that may not invite, and a node that is alone."""
    network = MemoryNetwork()
    async with (
        asyncio.TaskGroup() as group,
        node_of(network, folder, "ada", founds_open=is_open) as ada,
        node_of(network, folder, "grace") as grace,
        node_of(network, folder, "linus") as linus,
    ):
        await grace.joining.join(ticket_of(ada))
        await until(lambda: len(ada.network.nodes()) == 2 == len(grace.network.nodes()))
        yield ada, grace, linus, Tasks(group)


def ticket_of(node: Node, *, may_invite: bool = False) -> str:
    return node.inviting.invite(expires_s=DAY_S, may_invite=may_invite, reach="lan")[0]


def waiting_at(node: Node) -> list[NodeId]:
    return [waiting.asked.joiner for waiting in node.door.requests()]


async def test_who_asks_waits_until_a_member_approves(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, _, linus, tasks):
        asking = asks(linus, ada, tasks)
        await until(lambda: waiting_at(ada) == [linus.id])
        assert linus.network.standing.network == linus.id
        ada.door.approve(linus.id, may_invite=False)
        await asking
        assert linus.network.standing.network == ada.id
        assert not linus.network.standing.member.rights.may_invite
        assert ada.door.requests() == []
        assert (await run(linus, ada.id, "echo", "in"))[0] == 0


class _Porter(Hooks):
    """Lets in one name, refuses another, and lends nothing of its own node's to anybody."""

    def admit(self, joiner: Joiner) -> bool | None:
        return {"linus": True, "grace": False}.get(joiner.name)

    def place(self, offers: Sequence[NodeOffer], job: str) -> Sequence[NodeOffer]:
        return [offer for offer in offers if offer.name != "ada"]


async def test_a_plugin_lets_in_refuses_and_places(tmp_path: Path) -> None:
    network = MemoryNetwork()
    async with (
        asyncio.TaskGroup() as group,
        node_of(network, tmp_path, "ada", plugins=[_Porter()]) as ada,
        node_of(network, tmp_path, "grace") as grace,
        node_of(network, tmp_path, "linus") as linus,
    ):
        tasks = Tasks(group)
        with pytest.raises(NoNodeMatches, match="plugin"):
            await run(ada, None, "echo", "here")
        await asks(linus, ada, tasks)
        assert linus.network.standing.network == ada.id
        with pytest.raises(RequestDenied, match="plugin"):
            await asks(grace, ada, tasks)
        asking = asks(grace, linus, tasks)
        await until(lambda: waiting_at(ada) == [grace.id])
        asking.stop()
        await until(lambda: len(ada.network.nodes()) == 2)
        assert (await run(ada, None, "echo", "there"))[0] == 0


async def test_a_request_is_decided_by_a_member_elsewhere_that_may(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        asking = asks(linus, grace, tasks)
        await until(lambda: waiting_at(ada) == [linus.id])
        with pytest.raises(RightMissing):
            grace.door.approve(linus.id, may_invite=False)
        ada.door.approve(linus.id, may_invite=False)
        await asking
        assert linus.network.standing.network == ada.id
        assert grace.door.requests() == []
        assert linus.network.standing.member.admitted_by == ada.id


async def test_who_is_denied_stays_where_it_was(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        for member in (ada, grace):
            asking = asks(linus, member, tasks)
            await until(lambda: waiting_at(ada) == [linus.id])
            ada.door.deny(linus.id)
            with pytest.raises(RequestDenied):
                await asking
            assert linus.network.standing.network == linus.id


async def test_who_hangs_up_waits_nowhere(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        asking = asks(linus, grace, tasks)
        await until(lambda: waiting_at(ada) == [linus.id] == waiting_at(grace))
        asking.stop()
        await until(lambda: waiting_at(ada) == [] == waiting_at(grace))


async def test_an_open_network_lets_in_whoever_asks_at_any_member(tmp_path: Path) -> None:
    async with three(tmp_path, is_open=True) as (ada, grace, linus, tasks):
        await asks(linus, grace, tasks)
        assert linus.network.standing.network == ada.id
        assert linus.network.standing.member.is_open
        assert not linus.network.standing.member.rights.may_invite
        assert ada.policy.trusted <= {ada.id}


async def test_on_the_way_in_relays_are_shown_half_the_ticket(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, _, linus, _):
        ticket, shown = ticket_of(ada), []

        async def borrow(_: Ticket, bearer: Callable[[], str]) -> tuple[str, ...]:
            shown.append(bearer())
            return ()

        linus.joining._borrow_relays = borrow
        await linus.joining.join(f" {ticket[:99]}\n{ticket[99:].upper()} ")
        assert shown == [shown_half(ticket), member_bearer(linus.network.standing.chain)]
        with pytest.raises(TicketInvalid):
            read_ticket(shown[0])


async def test_who_is_put_out_has_nothing_left_anywhere(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        old_ticket = ticket_of(ada)
        await linus.joining.join(ticket_of(ada))
        await until(lambda: all(len(node.network.nodes()) == 3 for node in (ada, grace, linus)))
        assert (await run(linus, grace.id, "echo", "in"))[0] == 0
        with pytest.raises(RightMissing, match="did not let"):
            grace.network.revoke(linus.id, reason="")
        ada.network.revoke(linus.id, reason="")
        for node in (ada, grace):
            await until(lambda node=node: linus.id not in node.links.peers())  # type: ignore[misc]
            assert linus.id not in [view.record.node for view in node.network.nodes()]
        await until(lambda: linus.network.is_put_out(linus.id))
        with pytest.raises(Revoked):
            await linus.links.reach_at(grace.id, grace.network.told.description.addresses)
        await linus.network.leave()
        with pytest.raises(Revoked):
            await linus.joining.join(old_ticket)
        asking = asks(linus, ada, tasks)
        await until(lambda: waiting_at(ada) == [linus.id])
        with pytest.raises(Revoked, match="for good"):
            ada.door.approve(linus.id, may_invite=False)
        asking.stop()


async def test_who_an_admin_put_out_comes_back_by_the_founders_word(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        await grace.network.leave()
        await grace.joining.join(ticket_of(ada, may_invite=True))
        await linus.joining.join(ticket_of(grace))
        await until(lambda: len(ada.network.nodes()) == 3 == len(grace.network.nodes()))
        grace.network.revoke(linus.id, reason="")
        await until(lambda: len(ada.network.nodes()) == 2)
        # Put out: there is nothing that it would have to leave first.
        await until(lambda: linus.network.is_put_out(linus.id))
        asking = asks(linus, ada, tasks)
        await until(lambda: waiting_at(ada) == [linus.id])
        ada.door.approve(linus.id, may_invite=False)
        await asking
        await until(lambda: len(grace.network.nodes()) == 3)
        assert (await run(linus, grace.id, "echo", "back"))[0] == 0
        with pytest.raises(AlreadyInNetwork):
            await linus.joining.join(ticket_of(await _own(grace)))


async def dial(node: Node, peer: Node, channel: Channel) -> Connection:
    """Introduce a member on a connection of its own, beside its links."""
    connection = await node._adapters.endpoint.connect(
        peer.id, peer.network.told.description.addresses, channel, timeout_s=5
    )
    await introduce(connection, node.network.standing)
    return connection


async def test_who_is_put_out_while_it_introduces_itself_stays_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with three(tmp_path) as (ada, grace, linus, tasks):
        await linus.joining.join(ticket_of(ada))
        await until(lambda: all(len(node.network.nodes()) == 3 for node in (ada, grace, linus)))
        is_half_way, goes_on = asyncio.Event(), asyncio.Event()

        async def slow(_: object) -> str:
            is_half_way.set()
            await goes_on.wait()
            return ""

        monkeypatch.setattr(MemoryConnection, "remote_address", slow)
        dialling = tasks.start(dial(linus, grace, Channel.CONTROL), "dial")
        await is_half_way.wait()
        ada.network.revoke(linus.id, reason="")
        await until(lambda: grace.network.is_put_out(linus.id))
        await until(lambda: linus.id not in grace.links.peers())
        goes_on.set()
        connection = await dialling
        # Sooner than a link that says nothing is given up.
        await until(lambda: connection.is_closed, within_s=2)
        assert linus.id not in grace.links.peers()


async def test_who_is_put_out_is_served_no_bulk_either(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, _):
        await linus.joining.join(ticket_of(ada))
        await until(lambda: all(len(node.network.nodes()) == 3 for node in (ada, grace, linus)))
        await grace.links.drop(linus.id, "test")
        await until(lambda: linus.id not in grace.links.peers())
        connection = await dial(linus, grace, Channel.BULK)
        await until(lambda: linus.id in grace.links._served)
        ada.network.revoke(linus.id, reason="")
        await until(lambda: grace.network.is_put_out(linus.id))
        await until(lambda: connection.is_closed)


async def test_a_founder_that_begins_anew_knows_whom_it_put_out(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, _):
        former = grace.network.standing
        ada.network.revoke(grace.id, reason="")
        await until(lambda: grace.network.is_put_out(grace.id))
        for away in (False, True):
            if away:
                # Into another network in between.
                await ada.joining.join(ticket_of(linus))
                assert not ada.network.was_put_out(grace.id)
            await ada.network.leave()
            # Its key names the same network as before: the old chain is as good as ever.
            assert former.network == ada.network.standing.network
            assert ada.network.was_put_out(grace.id)
            with pytest.raises(Revoked):
                await grace.links.reach_at(ada.id, ada.network.told.description.addresses)


async def test_who_came_by_the_open_door_is_outside_when_the_founder_closes_it(
    tmp_path: Path,
) -> None:
    async with three(tmp_path, is_open=True) as (ada, grace, linus, _):
        former = grace.network.standing
        await ada.network.leave()
        assert former.network == ada.network.standing.network
        assert not ada.network.standing.member.is_open
        with pytest.raises(NotMember, match="begin anew"):
            await dial(grace, ada, Channel.CONTROL)
        with pytest.raises(NotMember, match="begin anew"):
            ada.network.judge(former.member)
        await linus.joining.join(ticket_of(ada))
        await until(lambda: len(ada.network.nodes()) == 2)
        assert grace.id not in [view.record.node for view in ada.network.nodes()]


async def test_a_ticket_of_who_was_put_out_opens_no_door(tmp_path: Path) -> None:
    async with three(tmp_path) as (ada, grace, linus, _):
        await grace.network.leave()
        await grace.joining.join(ticket_of(ada, may_invite=True))
        await until(lambda: len(ada.network.nodes()) == 2 == len(grace.network.nodes()))
        # It names the founder as another door, and its issuer can write more of them any time.
        ticket = ticket_of(grace, may_invite=True)
        ada.network.revoke(grace.id, reason="")
        await until(lambda: grace.id not in ada.links.peers())
        with pytest.raises(Revoked):
            ada.inviting.admit(linus.id, Join(ada.id, ticket))
        with pytest.raises(Revoked):
            await linus.joining.join(ticket)
        assert linus.network.standing.network == linus.id


async def _own(node: Node) -> Node:
    await node.network.leave()
    return node
