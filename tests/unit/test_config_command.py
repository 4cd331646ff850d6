"""`config`: a file of settings, and what of P2PRC's own goes into it."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.cli.compatibility.config_file import MEANINGS, settings_of
from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line
from p2prc.settings import SETTING_KEYS, Machine, read_settings

MACHINE = Machine(cpus=4, memory_bytes=8 << 30, free_disk_bytes=100 << 30)
OF_P2PRC = {
    "machinename": "ada's box", "serverport": "8090", "ipv6address": "2001:db8::7",
    "iptable": "/p2prc/p2p/iptable/ip_table.json", "behindnat": "True", "baremetal": "False",
    "unsafemode": False, "proxyport": "", "test": "", "somethingnew": "1",
}  # fmt: skip


def call(home: Path, *words: str) -> int:
    return run_command_line(words, Invocation(str(home)))


def test_init_writes_every_setting_as_a_comment_that_holds_when_it_is_none(tmp_path: Path) -> None:
    home = tmp_path / "home"
    assert call(home, "config", "init") == 0
    path = home / "config.toml"
    assert home.stat().st_mode & 0o777 == 0o700
    assert tomllib.loads(path.read_text()) == {}
    path.write_text(path.read_text().replace('\n# "', '\n"').replace("\n# ", "\n"))
    lines = [line for line in path.read_text().splitlines() if " = " in line]
    assert len(lines) == len(SETTING_KEYS)
    path.write_text("\n".join(line for line in lines if not line.endswith('= ""')))
    settings = read_settings(home, environment={}, overrides={}, machine=MACHINE)
    assert settings.origins["lend.per_peer.cpus"] == "config.toml"
    assert settings.origins["relay.serve"] == "config.toml"


def test_a_config_of_p2prc_is_read_and_what_does_not_map_is_said(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(OF_P2PRC))
    assert call(tmp_path, "--dc") == 0
    told = capfd.readouterr().err
    settings = read_settings(tmp_path, environment={}, overrides={}, machine=MACHINE)
    assert (settings.name, str(settings.listen)) == ("ada-s-box", ":8090")
    assert str(settings.public) == "[2001:db8::7]:8090"
    assert "IPTable: nodes are found by a ticket" in told
    assert "somethingnew: no setting of P2PRC's" in told
    assert "UnsafeMode" not in told
    # A second time changes nothing.
    before = (tmp_path / "config.toml").read_text()
    assert call(tmp_path, "--dc") == 0
    assert (tmp_path / "config.toml").read_text() == before


def test_each_key_of_p2prc_has_a_meaning_or_a_word() -> None:
    assert len(MEANINGS) == 24
    content = dict.fromkeys(MEANINGS, "8088")
    taken = settings_of(content)
    said = {note.partition(":")[0] for note in taken.notes}
    assert said | {"MachineName", "ServerPort", "IPV6Address"} == set(MEANINGS)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"a":' * 5000, "\x00", "3"])
def test_what_is_no_config_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content)
    assert call(tmp_path, "config", "init") == 3
    assert call(tmp_path, "config", "init", "--from", str(tmp_path / "none")) == 4


_TEXTS = st.text("aZ0:[].,-\x00\u00e9 ", max_size=12)


@given(
    st.dictionaries(
        st.sampled_from([*MEANINGS, "x"]), _TEXTS | st.none() | st.booleans() | st.integers()
    )
)
def test_any_values_give_settings_that_hold(content: dict[str, object]) -> None:
    taken = settings_of(content)
    for key in taken.settings:
        assert key in SETTING_KEYS


def test_set_writes_for_the_next_start(tmp_path: Path) -> None:
    assert call(tmp_path, "config", "set", "listen", ":8099") == 0
    assert call(tmp_path, "config", "set", "lend.cpus", "2") == 0
    assert tomllib.loads((tmp_path / "config.toml").read_text()) == {
        "listen": ":8099", "lend": {"cpus": 2},
    }  # fmt: skip
    assert call(tmp_path, "config", "set", "listen", "nowhere") == 3
    assert call(tmp_path, "config", "set", "no.such", "1") == 3
