"""Names of hosts: how they are read, whom the gateway's owner grants them, and who has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from p2prc.errors import DomainTaken, InvalidInput, PolicyRefuses, SettingInvalid
from p2prc.model.identity import NodeId

NAME_LIMIT = 253
ENTRIES_LIMIT = 1000
MEMBERS, PROVED = "members", "proved"
PROOF_LABEL = "_p2prc"
_WILD = "*."
_EVERY = "*"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"(?:{_LABEL}\.)+(?!\d+$){_LABEL}", re.ASCII)
_HOST = re.compile(r"([A-Za-z0-9.-]{1,254})(?::([0-9]{0,5}))?", re.ASCII)
_NODE = re.compile(r"[0-9a-f]{64}", re.ASCII)
_HINT = "like `app.example.org`, or `*.example.org`"
_LAST_PORT = 65535


def read_domain(text: str) -> str:
    """Return a name that was typed, as it stands in requests: lower case, IDN in A-labels.

    Its first label may be `*`. IDN as UTS 46 and RFC 5891 have it. Raises InvalidInput.
    """
    typed = text.strip().removesuffix(".")
    wild = _WILD if typed.startswith(_WILD) else ""
    name = typed.removeprefix(wild)
    if not name.isascii():
        if len(name) > NAME_LIMIT:
            raise InvalidInput("a domain has at most 253 characters", hint=_HINT)
        import idna  # noqa: PLC0415 - large tables, for a node that has such a name

        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except (idna.IDNAError, UnicodeError) as error:
            raise InvalidInput(f"`{text[:80]}` is no domain: {error}", hint=_HINT) from error
    name = name.lower()
    if len(wild + name) > NAME_LIMIT or _NAME.fullmatch(name) is None:
        raise InvalidInput(f"`{text[:80]}` is no domain", hint=_HINT)
    return wild + name


def read_host(value: str) -> str | None:
    """Return the name that a Host header or a ClientHello asks for, without its port.

    None for what is no name: an address, an empty one, a broken port. The port itself says
    nothing: gateways stand behind other ports than their own.
    """
    found = _HOST.fullmatch(value)
    if found is None or (found[2] and int(found[2]) > _LAST_PORT):
        return None
    name = found[1].removesuffix(".").lower()
    if len(name) > NAME_LIMIT or _NAME.fullmatch(name) is None:
        return None
    return name


@dataclass(frozen=True, slots=True)
class DomainGrants:
    """The owner's word: which name may be had by a node, by `members`, or by who has `proved` it.

    `*.example.org` is every name below `example.org`, and not that one, `*` is every name. The
    longest that fits decides alone: a name can be taken out of what is granted above it.
    """

    granted: Mapping[str, str] = field(default_factory=dict)

    def to(self, domain: str) -> str:
        """Return who may have a name: a node, `members`, `proved`; "" for nobody."""
        return next((self.granted[each] for each in _above(domain) if each in self.granted), "")

    def allows(self, domain: str, peer: NodeId, *, has_proved: bool = False) -> bool:
        """Say whether the peer may have this name."""
        to = self.to(domain)
        return to in (MEMBERS, peer) or (to == PROVED and has_proved)


def proof_name(domain: str) -> str:
    """Return the name whose TXT record is the id of the node that may have the domain."""
    return f"{PROOF_LABEL}.{domain.removeprefix(_WILD)}"


def parse_domains(text: str) -> DomainGrants:
    """Read `app.example.org=NODE,*.example.org=members,*=proved`, or `none`.

    Raises SettingInvalid.
    """
    granted: dict[str, str] = {}
    entries = [part.strip() for part in text.split(",") if part.strip() not in ("", "none")]
    if len(entries) > ENTRIES_LIMIT:
        raise SettingInvalid(f"more than {ENTRIES_LIMIT} domains")
    for entry in entries:
        name, _, node = entry.partition("=")
        try:
            domain = _EVERY if name == _EVERY else read_domain(name)
        except InvalidInput as error:
            raise SettingInvalid(error.message, hint=error.hint) from error
        if node not in (MEMBERS, PROVED) and _NODE.fullmatch(node) is None:
            raise SettingInvalid(
                f"`{entry[:120]}` does not say whose the domain is",
                hint="`app.example.org=ID` with a whole id, `...=members`, or `...=proved`",
            )
        if domain in granted:
            raise SettingInvalid(f"`{domain}` is granted twice")
        granted[domain] = node
    return DomainGrants(granted)


Key = tuple[NodeId, str]
"""What names a mapping: its owner, and the owner's word for it."""


class DomainBook:
    """Who has which name now."""

    def __init__(self) -> None:
        self.grants = DomainGrants()
        self.proofs: set[tuple[str, NodeId]] = set()
        """Who has proved what, as it was last seen."""
        self._held: dict[str, Key] = {}

    def allows(self, domain: str, peer: NodeId) -> bool:
        """Say whether the peer may have a name."""
        return self.grants.allows(domain, peer, has_proved=(domain, peer) in self.proofs)

    def check(self, domain: str, key: Key) -> None:
        """Raise PolicyRefuses where its owner may not have the name, DomainTaken for a second."""
        if not self.allows(domain, key[0]):
            if self.grants.to(domain) == PROVED:
                raise PolicyRefuses(
                    f"nothing proves that `{domain}` is yours",
                    hint=f"a TXT record of `{proof_name(domain)}` with your node's id does",
                )
            raise PolicyRefuses(
                f"this node does not give you `{domain}`",
                hint="its owner grants it: `p2prc policy set gateway.domains DOMAIN=YOUR-ID`",
            )
        if self._held.get(domain, key) != key:
            raise DomainTaken(f"`{domain}` is somebody's already", hint="see `p2prc tunnels`")

    def hold(self, domain: str, key: Key) -> None:
        """Note that it is had, which was checked."""
        self._held[domain] = key

    def free(self, domain: str, key: Key) -> None:
        """Let others have it."""
        if self._held.get(domain) == key:
            del self._held[domain]

    def find(self, host: str) -> Key | None:
        """Return what answers for a host: its own name goes before `*` for its first label."""
        rest = host.partition(".")[2]
        return self._held.get(host) or self._held.get(_WILD + rest)


def _above(domain: str) -> list[str]:
    """Return the name itself and the wildcards that it falls under, the longest first."""
    found = [domain]
    rest = domain.removeprefix(_WILD) if domain.startswith(_WILD) else domain.partition(".")[2]
    while rest:
        if _WILD + rest not in found:
            found.append(_WILD + rest)
        rest = rest.partition(".")[2]
    return [*found, _EVERY]
