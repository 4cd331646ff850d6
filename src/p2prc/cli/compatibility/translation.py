"""From P2PRC's flags to our commands. Pure: a table, and what it cannot say in words.

Where P2PRC prints JSON, our command prints its JSON too: scripts that read one read the other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from p2prc.cli.compatibility.flags import FLAGS
from p2prc.cli.failures import UsageOfP2prc

DEFAULT_PORT = "8088"
DEFAULT_IMAGE = "docker-ubuntu-sshd"
"""What P2PRC starts when nothing is said: here that is the node's own."""
METADATA_KEY = "CustomInformation"
_BY_NAME = {flag.name: flag for flag in FLAGS}


@dataclass(frozen=True, slots=True)
class NodeWord:
    """A word that means a node: P2PRC's IP:PORT, or a name or id of ours."""

    text: str


Word: TypeAlias = str | NodeWord


@dataclass(frozen=True, slots=True)
class Translation:
    """The commands that do the same, one after the other.

    With `is_json` they print JSON. Nothing is done when the node at `unless_known` is in the
    network already. `held_on` is a container and the node that it must be on.
    """

    commands: tuple[tuple[Word, ...], ...]
    is_json: bool = False
    unless_known: str = ""
    held_on: tuple[str, NodeWord] | None = None


@dataclass(frozen=True, slots=True)
class Given:
    """The values of one action's flags, and where a new name comes from."""

    values: Mapping[str, str]
    new_name: Callable[[], str]

    def value(self, flag: str) -> str:
        return self.values.get(flag, "")

    def has(self, flag: str) -> bool:
        return flag in self.values

    def needed(self, flag: str, why: str) -> str:
        if not self.value(flag):
            raise UsageOfP2prc(f"{why}: add `{_BY_NAME[flag].typed}`")
        return self.values[flag]


@dataclass(frozen=True, slots=True)
class _Action:
    translate: Callable[[Given], Translation]
    modifiers: frozenset[str] = field(default_factory=frozenset)


def translate(
    typed: Mapping[str, str], environment: Mapping[str, str], new_name: Callable[[], str]
) -> Translation:
    """Return what the flags mean; raise `UsageOfP2prc` for what has no meaning.

    The environment completes what was typed, and says what to do only where nothing was typed.
    """
    action = _action(typed, "typed together") if typed else _action(environment, "set together")
    allowed = _ACTIONS[action].modifiers | {action}
    if foreign := [name for name in typed if name not in allowed]:
        names = ", ".join(f"`{_BY_NAME[name].typed}`" for name in foreign)
        raise UsageOfP2prc(f"{names} means nothing beside `{_BY_NAME[action].typed}`")
    values = {name: text for name, text in environment.items() if name in allowed} | dict(typed)
    return _ACTIONS[action].translate(Given(values, new_name))


def is_action(name: str) -> bool:
    """Whether a flag does something by itself."""
    return name in _ACTIONS


def _action(values: Mapping[str, str], how: str) -> str:
    found = [name for name in values if name in _ACTIONS]
    if "RemoveContainerGroup" in found and "Group" in found:
        found.remove("Group")
    if len(found) > 1:
        names = " and ".join(f"`{_BY_NAME[name].typed}`" for name in found)
        raise UsageOfP2prc(f"{names} are commands of their own and cannot be {how}")
    if found:
        return found[0]
    lonely = next(iter(values))
    owners = [
        f"`{_BY_NAME[name].typed}`"
        for name, action in _ACTIONS.items()
        if lonely in action.modifiers
    ]
    raise UsageOfP2prc(f"`{_BY_NAME[lonely].typed}` goes with {' or '.join(owners)}")


def _touch(given: Given) -> Translation:
    place = given.value("CreateVM")
    if _is_bare_address(place):
        raise UsageOfP2prc(
            f"`{place}` lacks its port: `--touch {place}:{DEFAULT_PORT}`, or a node's name or id"
        )
    words: list[Word] = ["create", NodeWord(place)]
    if given.value("Ports"):
        words += ["--ports", _number(given.value("Ports"), limit=64)]
    if given.has("GPU"):
        words += ["--gpus", "1"]
    # A base image is what P2PRC builds the other one on: here it is the image itself.
    image = given.value("BaseImage") or given.value("ContainerName")
    if image and image != DEFAULT_IMAGE:
        words += ["--image", image]
    return Translation((tuple(words),), is_json=True)


def _remove(given: Given) -> Translation:
    lease = given.needed("ID", "which container")
    return Translation((("rm", lease),), held_on=(lease, NodeWord(given.value("RemoveVM"))))


def _add_server(given: Given) -> Translation:
    host, port = given.value("AddServer"), given.value("Ports")
    if port or _is_bare_address(host) or ":" not in host:
        host = address(host, port or DEFAULT_PORT)
    return Translation((("join", host),), unless_known=host)


