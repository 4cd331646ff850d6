"""Settings: which source wins, what is refused, and what the defaults lend."""

from pathlib import Path

import pytest

from p2prc.errors import SettingInvalid
from p2prc.settings import (
    Address,
    Machine,
    Settings,
    home_folder,
    read_settings,
    this_machine,
)

MACHINE = Machine(cpus=8, memory_bytes=16 << 30, free_disk_bytes=100 << 30, name="atlas")
ALICE = "ab" * 32


def read(home: Path, overrides: dict[str, str] | None = None, **environment: str) -> Settings:
    return read_settings(home, environment=environment, overrides=overrides or {}, machine=MACHINE)


def test_the_defaults_lend_half_the_memory_all_cores_but_one_and_a_tenth_of_the_disk(
    tmp_path: Path,
) -> None:
    settings = read(tmp_path)
    assert settings.lend.to == "members"
    assert settings.lend.cpu_millis == 7000
    assert settings.lend.memory_bytes == 8 << 30
    assert settings.lend.disk_bytes == (100 << 30) // 10
    assert settings.lend.lifetime_s == 86400
    assert settings.listen == Address("", 8088)
    assert settings.origins["lend.cpus"] == "default"


def test_a_machine_with_one_core_lends_it(tmp_path: Path) -> None:
    alone = Machine(cpus=1, memory_bytes=1 << 30, free_disk_bytes=0)
    settings = read_settings(tmp_path, environment={}, overrides={}, machine=alone)
    assert settings.lend.cpu_millis == 1000


def test_each_source_beats_the_one_before_it_and_is_named_as_the_origin(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        'name = "file"\n[lend]\ncpus = 1.5\nmemory = "1G"\ndisk = "1G"\n'
    )
    settings = read(
        tmp_path, {"lend.disk": "3G"}, P2PRC_LEND_MEMORY="2G", P2PRC_LEND_DISK="2G", P2PRC_HOME="/"
    )
    assert settings.name == "file"
    assert settings.lend.cpu_millis == 1500
    assert settings.lend.memory_bytes == 2 << 30
    assert settings.lend.disk_bytes == 3 << 30
    assert settings.origins["lend.cpus"] == "config.toml"
    assert settings.origins["lend.memory"] == "environment"
    assert settings.origins["lend.disk"] == "command line"
    assert settings.values["lend.disk"] == "3G"


def test_nodes_are_listed_by_their_whole_ids(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'lend.tier_none_to = ["{ALICE}"]')
    settings = read(tmp_path, {"lend.to": f"{ALICE}, {ALICE}"})
    assert settings.lend.to == (ALICE,)
    assert settings.lend.tier_none_to == (ALICE,)


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("lend.to", "abcdef"),
        ("lend.cpus", "many"),
        ("lend.memory", "-1"),
        ("lend.lifetime", "soon"),
        ("listen", "host"),
        ("listen", "host:70000"),
        ("listen", "a/b:1"),
        ("relay", "ftp://relay"),
        ("runtime", "podman"),
        ("public", ":8088"),
        ("name", "../x"),
        ("name", ""),
    ],
)
def test_nonsense_is_refused_with_its_key_and_origin(tmp_path: Path, key: str, text: str) -> None:
    with pytest.raises(SettingInvalid, match=rf"{key} \(command line\)"):
        read(tmp_path, {key: text})


def test_an_unknown_key_is_refused_and_the_nearest_one_proposed(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[lend]\ncpu = 2\n")
    with pytest.raises(SettingInvalid, match=r"no setting `lend.cpu` \(config.toml\)") as refusal:
        read(tmp_path)
    assert refusal.value.hint == "did you mean `lend.cpus`?"


@pytest.mark.parametrize(
    "content", [b"name = ", b"\xff\xfe", b"name = true", b"[name]\na = 1979-01-01"]
)
def test_a_damaged_file_is_an_error_not_a_default(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(SettingInvalid, match=r"config\.toml"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("example.org", Address("example.org", 8088)),
        ("example.org:80", Address("example.org", 80)),
        ("[2001:db8::1]:80", Address("2001:db8::1", 80)),
        ("2001:db8::1", Address("2001:db8::1", 8088)),
    ],
)
def test_a_public_address_needs_no_port(tmp_path: Path, text: str, address: Address) -> None:
    assert read(tmp_path, {"public": text}).public == address


def test_an_address_is_written_as_it_is_read() -> None:
    assert str(Address("2001:db8::1", 80)) == "[2001:db8::1]:80"
    assert str(Address("", 0)) == ":0"


def test_the_home_comes_from_the_option_then_the_environment_then_the_user() -> None:
    both = {"P2PRC_HOME": "/ours", "P2PRC": "/theirs"}
    assert home_folder("/option", both) == Path("/option")
    assert home_folder(None, both) == Path("/ours")
    assert home_folder(None, {"P2PRC": "/theirs"}) == Path("/theirs")
    assert home_folder(None, {}) == Path.home() / ".p2prc"


def test_this_machine_has_something_to_lend(tmp_path: Path) -> None:
    machine = this_machine(tmp_path / "not" / "made" / "yet")
    assert machine.cpus >= 1
    assert machine.memory_bytes > 1 << 20
    assert read_settings(tmp_path, environment={}, overrides={}, machine=machine).name
