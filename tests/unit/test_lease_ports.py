"""Which ports a lease has named."""

from __future__ import annotations

import socket

from p2prc.node.ports import FIRST_PORT, port_variables, ports_for


def test_in_a_network_of_its_own_ports_are_always_the_same() -> None:
    assert ports_for("userns", 2, {FIRST_PORT}) == (FIRST_PORT, FIRST_PORT + 1)
    assert ports_for("container", 0, ()) == ()
    assert port_variables((7, 9)) == {"P2PRC_PORT1": "7", "P2PRC_PORT2": "9"}


def test_in_the_machines_network_they_are_free_and_no_other_leases() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        found = ports_for("none", 64, {taken + 1})
    assert len(set(found)) == 64
    assert not {taken, taken + 1} & set(found)
    for port in found:
        socket.create_server(("127.0.0.1", port)).close()
