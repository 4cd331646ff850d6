"""Joining with good and bad tickets: a clear refusal for each, and a network that survives."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from p2prc.authority import commitment_to, read_ticket, write_ticket
from p2prc.model.identity import NodeId
from p2prc.model.ticket import OPENER_BYTES, Ticket
from p2prc.wire.signed import public_key_of
from tests.system.nodes import NodeUnderTest, at_once, stop_all, up_all, wait_until

MakeNodes = Callable[..., list[NodeUnderTest]]
OPENER = secrets.token_bytes(OPENER_BYTES)


class World:
    """A network of two, and a node that is alone in its own."""

    def __init__(self, founder: NodeUnderTest, member: NodeUnderTest, alone: NodeUnderTest) -> None:
        self.founder = founder
        self.member = member
        self.alone = alone
        # Dialling nobody takes long: the other tests pass meanwhile.
        nobody = secrets.token_bytes(32)
        node = NodeId(public_key_of(nobody).hex())
        deaf = changed(self.ticket(), network=node, issuer=node, addresses=("127.0.0.1:9",))
        self.knocking = alone.start(
            "--json", "join", write_ticket(deaf, secret=nobody, opener=OPENER)
        )

    def ticket(self) -> str:
        return self.founder.p2prc("invite", "--lan").out.strip()

    def refused(self, ticket: str, *, code: str) -> str:
        """See that the lonely node gets the refusal and stays what it was; return the sentence."""
        before = self.alone.json("status")["network"]
        said = self.alone.p2prc("--json", "join", ticket, status=3)
        assert said.error["code"] == code, said.err
        assert said.error["message"]
        assert said.out == ""
        assert self.alone.json("status")["network"] == before
        return str(said.error["message"])


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("joining")
    nodes = [NodeUnderTest(folder / name, name) for name in ("founder", "member", "alone")]
    try:
        up_all(nodes)
        ticket = nodes[0].p2prc("invite", "--lan").out.strip()
        nodes[1].p2prc("join", ticket)
        yield World(*nodes)
    finally:
        stop_all(nodes)


def test_a_ticket_is_one_word_and_says_from_where_it_can_be_used(world: World) -> None:
    said = world.founder.p2prc("invite", "--lan")
    assert said.out.count("\n") == 1
    assert said.out.strip().isalnum()
    assert len(said.out.strip()) <= 512
    assert any(f"for {left}" in said.err for left in ("1 d", "24 h", "23 h"))
    told = world.founder.json("invite", "--lan")
    assert set(told) >= {"ticket", "network", "expires_at", "reach"}


def test_a_ticket_cut_short_is_refused(world: World) -> None:
    ticket = world.ticket()
    for length in (3, 8, len(ticket) // 2, len(ticket) - 1):
        world.refused(ticket[:length], code="ticket-invalid")


def test_a_ticket_with_one_character_changed_is_refused(world: World) -> None:
    ticket = world.ticket()
    for at in (9, len(ticket) // 2, len(ticket) - 2):
        other = "a" if ticket[at] != "a" else "b"
        world.refused(ticket[:at] + other + ticket[at + 1 :], code="ticket-invalid")


def test_a_ticket_for_another_version_is_refused(world: World) -> None:
    ticket = world.ticket()
    for version in "19":
        world.refused(f"p2prc{version}" + ticket[6:], code="ticket-version")


def test_an_expired_ticket_is_refused_by_whoever_reads_it(world: World) -> None:
    ticket = changed(world.ticket(), expires_at=int(time.time()) - 60)
    world.refused(
        write_ticket(ticket, secret=world.founder.key, opener=OPENER), code="ticket-expired"
    )


def test_a_ticket_of_another_network_is_refused_by_the_member_that_it_leads_to(
    world: World,
) -> None:
    ticket = changed(world.ticket(), network=NodeId("ab" * 32))
    world.refused(
        write_ticket(ticket, secret=world.founder.key, opener=OPENER), code="ticket-foreign"
    )
    assert world.founder.json("status")["refusals"]["ticket-foreign"] >= 1


def test_a_member_that_may_not_invite_cannot_write_a_ticket_by_hand(world: World) -> None:
    ticket = changed(
        world.ticket(),
        issuer=NodeId(world.member.id),
        addresses=tuple(world.member.addresses),
        may_invite=True,
    )
    forged = write_ticket(ticket, secret=world.member.key, opener=OPENER)
    said = world.alone.p2prc("--json", "join", forged, status=5)
    assert said.error["code"] == "right-missing"


def test_a_plain_member_may_not_invite(world: World) -> None:
    said = world.member.p2prc("--json", "invite", "--lan", status=5)
    assert said.error["code"] == "right-missing"
    assert "--admin" in said.error["hint"]


def test_a_member_of_a_network_with_others_is_told_to_leave_it_first(world: World) -> None:
    ticket = world.alone.p2prc("invite", "--lan").out.strip()
    said = world.member.p2prc("--json", "join", ticket, status=3)
    assert said.error["code"] == "already-in-network"
    assert "leave" in said.error["hint"]
    assert "hint: " in world.member.p2prc("join", ticket, status=3).err


def test_joining_again_with_a_ticket_of_our_own_network_changes_nothing(world: World) -> None:
    before = world.member.json("status")
    world.member.p2prc("join", world.ticket())
    after = world.member.json("status")
    assert (after["network"], after["members"]) == (before["network"], before["members"])


def test_a_ticket_of_ones_own_is_for_another_machine(world: World) -> None:
    ticket = world.alone.p2prc("invite", "--lan").out.strip()
    said = world.alone.p2prc("--json", "join", ticket, status=3)
    assert said.error["code"] == "ticket-foreign"
    assert "another machine" in said.error["hint"]


def test_a_ticket_that_leads_to_nobody_says_so(world: World) -> None:
    _, err = world.knocking.communicate(timeout=20)
    assert world.knocking.returncode == 6
    assert '"peer-unreachable"' in err


def test_an_unknown_node_and_a_short_prefix_are_exit_4(world: World) -> None:
    assert world.founder.p2prc("--json", "specs", "nobody", status=4).error["code"] == (
        "node-unknown"
    )
    assert world.founder.p2prc("--json", "ping", world.member.id[:5], status=4).error["code"] == (
        "node-unknown"
    )
    said = world.founder.p2prc("--json", "run", "nobody", "--", "true", status=125)
    assert said.error["code"] == "node-unknown"


def test_three_newcomers_find_each_other_and_find_each_other_again(make_nodes: MakeNodes) -> None:
    """The newcomer's path, with a ticket from standard input; then two at once are restarted."""
    nodes = make_nodes(3, joined=False)
    ticket = nodes[0].p2prc("invite", "--lan").out
    at_once([lambda node=node: node.p2prc("join", "-", stdin=ticket) for node in nodes[1:]])  # type: ignore[misc]
    for node in nodes:
        wait_until(lambda node=node: _all_alive(node, 3), f"{node.name} sees three")  # type: ignore[misc]
    for node in nodes[1:]:
        node.kill_9()
    up_all(nodes[1:])
    for node in nodes:
        wait_until(lambda node=node: _all_alive(node, 3), f"{node.name} sees three again")  # type: ignore[misc]


