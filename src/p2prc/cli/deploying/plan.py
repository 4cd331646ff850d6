"""A private network in a file: which machines, what each is for, and the rules for all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2prc.errors import InvalidInput, SettingInvalid, TemplateInvalid
from p2prc.settings import check_setting

ROLES: dict[str, dict[str, str]] = {
    "lend": {},
    "ask": {"lend.to": "none"},
    "relay": {"relay.serve": "auto"},
    "gateway": {"gateway.to": "members"},
    "admin": {},
}
"""What a role sets. `admin` is no setting: its ticket lets it invite others."""
NODES_LIMIT = 500
LOCAL = "local"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}", re.ASCII)
_SSH = re.compile(
    r"(?:[A-Za-z0-9_][\w.-]{0,63}@)?(?:[A-Za-z0-9][\w.-]{0,250}|\[[0-9a-fA-F:]+\])(?::\d{1,5})?",
    re.ASCII,
)
_KEYS = {"nodes", "install", "policies", "gateways", "relays"}
_NODE_KEYS = {"name", "ssh", "roles", "settings", "home"}
_INSTALL_KEYS = {"wheel", "package", "program", "python"}


@dataclass(frozen=True, slots=True)
class Install:
    """How p2prc comes there: `wheel` (a file here), `package` (for pip) or `program` (there)."""

    wheel: str = ""
    package: str = ""
    program: str = ""
    python: str = "python3"


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A machine: how it is reached, and what its node is told. `ssh` is `local` for this one."""

    name: str
    ssh: str
    settings: Mapping[str, str]
    is_admin: bool = False
    home: str = ""


@dataclass(frozen=True, slots=True)
class Plan:
    """A network as its file says it should be. The first node founds it, if nobody has."""

    nodes: tuple[PlannedNode, ...]
    install: Install


def read_plan(path: Path) -> Plan:
    """Read the file. Raises InvalidInput, SettingInvalid with the place of what is wrong."""
    from p2prc.templates.document import read_document  # noqa: PLC0415 - only this command pays

    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInput(f"`{path}` cannot be read: {error}") from error
    try:
        value = read_document(text, path.name).value
    except TemplateInvalid as error:
        raise InvalidInput(
            error.message, hint="see docs/deploy.md for what it looks like"
        ) from None
    return plan_of(value)


def plan_of(value: Mapping[str, Any]) -> Plan:
    """Return the plan of a file's values."""
    _known(value, _KEYS, "the file")
    rows = value.get("nodes")
    if not isinstance(rows, list) or not rows:
        raise InvalidInput("the file names no `nodes`: a list of machines")
    if len(rows) > NODES_LIMIT:
        raise InvalidInput(f"the file has more than {NODES_LIMIT} nodes")
    named = {
        "gateway": _words(value.get("gateways", []), "gateways"),
        "relay": _words(value.get("relays", []), "relays"),
    }
    policies = _settings(value.get("policies", {}), "policies")
    nodes = tuple(_node(row, number, policies, named) for number, row in enumerate(rows))
    names = [node.name for node in nodes]
    if doubled := sorted({name for name in names if names.count(name) > 1}):
        raise InvalidInput(f"two nodes are called {', '.join(doubled)}")
    places = [(node.ssh, node.home) for node in nodes]
    if len(set(places)) != len(places):
        raise InvalidInput("two nodes are on one machine: give each a `home`")
    for role, who in named.items():
        if unknown := sorted(who - set(names)):
            raise InvalidInput(f"no node of the file is called {unknown[0]}, named as {role}")
    return Plan(nodes, _install(value.get("install", {})))


def _node(
    row: object, number: int, policies: Mapping[str, str], named: Mapping[str, set[str]]
) -> PlannedNode:
    where = f"nodes[{number}]"
    if not isinstance(row, Mapping):
        raise InvalidInput(f"{where} is no table with `name` and `ssh`")
    _known(row, _NODE_KEYS, where)
    name, ssh, home = (_text(row, key, where) for key in ("name", "ssh", "home"))
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(f"{where}: `name` is not letters, digits, `.`, `_` and `-`")
    if _SSH.fullmatch(ssh) is None:
        raise InvalidInput(f"{where}: `ssh` is no `user@host:port`, nor `local`")
    if home and (not home.isprintable() or "'" in home):
        raise InvalidInput(f"{where}: `home` is no folder's name")
    roles = _words(row.get("roles", []), f"{where}.roles")
    roles |= {role for role, who in named.items() if name in who}
    if unknown := sorted(roles - set(ROLES)):
        raise InvalidInput(f"{where}: `{unknown[0]}` is no role: {', '.join(ROLES)}")
    if {"lend", "ask"} <= roles:
        raise InvalidInput(f"{where}: it can only have one of the roles `lend` and `ask`")
    settings = {"name": name, **policies}
    for role in sorted(roles):
        settings |= ROLES[role]
    settings |= _settings(row.get("settings", {}), f"{where}.settings")
    return PlannedNode(name, ssh, settings, is_admin="admin" in roles, home=home)


def _install(value: object) -> Install:
    if not isinstance(value, Mapping):
        raise InvalidInput("`install` is no table")
    _known(value, _INSTALL_KEYS, "install")
    found = {key: _text(value, key, "install") for key in _INSTALL_KEYS if key in value}
    ways = [key for key in ("wheel", "package", "program") if found.get(key)]
    if len(ways) > 1:
        raise InvalidInput(f"`install` has {' and '.join(ways)}: one is enough")
    if any("'" in text or not text.isprintable() for text in found.values()):
        raise InvalidInput("`install` has a letter that no path or package has")
    return Install(**found)


def _settings(value: object, where: str) -> dict[str, str]:
    """Return settings by key, which may be nested; each is checked as the node will."""
    if not isinstance(value, Mapping):
        raise InvalidInput(f"`{where}` is no table of settings")
    found: dict[str, str] = {}
    for key, given in value.items():
        if isinstance(given, Mapping):
            found |= {f"{key}.{inner}": text for inner, text in _flat(given, where).items()}
        else:
            found[str(key)] = _setting_text(given)
    for key, text in found.items():
        try:
            check_setting(key, text)
        except SettingInvalid as error:
            raise SettingInvalid(f"{where}: {error.message}", hint=error.hint) from None
    return found


def _flat(value: Mapping[str, Any], where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, given in value.items():
        if isinstance(given, Mapping):
            found |= {f"{key}.{inner}": text for inner, text in _flat(given, where).items()}
        else:
            found[str(key)] = _setting_text(given)
    return found


def _setting_text(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "" if value is None else str(value)


def _words(value: object, where: str) -> set[str]:
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise InvalidInput(f"`{where}` is no list of words")
    return set(value)


def _text(row: Mapping[str, Any], key: str, where: str) -> str:
    value = row.get(key, "")
    if not isinstance(value, str):
        raise InvalidInput(f"{where}: `{key}` is no text")
    return value


def _known(value: object, keys: set[str], where: str) -> None:
    if not isinstance(value, Mapping):
        raise InvalidInput(f"{where} is no table")
    if unknown := sorted(str(key) for key in value if key not in keys):
        raise InvalidInput(
            f"{where} has `{unknown[0][:40]}`, which means nothing: {', '.join(sorted(keys))}"
        )
