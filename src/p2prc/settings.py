"""Settings, read once into one frozen object, each value with where it came from.

Defaults give way to `config.toml` in the home, that to the environment (`lend.cpus` is
`P2PRC_LEND_CPUS`), that to the command line. No room reads any of these: each gets its values.
"""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from p2prc.errors import SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.model.quantities import parse_cpus, parse_duration, parse_size
from p2prc.model.quiet_hours import QuietSpan, parse_quiet_hours
from p2prc.protocol.domains import DomainGrants, parse_domains
from p2prc.protocol.forwarding import parse_forward_ports, parse_port_ranges
from p2prc.protocol.gateways import OWNER_CONNECTIONS_LIMIT
from p2prc.protocol.lending import END, WHEN_NEEDED
from p2prc.protocol.owner_needs import AwayRule

_SLOWEST_BYTES_PER_S = 64 << 10
DEFAULT_PORT = 8088
KEEP = "keep"
ENVIRONMENT_PREFIX = "P2PRC_"
CONFIG_FILE = "config.toml"
NETWORKS = ("none", "proxy", "bridge")
_TEXT_LIMIT = 10_000
_LAST_PORT = (1 << 16) - 1
_CACHE_LIMIT_BYTES = 20 << 30
_NODE = re.compile(r"[0-9a-f]{64}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/:@-]{0,199}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_HOST = re.compile(r"[A-Za-z0-9_.:-]{0,253}")
_RELAY = re.compile(r"https?://[^\s/]+(?:/\S*)?")
WARM_LIMIT = 16
_LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"


@dataclass(frozen=True, slots=True)
class Machine:
    """What this computer has: the defaults of lending are parts of it."""

    cpus: int
    memory_bytes: int
    free_disk_bytes: int
    name: str = "node"


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port; an empty host is every address of the machine, port 0 any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"{shown}:{self.port}"


@dataclass(frozen=True, slots=True)
class GatewaySettings:
    """Who gets public ports of this node, and how much of them.

    `to` as in `LendSettings`. `connections` are of one port, `traffic_bytes` of one peer and day;
    None is no bound. `host` is what people are told, None what the node knows of itself; `listen`
    None is every address of this machine.
    """

    to: str | tuple[NodeId, ...]
    ports: tuple[tuple[int, int], ...]
    host: str | None
    listen: str | None
    connections: int
    per_peer_ports: int
    per_peer_connections: int
    traffic_bytes: int | None
    rate_bytes_s: int | None
    idle_s: float
    total_s: float | None
    http: tuple[int, ...]
    https: tuple[int, ...]
    """Ports where domains are routed."""
    domains: DomainGrants
    certificates: Path | None
    acme: str
    """The address of an authority's directory; "" for none."""
    acme_email: str


@dataclass(frozen=True, slots=True)
class LendSettings:
    """What is lent to whom, over all leases together.

    `to` is `members`, `none`, or the nodes; `deny` get nothing in any case. `tier_none_to` are
    those whose work may run without isolation. `lifetime_s` bounds one lease; None is no bound.
    `leases` bounds their number; `per_peer_...` bound what one peer holds, None being all.
    `networks` are those that leases may have. `quiet_hours` and `only_while_away` say when the
    owner needs the machine, `when_needed` what becomes of leases then.
    `ports` are what a lease's proxy goes to, `traffic_bytes` and `traffic_rate` (bytes a second)
    bound what it moves for one lease; None is no bound.
    `images` are those that containers may be made of; `*` among them is any that is here.
    `images_from` are those who may send images: `members`, `none`, or the nodes.
    `after_restart` is what becomes of containers that ran when the node died: `keep` or `end`.
    """

    to: str | tuple[NodeId, ...]
    deny: tuple[NodeId, ...]
    tier_none_to: tuple[NodeId, ...]
    cpu_millis: int
    memory_bytes: int
    disk_bytes: int
    lifetime_s: float | None
    images: tuple[str, ...]
    networks: tuple[str, ...]
    leases: int
    per_peer_cpu_millis: int | None
    per_peer_memory_bytes: int | None
    per_peer_disk_bytes: int | None
    per_peer_leases: int
    requests_per_s: int
    quiet_hours: tuple[QuietSpan, ...]
    only_while_away: AwayRule
    when_needed: str
    images_from: str | tuple[NodeId, ...]
    warm: int
    """Containers that run before anybody wants them."""
    ports: tuple[int, ...]
    traffic_bytes: int | None
    traffic_rate: int | None
    after_restart: str


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that can be set. `origins` tells for each key: default, file, variable, option."""

    name: str
    listen: Address
    public: Address | None
    relay: str
    relay_public: tuple[str, ...]
    """Strangers' relays that `auto` may use; none named: those of iroh's makers."""
    relay_serve: str
    port_mapping: str
    discovery_lan: str
    runtime: str
    lend: LendSettings
    forward_to: str | tuple[NodeId, ...]
    forward_ports: tuple[tuple[tuple[int, int], ...], dict[str, tuple[str, int]]]
    gateway: GatewaySettings
    """Ranges of ports on this machine, and named addresses, that other nodes may reach."""
    api_listen: Address | None
    """Where the control API is on TCP too; None is nowhere."""
    cache_bytes: int
    transfer_up: int | None
    transfer_down: int | None
    """Bytes a second for files, all peers together; None is no bound."""
    values: Mapping[str, str] = field(repr=False)
    origins: Mapping[str, str] = field(repr=False)


def home_folder(option: str | None, environment: Mapping[str, str]) -> Path:
    """Return the home: the option, else `P2PRC_HOME`, else P2PRC's own `P2PRC`, else ~/.p2prc."""
    named = option or environment.get("P2PRC_HOME") or environment.get("P2PRC") or "~/.p2prc"
    return Path(named).expanduser().absolute()


def read_settings(
    home: Path,
    *,
    environment: Mapping[str, str],
    overrides: Mapping[str, str],
    machine: Machine,
) -> Settings:
    """Return the settings; raise `SettingInvalid` naming the key and where its value came from."""
    texts = dict.fromkeys(_KEYS, "")
    origins = dict.fromkeys(_KEYS, "default")
    texts |= _defaults(machine)
    for origin, found in (
        (CONFIG_FILE, _from_file(home / CONFIG_FILE)),
        ("environment", _from_environment(environment)),
        ("command line", overrides),
    ):
        for key, text in found.items():
            check_setting(key, text, origin=origin)
            texts[key], origins[key] = text, origin
    return _settings(texts, origins)


def with_setting(settings: Settings, key: str, text: str, *, origin: str) -> Settings:
    """Return the settings with one of them changed. Raises SettingInvalid."""
    check_setting(key, text, origin=origin)
    return _settings({**settings.values, key: text}, {**settings.origins, key: origin})


def check_setting(key: str, text: str, *, origin: str = "command line") -> None:
    """Raise `SettingInvalid` unless there is such a key and the value fits it."""
    if key not in _KEYS:
        close = difflib.get_close_matches(key, _KEYS, n=1)
        raise SettingInvalid(
            f"there is no setting `{key[:80]}` ({origin})",
            hint=f"did you mean `{close[0]}`?" if close else f"there are: {', '.join(_KEYS)}",
        )
    try:
        _KEYS[key](text)
    except SettingInvalid as error:
        raise SettingInvalid(f"{key} ({origin}): {error.message}", hint=error.hint) from error


def this_machine(home: Path) -> Machine:
    """Look at what this process may use: a container may see less than its machine has."""
    nearest = home
    while not nearest.exists():
        nearest = nearest.parent
    return Machine(
        cpus=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else _cpus(),
        memory_bytes=_memory_bytes(),
        free_disk_bytes=shutil.disk_usage(nearest).free,
        name=_usable_name(os.uname().nodename if hasattr(os, "uname") else "node"),
    )


# -- values -----------------------------------------------------------------------------------


def _name(text: str) -> str:
    if _NAME.fullmatch(text) is None:
        raise SettingInvalid(
            f"`{text[:80]}` is not a name", hint="letters, digits, `.`, `_` and `-`, at most 63"
        )
    return text


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    is_port = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    if not is_port or _HOST.fullmatch(host) is None:
        raise SettingInvalid(f"`{text[:80]}` is not HOST:PORT", hint="write it like `0.0.0.0:8088`")
    return Address(host, int(port))


def _public(text: str) -> Address | None:
    if not text:
        return None
    has_port = text.rpartition(":")[2].isdigit() and (text.count(":") == 1 or "]:" in text)
    if has_port:
        address = _address(text)
    elif ":" in text:
        address = _address(f"[{text.strip('[]')}]:{DEFAULT_PORT}")
    else:
        address = _address(f"{text}:{DEFAULT_PORT}")
    if not address.host or not address.port:
        raise SettingInvalid(f"`{text[:80]}` names no address", hint="HOST or HOST:PORT")
    return address


def _api_listen(text: str) -> Address | None:
    if text == "off":
        return None
    return _address(text if ":" in text else f"127.0.0.1:{text}")


def _relay(text: str) -> str:
    if text not in ("auto", "none") and _RELAY.fullmatch(text) is None:
        raise SettingInvalid(f"`{text[:80]}` is not a relay", hint="`auto`, `none` or a URL")
    return text


def _relays(text: str) -> tuple[str, ...]:
    urls = [url for part in text.split(",") if (url := part.strip())]
    for url in urls:
        if _RELAY.fullmatch(url) is None:
            raise SettingInvalid(f"`{url[:80]}` is not a relay", hint="URLs, with commas between")
    return tuple(dict.fromkeys(urls))


def _auto_or_off(text: str) -> str:
    if text not in ("auto", "off"):
        raise SettingInvalid(f"`{text[:80]}` is neither `auto` nor `off`", hint="`auto` or `off`")
    return text


def _on_or_off(text: str) -> str:
    if text not in ("on", "off"):
        raise SettingInvalid(f"`{text[:80]}` is neither `on` nor `off`", hint="`on` or `off`")
    return text


def _runtime(text: str) -> str:
    if text not in ("auto", "docker", "process"):
        raise SettingInvalid(f"`{text[:80]}` is no runtime", hint="`auto`, `docker` or `process`")
    return text


def _parts(text: str) -> list[str]:
    """Return what stands between commas; `none`, as an empty list is shown, is nothing."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    return [] if parts == ["none"] else parts


def _nodes(text: str) -> tuple[NodeId, ...]:
    found = _parts(text)
    for node in found:
        if _NODE.fullmatch(node) is None:
            raise SettingInvalid(
                f"`{node[:80]}` is not a node's id", hint="the whole id: `p2prc nodes --json`"
            )
    return tuple(NodeId(node) for node in dict.fromkeys(found))


def _lend_to(text: str) -> str | tuple[NodeId, ...]:
    return text if text in ("members", "none") else _nodes(text) or "none"


def _images(text: str) -> tuple[str, ...]:
    found = _parts(text)
    for image in found:
        if image != "*" and _IMAGE.fullmatch(image) is None:
            raise SettingInvalid(
                f"`{image[:80]}` is not an image's name", hint="like `python:3.12`, or `*` for all"
            )
    return tuple(dict.fromkeys(found))


def _networks(text: str) -> tuple[str, ...]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    for network in found:
        if network not in NETWORKS:
            raise SettingInvalid(
                f"`{network[:80]}` is no network",
                hint=f"{', '.join(f'`{each}`' for each in NETWORKS)}, with commas between",
            )
    # Having no network is always allowed.
    return tuple(each for each in NETWORKS if each in found or each == "none")


def _warm(text: str) -> int:
    if (count := _count(text)) > WARM_LIMIT:
        raise SettingInvalid(f"`{text[:80]}` is more than {WARM_LIMIT} containers")
    return count


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        raise SettingInvalid(f"`{text[:80]}` is no count", hint="a whole number, like `8`")
    return int(text)


def _rate(text: str) -> int:
    if not 1 <= (rate := _count(text)) <= 1000:
        raise SettingInvalid(f"{rate} a second is no rate", hint="from 1 to 1000")
    return rate


def _unless(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    return lambda text: None if text == "all" else parse(text)


def _away(text: str) -> AwayRule:
    rule = AwayRule()
    for part in text.split(","):
        kind, _, value = part.strip().partition(":")
        if kind == "load" and re.fullmatch(r"\d{1,3}(\.\d{1,3})?", value, re.ASCII):
            rule = replace(rule, load_limit=float(value))
        elif kind == "idle" and (idle_s := parse_duration(value)) is not None:
            rule = replace(rule, idle_s=idle_s)
        elif part.strip() not in ("", "off"):
            raise SettingInvalid(
                f"`{part.strip()[:80]}` does not say when you are away",
                hint="`load:0.5` (cores that others keep busy), `idle:10m` (without input), `off`",
            )
    return rule


def _when_needed(text: str) -> str:
    if text not in WHEN_NEEDED:
        raise SettingInvalid(
            f"`{text[:80]}` does not say what becomes of leases",
            hint=", ".join(f"`{each}`" for each in WHEN_NEEDED),
        )
    return text


def _after_restart(text: str) -> str:
    if text not in (KEEP, END):
        raise SettingInvalid(
            f"`{text[:80]}` does not say what becomes of containers after a restart",
            hint=f"`{KEEP}`, `{END}`",
        )
    return text


def _ports(text: str) -> tuple[int, ...]:
    found = [part.strip() for part in text.split(",") if part.strip()]
    if not found or not all(re.fullmatch(r"[1-9][0-9]{0,4}", part) for part in found):
        raise SettingInvalid(f"`{text[:80]}` are not ports", hint="like `80,443`")
    if any(int(part) > _LAST_PORT for part in found):
        raise SettingInvalid(f"a port is at most {_LAST_PORT}", hint="like `80,443`")
    return tuple(dict.fromkeys(int(part) for part in found))


def _acme(text: str) -> str:
    if text in ("", "none"):
        return ""
    if text == "letsencrypt":
        return _LETS_ENCRYPT
    if re.fullmatch(r"https://[^\s/]+/\S*", text) is None:
        raise SettingInvalid(
            f"`{text[:80]}` is no authority", hint="`letsencrypt`, the https address of one, `none`"
        )
    return text


def _email(text: str) -> str:
    if text in ("", "none"):
        return ""
    if re.fullmatch(r"[^\s@<>]{1,64}@[^\s@<>]{1,190}", text) is None:
        raise SettingInvalid(f"`{text[:80]}` is no address for letters", hint="or `none`")
    return text


def _folder_or_none(text: str) -> Path | None:
    if text.strip() in ("", "none"):
        return None
    folder = Path(text.strip())
    if not folder.is_absolute():
        raise SettingInvalid(f"`{text[:80]}` is no absolute path", hint="a folder, or `none`")
    return folder


def _ports_or_none(text: str) -> tuple[int, ...]:
    return () if text.strip() in ("", "none") else _ports(text)


def _streams(text: str) -> int:
    if (count := _count(text)) > OWNER_CONNECTIONS_LIMIT:
        raise SettingInvalid(
            f"a link between two nodes carries {OWNER_CONNECTIONS_LIMIT} connections at most",
            hint=f"up to `{OWNER_CONNECTIONS_LIMIT}`",
        )
    return count


def _host_or_none(text: str) -> str | None:
    if text == "none":
        return None
    if re.fullmatch(r"[A-Za-z0-9._:-]{1,253}", text, re.ASCII) is None:
        raise SettingInvalid(
            f"`{text[:80]}` is no host", hint="a name or an address, like `gate.example.org`"
        )
    return text


def _listen_all(text: str) -> str | None:
    return None if text == "all" else _host_or_none(text)


def _seconds(text: str) -> float:
    found = parse_duration(text)
    if found is None:
        raise SettingInvalid("connections on which nothing moves must end", hint="like `1h`")
    return found


def _size_or_none(text: str) -> int | None:
    return None if text == "none" else parse_size(text)


def _speed(text: str) -> int | None:
    speed = _size_or_none(text)
    if speed is not None and speed < _SLOWEST_BYTES_PER_S:
        raise SettingInvalid(
            f"{speed} bytes a second: peers would hold such a node for lost",
            hint="say at least `64K`, or `none`",
        )
    return speed


_KEYS: Mapping[str, Callable[[str], Any]] = {
    "name": _name,
    "listen": _address,
    "public": _public,
    "relay": _relay,
    "relay.public": _relays,
    "relay.serve": _auto_or_off,
    "port_mapping": _auto_or_off,
    "discovery.lan": _on_or_off,
    "runtime": _runtime,
    "lend.to": _lend_to,
    "lend.deny": _nodes,
    "lend.tier_none_to": _nodes,
    "lend.cpus": parse_cpus,
    "lend.memory": parse_size,
    "lend.disk": parse_size,
    "lend.lifetime": parse_duration,
    "lend.images": _images,
    "lend.networks": _networks,
    "lend.leases": _count,
    "lend.per_peer.cpus": _unless(parse_cpus),
    "lend.per_peer.memory": _unless(parse_size),
    "lend.per_peer.disk": _unless(parse_size),
    "lend.per_peer.leases": _count,
    "lend.per_peer.requests": _rate,
    "lend.quiet_hours": parse_quiet_hours,
    "lend.only_while_away": _away,
    "lend.when_needed": _when_needed,
    "lend.images_from": _lend_to,
    "lend.warm": _warm,
    "lend.ports": _ports,
    "lend.traffic": _size_or_none,
    "lend.traffic_rate": _size_or_none,
    "lend.after_restart": _after_restart,
    "forward.to": _lend_to,
    "forward.ports": parse_forward_ports,
    "gateway.to": _lend_to,
    "gateway.ports": parse_port_ranges,
    "gateway.host": _host_or_none,
    "gateway.listen": _listen_all,
    "gateway.connections": _count,
    "gateway.per_peer.ports": _count,
    "gateway.per_peer.connections": _streams,
    "gateway.traffic": _size_or_none,
    "gateway.rate": _speed,
    "gateway.idle": _seconds,
    "gateway.total": parse_duration,
    "gateway.http": _ports_or_none,
    "gateway.https": _ports_or_none,
    "gateway.domains": parse_domains,
    "gateway.certificates": _folder_or_none,
    "gateway.acme": _acme,
    "gateway.acme_email": _email,
    "api.listen": _api_listen,
    "cache.bytes": parse_size,
    "transfer.up": _speed,
    "transfer.down": _speed,
}
SETTING_KEYS = tuple(_KEYS)


def _settings(texts: Mapping[str, str], origins: Mapping[str, str]) -> Settings:
    value = {key: _KEYS[key](text) for key, text in texts.items()}
    lend = LendSettings(
        to=value["lend.to"],
        deny=value["lend.deny"],
        tier_none_to=value["lend.tier_none_to"],
        cpu_millis=value["lend.cpus"],
        memory_bytes=value["lend.memory"],
        disk_bytes=value["lend.disk"],
        lifetime_s=value["lend.lifetime"],
        images=value["lend.images"],
        networks=value["lend.networks"],
        leases=value["lend.leases"],
        per_peer_cpu_millis=value["lend.per_peer.cpus"],
        per_peer_memory_bytes=value["lend.per_peer.memory"],
        per_peer_disk_bytes=value["lend.per_peer.disk"],
        per_peer_leases=value["lend.per_peer.leases"],
        requests_per_s=value["lend.per_peer.requests"],
        quiet_hours=value["lend.quiet_hours"],
        only_while_away=value["lend.only_while_away"],
        when_needed=value["lend.when_needed"],
        images_from=value["lend.images_from"],
        warm=value["lend.warm"],
        ports=value["lend.ports"],
        traffic_bytes=value["lend.traffic"],
        traffic_rate=value["lend.traffic_rate"],
        after_restart=value["lend.after_restart"],
    )
    return Settings(
        name=value["name"],
        listen=value["listen"],
        public=value["public"],
        relay=value["relay"],
        relay_public=value["relay.public"],
        relay_serve=value["relay.serve"],
        port_mapping=value["port_mapping"],
        discovery_lan=value["discovery.lan"],
        runtime=value["runtime"],
        lend=lend,
        forward_to=value["forward.to"],
        forward_ports=value["forward.ports"],
        gateway=GatewaySettings(
            to=value["gateway.to"],
            ports=value["gateway.ports"],
            host=value["gateway.host"],
            listen=value["gateway.listen"],
            connections=value["gateway.connections"],
            per_peer_ports=value["gateway.per_peer.ports"],
            per_peer_connections=value["gateway.per_peer.connections"],
            traffic_bytes=value["gateway.traffic"],
            rate_bytes_s=value["gateway.rate"],
            idle_s=value["gateway.idle"],
            total_s=value["gateway.total"],
            http=value["gateway.http"],
            https=value["gateway.https"],
            domains=value["gateway.domains"],
            certificates=value["gateway.certificates"],
            acme=value["gateway.acme"],
            acme_email=value["gateway.acme_email"],
        ),
        api_listen=value["api.listen"],
        cache_bytes=value["cache.bytes"],
        transfer_up=value["transfer.up"],
        transfer_down=value["transfer.down"],
        values=texts,
        origins=origins,
    )


# -- where they come from ---------------------------------------------------------------------


def _defaults(machine: Machine) -> dict[str, str]:
    tenth_of_disk = machine.free_disk_bytes // 10
    return {
        "name": machine.name,
        "listen": f":{DEFAULT_PORT}",
        "relay": "auto",
        "relay.serve": "auto",
        "port_mapping": "auto",
        "discovery.lan": "on",
        "runtime": "auto",
        "lend.to": "members",
        "lend.cpus": str(max(1, machine.cpus - 1)),
        "lend.memory": str(machine.memory_bytes // 2),
        "lend.disk": str(tenth_of_disk),
        "lend.lifetime": "24h",
        "lend.images": "host",
        "lend.networks": "none",
        "lend.leases": "256",
        "lend.per_peer.cpus": "all",
        "lend.per_peer.memory": "all",
        "lend.per_peer.disk": "all",
        "lend.per_peer.leases": "256",
        "lend.per_peer.requests": "50",
        "lend.only_while_away": "off",
        "lend.when_needed": "suspend",
        "lend.images_from": "none",
        "lend.warm": "0",
        "lend.ports": "80,443",
        "lend.traffic": "10G",
        "lend.traffic_rate": "none",
        "lend.after_restart": KEEP,
        "forward.to": "members",
        "forward.ports": "none",
        "gateway.to": "none",
        "gateway.ports": "20000-29999",
        "gateway.host": "none",
        "gateway.listen": "all",
        "gateway.connections": "256",
        "gateway.per_peer.ports": "10",
        "gateway.per_peer.connections": "256",
        "gateway.traffic": "10G",
        "gateway.rate": "none",
        "gateway.idle": "1h",
        "gateway.total": "none",
        "gateway.http": "none",
        "gateway.https": "none",
        "gateway.domains": "none",
        "gateway.certificates": "none",
        "gateway.acme": "none",
        "gateway.acme_email": "none",
        "api.listen": "off",
        "cache.bytes": str(min(tenth_of_disk, _CACHE_LIMIT_BYTES)),
        "transfer.up": "none",
        "transfer.down": "none",
    }


def _from_file(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as source:
            content = tomllib.load(source)
    except FileNotFoundError:
        return {}
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingInvalid(f"cannot read `{path}`: {error}") from error
    return _flat(content)


def settings_in(text: str) -> dict[str, str]:
    """Return what a `config.toml` says, unchecked. Raises SettingInvalid."""
    try:
        return _flat(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise SettingInvalid(f"`{CONFIG_FILE}` cannot be read: {error}") from error


def _flat(table: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for key, value in table.items():
        match value:
            case dict():
                found |= _flat(value, f"{prefix}{key}.")
            case list():
                found[prefix + key] = ",".join(str(one) for one in value)
            case str() | int() | float() if not isinstance(value, bool):
                found[prefix + key] = str(value)
            case _:
                raise SettingInvalid(
                    f"{prefix}{key} ({CONFIG_FILE}): not a text, a number or a list of texts"
                )
    return found


def _from_environment(environment: Mapping[str, str]) -> dict[str, str]:
    names = {ENVIRONMENT_PREFIX + key.upper().replace(".", "_"): key for key in _KEYS}
    return {
        key: environment[name][:_TEXT_LIMIT] for name, key in names.items() if name in environment
    }


def _cpus() -> int:
    return os.cpu_count() or 1


def _memory_bytes() -> int:
    """Return physical memory, or the limit of the control group where that is less."""
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
    except OSError:
        return physical
    return min(physical, int(limit)) if limit.isdigit() else physical


def _usable_name(hostname: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9._-]", "-", hostname.split(".", maxsplit=1)[0]).lstrip("._-")[:63]
    return cleaned or "node"
