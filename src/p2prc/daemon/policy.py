"""Who may have how much of this machine: from the owner's settings to the lease book, and back.

What an owner changes is in force before the answer, and in `config.toml` for the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from math import inf

from p2prc.errors import SettingInvalid
from p2prc.model.identity import NodeId
from p2prc.model.quantities import format_cpus, format_size
from p2prc.model.resources import Capacity
from p2prc.node.collector import OwnerRules
from p2prc.node.domain_door import DoorRules
from p2prc.node.domain_renewal import AcmeRules
from p2prc.node.machine import card_count
from p2prc.protocol.egress import BRIDGE, NONE, PROXY, EgressTerms
from p2prc.protocol.forwarding import ForwardRules
from p2prc.protocol.gateways import GatewayRules
from p2prc.protocol.leases import LeaseView
from p2prc.protocol.lending import UNBOUNDED, LendingPolicy
from p2prc.settings import CONFIG_FILE, SETTING_KEYS, Settings, check_setting, with_setting
from p2prc.storage.config_file import set_in_config
from p2prc.storage.home import Home
from p2prc.storage.host_access import HOST_ACCESS_FILE, read_host_access

log = logging.getLogger(__name__)

_RULES = ("lend.", "forward.", "gateway.", "transfer.")
POLICY_KEYS = tuple(key for key in SETTING_KEYS if key.startswith(_RULES))
_DENIED = "lend.deny"
_CARDS_LIMIT = 64
_LENDS_TO = "lend.to"
_OUTRANKING = ("environment", "command line")


def policy_of(settings: Settings, host_access: Iterable[NodeId] = ()) -> LendingPolicy:
    """Return what the owner's settings and the file `host-access` mean for the lease book."""
    lend = settings.lend
    lends_to: frozenset[NodeId] | None = None
    if lend.to == "none":
        lends_to = frozenset()
    elif isinstance(lend.to, tuple):
        lends_to = frozenset(lend.to)
    return LendingPolicy(
        lends_to=lends_to,
        denied=frozenset(lend.deny),
        trusted=frozenset(lend.tier_none_to),
        host_access=frozenset(host_access),
        lifetime_limit_s=inf if lend.lifetime_s is None else lend.lifetime_s,
        leases_limit=lend.leases,
        per_peer=Capacity(
            cpu_millis=_or_all(lend.per_peer_cpu_millis, UNBOUNDED.cpu_millis),
            memory_bytes=_or_all(lend.per_peer_memory_bytes, UNBOUNDED.memory_bytes),
            disk_bytes=_or_all(lend.per_peer_disk_bytes, UNBOUNDED.disk_bytes),
            gpus=UNBOUNDED.gpus,
        ),
        per_peer_leases=lend.per_peer_leases,
        requests_per_s=lend.requests_per_s,
        when_needed=lend.when_needed,
        networks=frozenset(lend.networks),
        egress=EgressTerms(
            ports=frozenset(lend.ports),
            total_bytes=lend.traffic_bytes,
            rate_bytes_s=lend.traffic_rate,
        ),
    )


def forward_rules_of(settings: Settings) -> ForwardRules:
    """Return which ports of this side others may reach."""
    named = settings.forward_to
    to: frozenset[NodeId] | None = None
    if named != "members":
        to = frozenset(named) if isinstance(named, tuple) else frozenset()
    ranges, services = settings.forward_ports
    return ForwardRules(ranges, services, to, frozenset(settings.lend.deny))


def gateway_rules_of(settings: Settings) -> GatewayRules:
    """Return to whom this node lends public ports."""
    gateway = settings.gateway
    to: frozenset[NodeId] | None = None
    if gateway.to != "members":
        to = frozenset(gateway.to) if isinstance(gateway.to, tuple) else frozenset()
    return GatewayRules(
        to=to,
        denied=frozenset(settings.lend.deny),
        ports=gateway.ports,
        per_peer_mappings=gateway.per_peer_ports,
        per_peer_connections=gateway.per_peer_connections,
        per_mapping_connections=gateway.connections,
        traffic_bytes=gateway.traffic_bytes,
        rate_bytes_s=gateway.rate_bytes_s,
        idle_s=gateway.idle_s,
        total_s=gateway.total_s,
        domains=gateway.domains,
    )


def door_rules_of(settings: Settings) -> DoorRules:
    """Return where this node takes what is asked of domains."""
    gateway = settings.gateway
    acme = AcmeRules(gateway.acme, gateway.acme_email) if gateway.acme else None
    return DoorRules(gateway.http, gateway.https, gateway.listen, gateway.certificates, acme)


def owner_rules_of(settings: Settings) -> OwnerRules:
    """Return when the owner needs the machine."""
    return OwnerRules(settings.lend.quiet_hours, settings.lend.only_while_away)


def images_from(settings: Settings) -> frozenset[NodeId] | None:
    """Return who may send images to this node; None is every member."""
    named = settings.lend.images_from
    if isinstance(named, tuple):
        return frozenset(named)
    return None if named == "members" else frozenset()


def lent_of(settings: Settings) -> Capacity:
    """Return what is lent over all leases together: nothing where nobody is lent to."""
    if not policy_of(settings).lends_at_all:
        return Capacity()
    return Capacity(
        cpu_millis=settings.lend.cpu_millis,
        memory_bytes=settings.lend.memory_bytes,
        disk_bytes=settings.lend.disk_bytes,
        gpus=min(card_count(), _CARDS_LIMIT),
    )


