"""P2PRC's `config.json`: what of it means something here, and a sentence for what does not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from p2prc.errors import FileUnknown, SettingInvalid

CONFIG_OF_P2PRC = "config.json"
_SIZE_LIMIT_BYTES = 1 << 20
_OWN_KEY = "the node makes a key of its own (Ed25519)"
_KEPT = "the node keeps that itself, in its home"
_ROUTER = "found out by the node: `p2prc doctor`"


@dataclass(slots=True)
class Taken:
    """Settings of ours that came out of the file, and what a person should know of the rest."""

    settings: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def taken_over(path: Path) -> Taken:
    """Read the file; raise `FileUnknown`, `SettingInvalid` when it is no config of P2PRC's."""
    try:
        if path.stat().st_size > _SIZE_LIMIT_BYTES:
            raise SettingInvalid(f"{path} is no config.json of P2PRC's: it is too large")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileUnknown(f"there is no file {path}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise SettingInvalid(f"{path} is no config.json of P2PRC's: {error}") from error
    if not isinstance(content, dict):
        raise SettingInvalid(f"{path} is no config.json of P2PRC's: it is no JSON object")
    return settings_of(content)


def settings_of(content: Mapping[str, object]) -> Taken:
    """Return what the keys mean here. Pure. P2PRC reads keys in any case, and so does this."""
    taken = Taken()
    known = {key.lower(): key for key in MEANINGS}
    values = {known.get(key.lower(), key): _text(value) for key, value in content.items()}
    for key, value in values.items():
        if key not in MEANINGS:
            taken.notes.append(f"{key[:80]}: no setting of P2PRC's, and none of ours")
            continue
        meaning = MEANINGS[key]
        if isinstance(meaning, str):
            if value not in ("", "false", "null"):
                taken.notes.append(f"{key}: {meaning}")
            continue
        if value:
            _take(taken, key, meaning(value, values))
    return taken


def _take(taken: Taken, key: str, found: Mapping[str, str]) -> None:
    from p2prc.settings import check_setting  # noqa: PLC0415 - hardly anybody needs it

    for name, value in found.items():
        try:
            check_setting(name, value, origin=CONFIG_OF_P2PRC)
        except SettingInvalid as error:
            taken.notes.append(f"{key}: {error.message}")
        else:
            taken.settings[name] = value


def _name(value: str) -> str:
    """Return it without what a name of ours cannot have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", value).strip("._-")[:63]


def _public(value: str, values: Mapping[str, str]) -> dict[str, str]:
    return {"public": f"[{value.strip('[]')}]:{values.get('ServerPort') or '8088'}"}


def _text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    return "" if value is None else json.dumps(value)


_Meaning = str | Callable[[str, Mapping[str, str]], dict[str, str]]
MEANINGS: Mapping[str, _Meaning] = {
    "MachineName": lambda value, _: {"name": _name(value)},
    "ServerPort": lambda value, _: {"listen": f":{value}"},
    "IPV6Address": _public,
    "IPTable": "nodes are found by a ticket or an address: `p2prc join`",
    "DockerContainers": "images come from the engine: `p2prc images --help`",
    "DefaultDockerFile": "images come from the engine: `p2prc images --help`",
    "DockerRunLogs": "what a container printed: `p2prc logs LEASE`",
    "SpeedTestFile": "no file is needed: `p2prc ping NODE --bandwidth`",
    "PluginPath": "take each plugin over with `p2prc plugin pull PATH`",
    "TrackContainersPath": _KEPT,
    "GroupTrackContainersPath": _KEPT,
    "ProxyPort": "to give others public ports: `p2prc policy set gateway.to members`",
    "FRPServerPort": "there is no FRP: public ports are `p2prc policy set gateway.to members`",
    "BehindNAT": _ROUTER,
    "IPTableKey": "P2PRC does not use it either",
    "PublicKeyFile": _OWN_KEY,
    "PrivateKeyFile": _OWN_KEY,
    "PemFile": _OWN_KEY,
    "KeyFile": _OWN_KEY,
    "BareMetal": "work runs in sandboxes; work without one is for peers named in "
    "`lend.tier_none_to`",
    "UnsafeMode": "no key of a peer is let into this machine: lend it work, or `p2prc forward` ssh",
    "Test": "for tests on one machine: `p2prc up --listen 127.0.0.1:0`",
    "CustomConfig": "a program that embeds a node reads settings of its own",
    "ConfigPath": "the home is the folder: `--home`, P2PRC_HOME or P2PRC",
}
