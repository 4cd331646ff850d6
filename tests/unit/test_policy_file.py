"""What `policy set` writes is what the next start reads; what is wrong changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2prc.errors import SettingInvalid
from p2prc.settings import CONFIG_FILE, Machine, read_settings
from p2prc.storage.config_file import set_in_config

MACHINE = Machine(cpus=4, memory_bytes=8 << 30, free_disk_bytes=100 << 30)
RULES = {
    "lend.networks": "none,proxy",
    "lend.leases": "9",
    "lend.per_peer.cpus": "1.5",
    "lend.per_peer.memory": "512M",
    "lend.per_peer.disk": "all",
    "lend.per_peer.leases": "2",
    "lend.per_peer.requests": "5",
    "lend.quiet_hours": "mon-fri 09:00-18:00,sat 22:00-06:00",
    "lend.only_while_away": "load:0.5,idle:10m",
    "lend.when_needed": "end",
}


def test_rules_survive_a_restart_and_comments_stay(tmp_path: Path) -> None:
    file = tmp_path / CONFIG_FILE
    file.write_text("# mine\n[lend]\ncpus = 2  # two are enough\n")
    for key, text in RULES.items():
        set_in_config(file, key, text)
    settings = read_settings(tmp_path, environment={}, overrides={}, machine=MACHINE)
    assert {key: settings.values[key] for key in RULES} == RULES
    assert settings.lend.per_peer_cpu_millis == 1500
    assert settings.lend.per_peer_disk_bytes is None
    assert len(settings.lend.quiet_hours) == 2
    assert settings.lend.only_while_away.idle_s == 600
    assert "# two are enough" in file.read_text()


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("lend.networks", "wifi"),
        ("lend.leases", "-1"),
        ("lend.per_peer.cpus", "many"),
        ("lend.per_peer.requests", "0"),
        ("lend.quiet_hours", "noon"),
        ("lend.only_while_away", "load:lots"),
        ("lend.only_while_away", "idle:none"),
        ("lend.when_needed", "explode"),
        ("lend.per_pear.cpus", "1"),
    ],
)
def test_a_wrong_rule_in_the_file_is_named_with_its_place(
    tmp_path: Path, key: str, text: str
) -> None:
    file = tmp_path / CONFIG_FILE
    set_in_config(file, key, text)
    before = file.read_bytes()
    with pytest.raises(SettingInvalid) as told:
        read_settings(tmp_path, environment={}, overrides={}, machine=MACHINE)
    assert key in told.value.message
    assert CONFIG_FILE in told.value.message
    assert told.value.hint
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    "key", ["lend.quiet_hours", "lend.deny", "lend.tier_none_to", "lend.images", "lend.lifetime"]
)
def test_none_as_it_is_shown_is_taken_back(tmp_path: Path, key: str) -> None:
    set_in_config(tmp_path / CONFIG_FILE, key, "none")
    settings = read_settings(tmp_path, environment={}, overrides={}, machine=MACHINE)
    assert not getattr(settings.lend, key.partition(".")[2].replace("lifetime", "lifetime_s"))
