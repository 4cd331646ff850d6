"""Where nodes are reached, as it changes: an address outside, a relay."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.nat.lab import Lab
from tests.nat.nodes import LabNode, command_on, join_all, path_to
from tests.nat.rules import Nat
from tests.system.nodes import stop_all, up_all, wait_until

pytestmark = pytest.mark.timeout(180)

SEEN_WITHIN_S = 15.0


def test_who_gets_another_outside_address_is_known_there_soon(lab: Lab, tmp_path: Path) -> None:
    router = lab.router("moves", Nat.PORT_RESTRICTED)
    hosts = [
        lab.host("moves-pub"),
        lab.host("moves-ada", behind=router),
        lab.host("moves-bob", behind=lab.router("stays", Nat.PORT_RESTRICTED)),
    ]
    nodes = _, ada, bob = [LabNode(tmp_path, host) for host in hosts]
    try:
        up_all(nodes)
        join_all(nodes)
        wait_until(lambda: f"{router.address}:8088" in ada.addresses, "she is seen", timeout_s=10)
        before, after = router.address, router.address.rpartition(".")[0] + ".77"
        router.change_address(after)
        wait_until(
            lambda: f"{after}:8088" in ada.addresses and f"{before}:8088" not in ada.addresses,
            "she tells her new address and no other",
            timeout_s=SEEN_WITHIN_S,
        )
        way = command_on(bob, ada)
        assert way.is_there, way
        wait_until(lambda: path_to(bob, ada) == "direct", "they meet again", timeout_s=10)
    finally:
        stop_all(nodes)