def test_an_admin_admits_others_after_the_founder_is_gone(make_nodes: MakeNodes) -> None:
    founder, second, third = make_nodes(3, joined=False)
    second.p2prc("join", founder.p2prc("invite", "--lan", "--admin").out.strip())
    founder.kill_9()
    ticket = second.p2prc("invite", "--lan").out.strip()
    third.p2prc("join", ticket)
    assert third.json("status")["network"] == second.json("status")["network"]
    wait_until(lambda: third.states().get(second.name) == "alive", "they see each other")
    assert third.p2prc("run", second.name, "--", "echo", "here").out == "here\n"


def test_a_name_given_twice_is_ambiguous_and_lists_both_ids(make_nodes: MakeNodes) -> None:
    (ada,) = make_nodes(1)
    twins = [NodeUnderTest(ada.home.parent / f"twin{number}", "twin") for number in (1, 2)]
    try:
        up_all(twins)
        ticket = ada.p2prc("invite", "--lan").out.strip()
        at_once([lambda node=node: node.p2prc("join", ticket) for node in twins])  # type: ignore[misc]
        wait_until(lambda: _all_alive(ada, 3), "ada sees both")
        ids = [twin.id for twin in twins]
        said = ada.p2prc("--json", "ping", "twin", status=3)
        assert said.error["code"] == "name-ambiguous"
        assert all(node[:10] in said.error["message"] for node in ids)
        said = ada.p2prc("--json", "run", "twin", "--", "true", status=125)
        assert said.error["code"] == "name-ambiguous"
        for node in ids:
            assert ada.json("run", node, "--", "true")["node"] == node
            assert ada.json("run", node[:10], "--", "true")["node"] == node
    finally:
        stop_all(twins)


def changed(ticket: str, **fields: Any) -> Ticket:
    """Return a ticket that says something else, to be signed anew."""
    return msgspec.structs.replace(read_ticket(ticket), commitment=commitment_to(OPENER), **fields)


def _all_alive(node: NodeUnderTest, count: int) -> bool:
    return [row["state"] for row in node.json("nodes")] == ["alive"] * count


def test_a_reader_that_stops_listening_does_not_stop_the_node(tmp_path: Path) -> None:
    node = NodeUnderTest(tmp_path / "piped", "piped")
    try:
        with node.start("up", "--detach", "--name", "piped", "--listen", "127.0.0.1:0") as started:
            assert started.stdout is not None
            started.stdout.close()
        assert node.json("status")["name"] == "piped"
    finally:
        node.stop()
