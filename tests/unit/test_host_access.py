"""Host access: nodes that the owner names in a file of its own, and nobody else."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2prc.errors import SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.model.resources import RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.lending import LendingPolicy, Refusal, select_runtime
from p2prc.storage.host_access import HOST_ACCESS_FILE, read_host_access

ALICE, BOB = NodeId("a" * 64), NodeId("b" * 64)
WALLED, BARE = RuntimeOffer("process", "userns"), RuntimeOffer("process", "none")
BOTH = (WALLED, BARE)
ON_THE_HOST = Workload(tiers=("none",))


def write(home: Path, text: str, mode: int = 0o600) -> None:
    path = home / HOST_ACCESS_FILE
    path.write_text(text)
    path.chmod(mode)


def test_who_is_named_may_ask_for_it_and_has_walls_otherwise() -> None:
    policy = LendingPolicy(host_access=frozenset({ALICE}))
    assert select_runtime(policy, BOTH, ALICE, ON_THE_HOST) == BARE
    assert select_runtime(policy, BOTH, ALICE, Workload()) == WALLED
    refused = select_runtime(policy, BOTH, BOB, ON_THE_HOST)
    assert isinstance(refused, Refusal)
    assert "host access" in refused.message


def test_trust_for_want_of_walls_is_no_host_access() -> None:
    policy = LendingPolicy(trusted=frozenset({ALICE}))
    assert select_runtime(policy, (BARE,), ALICE, Workload()) == BARE
    assert isinstance(select_runtime(policy, BOTH, ALICE, ON_THE_HOST), Refusal)


def test_no_file_lets_in_nobody(tmp_path: Path) -> None:
    assert read_host_access(tmp_path) == ()


def test_the_file_names_nodes_by_their_keys(tmp_path: Path) -> None:
    write(tmp_path, f"# the lab\n{ALICE}  # ada\n\n{BOB}\n{ALICE}\n")
    assert read_host_access(tmp_path) == (ALICE, BOB)


@pytest.mark.parametrize("text", ["ada\n", f"{ALICE},{BOB}", "a" * 63, "\0" * 64, "#\n" * 40_000])
def test_a_file_with_anything_else_in_it_lets_in_nobody(tmp_path: Path, text: str) -> None:
    write(tmp_path, text)
    with pytest.raises(SettingInvalid):
        read_host_access(tmp_path)


def test_a_file_that_others_can_write_or_that_is_a_link_lets_in_nobody(tmp_path: Path) -> None:
    write(tmp_path, ALICE, 0o620)
    with pytest.raises(SettingInvalid, match="others can write"):
        read_host_access(tmp_path)
    (tmp_path / HOST_ACCESS_FILE).rename(tmp_path / "elsewhere")
    (tmp_path / HOST_ACCESS_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingInvalid):
        read_host_access(tmp_path)
