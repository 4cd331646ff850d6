"""Who was put out: nobody can keep it alive in others' tables, and it kills nobody."""

from __future__ import annotations

from random import Random

from p2prc.model import testimony
from p2prc.model.identity import NodeId
from p2prc.protocol.membership import (
    Dial,
    MembersBarred,
    Membership,
    MessageReceived,
    NodeState,
    PeerConnected,
    Tick,
)
from p2prc.protocol.messages import Entries
from tests.unit.membership_room import (
    ANNA,
    BERT,
    CARL,
    DORA,
    EVERYBODY,
    SECRETS,
    heard,
    life,
    record,
    rumours,
    signs,
    told,
)


def anna_and(put_out: set[NodeId]) -> Membership:
    """Anna, connected to Bert, knows Carl and Dora; she hears later who was put out."""
    anna = Membership(
        record(ANNA),
        is_member=lambda told: told.node not in put_out,
        testify=lambda lives: testimony.testify(SECRETS[EVERYBODY[ANNA]], lives),
        rng=Random(1),
        now=0.0,
    )
    anna.handle(PeerConnected(BERT), 0.0)
    anna.handle(told(BERT, record(BERT), record(CARL), record(DORA)), 0.0)
    return anna


def test_who_was_put_out_cannot_say_that_it_lives() -> None:
    put_out: set[NodeId] = set()
    anna = anna_and(put_out)
    anna.handle(heard(BERT, signs(BERT, life(CARL))), 1.0)
    assert anna.state_of(CARL) is NodeState.SUSPECT
    put_out.add(CARL)
    effects = anna.handle(heard(BERT, signs(CARL, life(CARL, 1, 1))), 1.5)
    effects += anna.handle(Tick(), 1.6)
    assert rumours(effects) == []
    for second in (2.0, 2.5, 3.0, 3.5, 4.1):
        anna.handle(Tick(), second)
    assert anna.state_of(CARL) is NodeState.DEAD
    anna.handle(heard(BERT, signs(CARL, life(CARL, 1, 2))), 4.2)
    assert anna.state_of(CARL) is NodeState.DEAD
    assert anna.refusals["not-member"] == 2


def test_who_was_put_out_makes_nobody_doubted() -> None:
    put_out: set[NodeId] = set()
    anna = anna_and(put_out)
    put_out.add(CARL)
    anna.handle(heard(BERT, signs(CARL, life(DORA))), 1.0)
    assert anna.state_of(DORA) is NodeState.ALIVE


def test_who_was_put_out_is_told_to_nobody() -> None:
    put_out: set[NodeId] = set()
    anna = anna_and(put_out)
    put_out.add(CARL)
    anna.handle(MembersBarred(), 1.0)
    assert anna.state_of(CARL) is NodeState.DEAD
    assert anna.state_of(DORA) is NodeState.ALIVE
    anna.handle(MessageReceived(BERT, Entries((), (life(CARL),), is_reply=True)), 1.1)
    assert anna.state_of(CARL) is NodeState.DEAD


def test_who_was_put_out_is_not_called_on() -> None:
    put_out: set[NodeId] = set()
    anna = anna_and(put_out)
    put_out.add(CARL)
    effects = anna.handle(MembersBarred(), 1.0)
    for second in range(2, 90):
        effects += anna.handle(Tick(), float(second))
    dialled = {effect.node for effect in effects if isinstance(effect, Dial)}
    assert DORA in dialled
    assert CARL not in dialled
