"""The owner's rules as sentences: what a table of keys says, for who does not know the keys."""

from __future__ import annotations

from collections.abc import Iterable

from p2prc.api.schema import Setting
from p2prc.cli.render.text import plain

_NOBODY = ("none", "", "[]")
_ON_NEED = {
    "suspend": "running leases are suspended then",
    "end": "running leases end then",
    "continue": "running leases go on then",
}


def policy_words(rules: Iterable[Setting]) -> list[str]:
    """Return what the rules mean, a sentence each; nothing about rules that are not there."""
    value = {rule.key.removeprefix("lend."): plain(_text(rule.value)) for rule in rules}
    if not {"to", "cpus", "memory", "networks"} <= value.keys():
        return []
    if value["to"] in _NOBODY:
        return ["lends nothing to anybody"]
    whom = "every member" if value["to"] == "members" else _nodes(value["to"])
    denied = value.get("deny", "none")
    but = "" if denied in _NOBODY else f", but not {_nodes(denied)}"
    found = [
        f"lends to {whom}{but}",
        f"in all at most {_cores(value['cpus'])}, {_size(value['memory'])} of memory and "
        f"{_size(value.get('disk', 'none'))} of disk, in {value.get('leases', 'all')} leases",
    ]
    shares = {name: value.get(f"per_peer.{name}", "all") for name in ("cpus", "memory", "disk")}
    bounded = [
        _cores(share) if name == "cpus" else f"{_size(share)} of {name}"
        for name, share in shares.items()
        if share != "all"
    ]
    found.append(
        f"one peer: at most {', '.join(bounded)}" if bounded else "one peer may have it all"
    )
    found.append(_lifetime(value.get("lifetime", "none")))
    networks = [each for each in value["networks"].split(",") if each != "none"]
    if networks:
        cap = value.get("traffic", "none")
        most = "without a cap" if cap == "none" else f"at most {_size(cap)} each"
        found.append(f"network: none, or {' or '.join(networks)} for who asks, {most}")
    else:
        found.append("network: none, for anybody")
    found.append(f"images: {value.get('images', 'host')}")
    found += _when(value)
    keeps = value.get("after_restart", "keep") == "keep"
    found.append(f"containers {'go on' if keeps else 'end'} when the node is killed")
    return found


def _when(value: dict[str, str]) -> list[str]:
    quiet, away = value.get("quiet_hours", "none"), value.get("only_while_away", "off")
    found = []
    if quiet not in _NOBODY:
        found.append(f"nothing is lent in quiet hours: {quiet}")
    if away not in ("off", *_NOBODY):
        found.append(f"lends only while you are away: {away}")
    if found:
        found.append(_ON_NEED.get(value.get("when_needed", ""), ""))
    return [each for each in found if each] or ["lends at any time, whether you are there or not"]


def _lifetime(longest: str) -> str:
    return "a lease may last for ever" if longest == "none" else f"a lease lasts at most {longest}"


def _nodes(listed: str) -> str:
    return ", ".join(each[:10] for each in listed.split(","))


def _cores(text: str) -> str:
    count = text.removesuffix(".0")
    return "1 core" if count == "1" else f"{count} cores"


def _size(text: str) -> str:
    """Return a size as people read it; a number alone is bytes."""
    amount = int(text) if text.isascii() and text.isdigit() else 0
    if amount < 1 << 20:
        return text
    return f"{amount / (1 << 30):.3g} GiB" if amount >= 1 << 30 else f"{amount / (1 << 20):.3g} MiB"


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value))
    return "none" if value is None else str(value)
