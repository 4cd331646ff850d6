"""After a restart the others are found by the last known table, not by whoever let us in."""

from __future__ import annotations

from tests.system.conftest import MakeNodes
from tests.system.nodes import at_once, wait_until


def test_members_find_each_other_again_when_whoever_let_them_in_is_gone(
    make_nodes: MakeNodes,
) -> None:
    founder, *others = make_nodes(4)
    names = {node.name for node in others}
    wait_until(
        lambda: all(names <= set(node.states()) for node in others), "everybody knows everybody"
    )
    # All at once, and without a word: the tables that are on disk are all that is left.
    for node in (founder, *others):
        node.kill_9()
    at_once(node.up for node in others)

    def met() -> bool:
        return all(
            {name for name, state in node.states().items() if state == "alive"} >= names
            for node in others
        )

    wait_until(met, "they meet again", timeout_s=20)
    assert others[0].p2prc("run", others[1].name, "--", "true").status == 0