def _add_root_node(given: Given) -> Translation:
    why = "which node is the root"
    place = address(given.needed("IPAddress", why), given.needed("Ports", why))
    return Translation((("leave",), ("join", place)))


def _group(given: Given) -> Translation:
    group, lease = given.value("Group"), given.value("ID")
    words = ("group", "add", group, lease) if lease else ("group", "show", group)
    return Translation((words,), is_json=True)


def _remove_from_group(given: Given) -> Translation:
    group = given.needed("Group", "which group")
    lease = given.needed("ID", "which container")
    return Translation((("group", "remove", group, lease),), is_json=True)


def _map_port(given: Given) -> Translation:
    words: list[Word] = ["expose", given.value("MAPPort")]
    if given.has("UDP"):
        words.append("--udp")
    if given.value("DomainName"):
        words += ["--domain", given.value("DomainName")]
    if given.value("RemoteAddress"):
        words += ["--of", NodeWord(given.value("RemoteAddress"))]
    return Translation((tuple(words),), is_json=True)


def _generate(given: Given) -> Translation:
    words = ["new", given.value("Generate")]
    if given.value("ModuleName"):
        words += ["--module", given.value("ModuleName")]
    return Translation((tuple(words),))


def _plugin(given: Given) -> Translation:
    target = given.needed("ID", "on which container or group")
    return Translation((("plugin", "run", given.value("ExecutePlugin"), target),))


def _rust_program(_: Given) -> Translation:
    raise UsageOfP2prc(
        "`--crp` calls a program that is built into P2PRC to show that it can: there is none here"
    )


def _words(*words: str, is_json: bool = False) -> Callable[[Given], Translation]:
    return lambda _: Translation((words,), is_json=is_json)


def _with_value(flag: str, *words: str, is_json: bool = False) -> Callable[[Given], Translation]:
    return lambda given: Translation(((*words, given.value(flag)),), is_json=is_json)


def _with_node(flag: str, *words: str) -> Callable[[Given], Translation]:
    return lambda given: Translation(((*words, NodeWord(given.value(flag))),), is_json=True)


_ACTIONS: Mapping[str, _Action] = {
    "Server": _Action(_words("up")),
    "UpdateServerList": _Action(_words("nodes", "--refresh", is_json=True)),
    "ListServers": _Action(_words("nodes", is_json=True)),
    "AddServer": _Action(_add_server, frozenset({"Ports"})),
    "ViewImages": _Action(_with_node("ViewImages", "images")),
    "CreateVM": _Action(_touch, frozenset({"Ports", "GPU", "ContainerName", "BaseImage"})),
    "RemoveVM": _Action(_remove, frozenset({"ID"})),
    "Specification": _Action(_with_node("Specification", "specs")),
    "SetDefaultConfig": _Action(_words("config", "init")),
    "ViewConfig": _Action(_words("config", "show", is_json=True)),
    "NetworkInterfaces": _Action(_words("interfaces")),
    "ViewPlugins": _Action(_words("plugin", "list", is_json=True)),
    "TrackedContainers": _Action(_words("ps", is_json=True)),
    "ExecutePlugin": _Action(_plugin, frozenset({"ID"})),
    "PullPlugin": _Action(_with_value("PullPlugin", "plugin", "pull")),
    "RemovePlugin": _Action(_with_value("RemovePlugin", "plugin", "rm")),
    "CreateGroup": _Action(
        lambda given: Translation((("group", "create", given.new_name()),), is_json=True)
    ),
    "Group": _Action(_group, frozenset({"ID"})),
    "Groups": _Action(_words("group", "list", is_json=True)),
    "RemoveContainerGroup": _Action(_remove_from_group, frozenset({"Group", "ID"})),
    "RemoveGroup": _Action(_with_value("RemoveGroup", "group", "rm", is_json=True)),
    "MAPPort": _Action(_map_port, frozenset({"DomainName", "RemoteAddress", "UDP"})),
    "AddMetaData": _Action(
        lambda given: Translation((("metadata", f"{METADATA_KEY}={given.value('AddMetaData')}"),))
    ),
    "AddRootNode": _Action(_add_root_node, frozenset({"IPAddress", "Ports"})),
    "Generate": _Action(_generate, frozenset({"ModuleName"})),
    "CallRustProgram": _Action(_rust_program),
}


def address(host: str, port: str) -> str:
    """Return HOST:PORT, with an IPv6 address in brackets; raise `UsageOfP2prc`."""
    number = _number(port, limit=65535)
    host = host.removeprefix("[").removesuffix("]")
    return f"[{host}]:{number}" if ":" in host else f"{host}:{number}"


def _number(text: str, *, limit: int) -> str:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 0 < int(text) <= limit):
        raise UsageOfP2prc(f"`-p {text[:80]}` is no number from 1 to {limit}")
    return str(int(text))


def _is_bare_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