def used_of(leases: Sequence[LeaseView]) -> dict[str, str]:
    """Return how much of each ceiling is lent now; of a peer's, what the peer with most has."""
    by_peer = [
        _sum([view for view in leases if view.peer == peer])
        for peer in dict.fromkeys(view.peer for view in leases)
    ]
    most = [max(amounts) for amounts in zip(*by_peer, strict=True)] or [0, 0, 0, 0]
    found = {}
    for prefix, amounts in (("lend.", _sum(leases)), ("lend.per_peer.", most)):
        cpu_millis, memory_bytes, disk_bytes, count = amounts
        found[f"{prefix}cpus"] = format_cpus(cpu_millis)
        found[f"{prefix}memory"] = format_size(memory_bytes)
        found[f"{prefix}disk"] = format_size(disk_bytes)
        found[f"{prefix}leases"] = str(count)
    return found


def _sum(leases: Sequence[LeaseView]) -> tuple[int, int, int, int]:
    limits = [view.workload.limits for view in leases]
    return (
        sum(each.cpu_millis for each in limits),
        sum(each.memory_bytes for each in limits),
        sum(each.disk_bytes for each in limits),
        len(limits),
    )


class PolicyDesk:
    """The owner's rules while the node runs. `apply` puts changed ones into force.

    `host_access` are the nodes of the file `host-access`, `host_access_trouble` why it lets in
    nobody although it is there.
    """

    def __init__(
        self,
        settings: Settings,
        home: Home,
        *,
        apply: Callable[[Settings, Sequence[NodeId]], None],
    ) -> None:
        self.settings = settings
        self.host_access: tuple[NodeId, ...] = ()
        self.host_access_trouble = ""
        self._home = home
        self._apply = apply

    def look_at_host_access(self) -> None:
        """Read the file again; what changed is in force at once."""
        before, self.host_access_trouble = self.host_access, ""
        try:
            self.host_access = read_host_access(self._home.folder)
        except SettingInvalid as error:
            self.host_access, self.host_access_trouble = (), error.message
        if self.host_access != before:
            log.warning("host access changed", extra={"nodes": len(self.host_access)})
            self._apply(self.settings, self.host_access)

    def host_access_notices(self, name_of: Callable[[NodeId], str]) -> list[str]:
        """Say who has host access, for as long as anybody has."""
        found = [
            f"host access is on: {name_of(node) or node[:10]} runs what it likes here, "
            f"without a sandbox, as this node's user allows (`{HOST_ACCESS_FILE}` in the home)"
            for node in self.host_access
        ]
        if self.host_access_trouble:
            found.append(f"nobody has host access: {self.host_access_trouble}")
        return found

    def set(self, key: str, text: str) -> list[str]:
        """Change one rule; return what a person should know. Raises SettingInvalid."""
        if key not in POLICY_KEYS:
            if key in SETTING_KEYS:
                raise SettingInvalid(
                    f"`{key}` is no rule: it is read when the node starts",
                    hint=f"for the next start: `p2prc config set {key} VALUE`",
                )
            check_setting(key, text)
        return self._change({key: text})

    def allow(self, node: NodeId) -> list[str]:
        """Lend to this node: take it from who is denied, and name it where names are kept."""
        lend = self.settings.lend
        changes = {}
        if node in lend.deny:
            changes[_DENIED] = _listed(other for other in lend.deny if other != node)
        if lend.to != "members" and node not in lend.to:
            named = () if isinstance(lend.to, str) else lend.to
            changes[_LENDS_TO] = _listed((*named, node))
        return self._change(changes)

    def deny(self, node: NodeId) -> list[str]:
        """Lend this node nothing."""
        lend = self.settings.lend
        changes = {}
        if node not in lend.deny:
            changes[_DENIED] = _listed((*lend.deny, node))
        if isinstance(lend.to, tuple) and node in lend.to:
            changes[_LENDS_TO] = _listed(other for other in lend.to if other != node) or "none"
        return self._change(changes)

    def _change(self, changes: dict[str, str]) -> list[str]:
        notes = []
        for key, text in changes.items():
            check_setting(key, text)
            origin = self.settings.origins[key]
            if origin in _OUTRANKING:
                notes.append(
                    f"{key} was given by the {origin}: given so again, that counts at the next "
                    "start"
                )
            set_in_config(self._home.folder / CONFIG_FILE, key, text)
            self.settings = with_setting(self.settings, key, text, origin=CONFIG_FILE)
        if changes:
            self.look_at_host_access()
            self._apply(self.settings, self.host_access)
        return notes


def _or_all(given: int | None, every: int) -> int:
    return every if given is None else given


def _listed(nodes: Iterable[NodeId]) -> str:
    return ",".join(nodes)


def bridge_notices(trouble: str) -> list[str]:
    """Say why a network that the owner allows is not lent all the same."""
    if not trouble:
        return []
    return [f"the network `bridge` is allowed and cannot be lent: {trouble}"]


def networks_lent(policy: LendingPolicy) -> str:
    """Return the networks that leases can have here, with commas between; `none` for none."""
    lent = [PROXY] if PROXY in policy.networks else []
    if BRIDGE in policy.networks and not policy.bridge_trouble:
        lent.append(BRIDGE)
    return ",".join(lent) or NONE
