"""The page for who comes from P2PRC is whole, and names tests that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p2prc.api.schema import NodeRow
from p2prc.cli.compatibility.config_file import MEANINGS
from p2prc.cli.compatibility.flags import FLAGS

_TESTS = Path(__file__).parents[1]
_PAGE = (_TESTS.parent / "docs" / "from-p2prc.md").read_text()
_FIELDS = [
    "Name", "MachineUsername", "IPV4", "IPV6", "Latency", "Download", "Upload", "ServerPort",
    "UDPServerPort", "BareMetalSSHPort", "NAT", "EscapeImplementation", "ProxyServer",
    "UnSafeMode", "PublicKey", "CustomInformation",
]  # fmt: skip
_GO = [
    "Init", "Start", "MapPort", "StartContainer", "RemoveContainer", "GetSpecs", "ViewIPTable",
    "UpdateIPTable", "AddCustomInformation", "AddRootNode",
]  # fmt: skip
_C = [
    "StartContainer", "RemoveContainer", "GetSpecs", "Init", "ViewIPTable", "UpdateIPTable",
    "EscapeFirewall", "MapPort", "CustomInformation", "AddRootNode", "Server",
]  # fmt: skip


def rows(title: str) -> list[list[str]]:
    """Return the cells of the table below a heading, without its own two lines."""
    section = _PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


SECTIONS = {
    "Flags": 36, "What its server answers": 12, "Keys of config.json": 24,
    "Fields of the table": 16, "The Go API and the bindings": 34, "What is around it": 7,
    "What its users asked for": 29,
}  # fmt: skip


def first_words(title: str) -> list[str]:
    return [re.findall(r"`([^`]+)`", row[0])[0] for row in rows(title)]


@pytest.mark.parametrize(("title", "count"), SECTIONS.items())
def test_every_row_names_a_test_that_exists_or_says_why_not(title: str, count: int) -> None:
    there = set(
        re.findall(
            r"^(?:async )?def (test_\w+)",
            "\n".join(path.read_text() for path in _TESTS.rglob("test_*.py")),
            re.MULTILINE,
        )
    )
    found = rows(title)
    assert len(found) == count
    for row in found:
        named = re.findall(r"`(test_\w+)`", row[-1])
        assert set(named) <= there, row[0]
        assert named or re.match(r"(dropped|not yet): .{6,}", row[-1]), row[0]


def test_the_page_has_all_that_p2prc_has() -> None:
    assert len(FLAGS) == 36
    for row, flag in zip(rows("Flags"), FLAGS, strict=True):
        names = re.findall(r"`-+(\w+)`", row[0])
        assert names == [flag.name, flag.alias]
        assert row[1].strip("`") == (flag.variable or row[1])
        assert row[1].startswith("`") == bool(flag.variable)
    assert set(first_words("Keys of config.json")) == set(MEANINGS)
    assert first_words("Fields of the table") == _FIELDS
    functions = [row[0] for row in rows("The Go API and the bindings")]
    assert functions[:10] == [f"Go `{name}`" for name in _GO]
    assert functions[10:21] == [f"C `{name}`" for name in _C]


def test_the_table_has_a_place_for_every_field_of_p2prc() -> None:
    keys = set(NodeRow.__struct_encode_fields__)
    for row in rows("Fields of the table"):
        named = re.findall(r"`([a-z_]+)[`.]", row[1])
        assert set(named) <= keys | {"direct", "relayed", "via", "tunnels", "expose", "doctor"}
