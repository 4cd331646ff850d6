"""What `doctor` says: facts about a node in, findings with their fixes out.

The facts are gathered where sockets and disks are; what they mean is decided here, so that every
sentence can be tested without a broken network. A finding that is not `ok` always has an advice:
the next thing to type, or to change outside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from p2prc.model.tiers import UNSTOPPED

NatKind = Literal["unknown", "none", "cone", "symmetric", "blocked", "double", "carrier"]
"""How the router between us and the others treats our packets.

`cone`: everybody sees us under one address; `symmetric`: everyone under another one; `blocked`:
UDP does not get out; `double` and `carrier`: the router that answers us has itself no address that
the internet knows (a second router, or the provider's own translation).
"""

CLOCK_SKEW_LIMIT_S = 60.0
LOW_DISK_BYTES = 1 << 30
LOW_DISK_PART = 0.02


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do about it when it is not `ok`."""

    check: str
    is_ok: bool
    finding: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class RelayFacts:
    """One relay that we may use. `latency_s` is None where it did not answer, and `trouble` why.

    One that `is_refused` answers, and would not serve this node.
    """

    url: str
    is_home: bool = False
    is_member: bool = True
    latency_s: float | None = None
    is_refused: bool = False
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class ReachFacts:
    """How packets get in and out. `untried` are addresses of the internet, our own or mapped, that
    no peer has dialled yet. `mapping` is the method by which the router opened our port.
    """

    listening: tuple[str, ...] = ()
    relay_port: int | None = None
    relay_port_trouble: str = ""
    nat: NatKind = "unknown"
    is_public: bool = False
    external: tuple[str, ...] = ()
    untried: tuple[str, ...] = ()
    mapping: str = ""
    mapping_trouble: str = ""
    relay_setting: str = "auto"
    relays: tuple[RelayFacts, ...] = ()
    neighbours: int = 0
    neighbours_trouble: str = ""
    """How many nodes of our network were heard on the local network, or why none is looked for."""


_TROUBLES_SHOWN = 5
_STRAYS_SHOWN = 20


@dataclass(frozen=True, slots=True)
class MachineFacts:
    """The machine under the node. `tiers` are the runtimes' names with what they promise."""

    free_bytes: int = 0
    total_bytes: int = 0
    home: str = ""
    tiers: tuple[tuple[str, str], ...] = ()
    missing_packages: tuple[str, ...] = ()
    missing_for_blender: tuple[str, ...] = ()
    is_lending: bool = True
    is_paused: bool = False
    bridge: str = ""
    """Why the network `bridge` cannot be lent although it is allowed."""
    strays: tuple[str, ...] = ()
    """Containers of nodes whose home folder is gone."""
    engine: str = ""
    """Why the container engine of this machine is of no use."""
    domains: tuple[str, ...] = ()
    """What keeps this node from routing domains as its owner wants."""


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """The others, as we see them; `clock_skews_s` is what each one's clock is ahead of ours.

    `put_out_by` is the member that has put this node out of the network, or "". `unforeseen` counts
    the bugs that work for single peers has met.
    """

    alive: int = 0
    suspect: int = 0
    dead: int = 0
    linked: int = 0
    clock_skews_s: tuple[float, ...] = ()
    put_out_by: str = ""
    unforeseen: int = 0


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """One peer that was asked about. `path` is `direct`, `relayed`, or "" without a way."""

    name: str
    state: str
    path: str = ""
    latency_s: float | None = None
    trouble: str = ""
    addresses: int = 0
    relays: int = 0
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was looked at."""

    reach: ReachFacts
    machine: MachineFacts
    network: NetworkFacts
    peer: PeerFacts | None = None


def diagnose(facts: Facts) -> list[Finding]:
    """Return the findings, in the order in which one would look."""
    reach = facts.reach
    found = [_sockets(reach), _relay_port(reach), _way_in(reach), _nat(reach)]
    if not reach.is_public:
        found.append(_mapping(reach))
    found += _relays(reach)
    found += [_neighbours(reach), _members(facts.network), _clock(facts.network)]
    found += [_disk(facts.machine), _runtimes(facts.machine), _lending(facts.machine)]
    if facts.machine.is_lending and facts.machine.missing_for_blender:
        found.append(_rendering(facts.machine.missing_for_blender))
    if facts.machine.bridge:
        found.append(_bridge(facts.machine.bridge))
    if facts.machine.domains:
        found.append(_domains(facts.machine.domains))
    if facts.machine.strays:
        found.append(_strays(facts.machine.strays))
    if facts.network.unforeseen:
        found.append(_unforeseen(facts.network.unforeseen))
    if facts.peer is not None:
        found.append(_peer(facts.peer, reach))
    return found


def diagnose_machine(machine: MachineFacts) -> list[Finding]:
    """Return what can be said where no node runs."""
    found = [_disk(machine)]
    if machine.missing_packages or machine.engine:
        found.append(_runtimes(machine))
    if machine.strays:
        found.append(_strays(machine.strays))
    return found


# -- ways in and out ----------------------------------------------------------------------------


def _sockets(reach: ReachFacts) -> Finding:
    if reach.listening:
        return Finding("sockets", is_ok=True, finding=f"listens on {', '.join(reach.listening)}")
    return Finding(
        "sockets",
        is_ok=False,
        finding="the node listens nowhere",
        advice="start it again: `p2prc down`, then `p2prc up`; see `p2prc logs`",
    )


def _relay_port(reach: ReachFacts) -> Finding:
    if reach.relay_port is not None:
        return Finding("port", is_ok=True, finding=f"serves others on TCP port {reach.relay_port}")
    if not reach.relay_port_trouble:
        return Finding("port", is_ok=True, finding="serves no relay to others (relay.serve is off)")
    return Finding(
        "port",
        is_ok=False,
        finding=f"serves no relay to others: {reach.relay_port_trouble}",
        advice="free that TCP port, or choose another one: `p2prc up --listen :PORT`",
    )


def _way_in(reach: ReachFacts) -> Finding:
    """Answer what people come with: can others reach me."""
    if reach.is_public:
        shown = ", ".join(reach.external) or "its own address"
        return Finding("reachability", is_ok=True, finding=f"others reach this node at {shown}")
    if reach.untried:
        return Finding(
            "reachability",
            is_ok=True,
            finding=f"others should reach this node at {', '.join(reach.untried)};"
            " no peer has tried it yet",
        )
    home = [relay for relay in reach.relays if relay.is_home]
    if home:
        return Finding(
            "reachability",
            is_ok=True,
            finding=f"others reach this node through the relay {home[0].url}",
        )
    finding = "nobody outside this network can reach this node, and it has no relay"
    return Finding("reachability", is_ok=False, finding=finding, advice=_WAYS_IN)


_WAYS_IN = (
    "one of: switch on UPnP or NAT-PMP in the router; forward a port by hand, then `p2prc down` and"
    " `p2prc up --detach --public HOST:PORT`; name a relay, the same with `--relay URL` (any"
    " iroh-relay, or a p2prc node on a rented machine: `p2prc up --no-lend`); stay on this LAN:"
    " `p2prc invite --lan`"
)

_NATS: dict[NatKind, tuple[bool, str, str]] = {
    "unknown": (
        True,
        "not known: no peer outside sees us without a relay",
        "",
    ),
    "none": (True, "no router changes our address", ""),
    "cone": (True, "a router that keeps one port for us: direct paths can be punched", ""),
    "symmetric": (
        False,
        "a router that shows another port to everyone: paths to peers behind such routers too"
        " stay relayed",
        "switch on UPnP or NAT-PMP in the router, or forward the port and start with"
        " `p2prc down`, then `p2prc up --detach --public HOST:PORT`",
    ),
    "blocked": (
        False,
        "UDP does not get out: everything goes through a relay over TCP",
        "allow outgoing UDP in the firewall; until then only relayed paths work",
    ),
    "double": (
        False,
        "two routers in a row: the one that answers has a private address itself",
        "forward the port in the outer router too, or set the inner one to bridge mode",
    ),
    "carrier": (
        False,
        "the provider shares one address among customers (carrier NAT): nobody can forward a port",
        "use IPv6, ask the provider for an address of your own, or use a relay:"
        " `p2prc down`, then `p2prc up --detach --relay URL`",
    ),
}


def _nat(reach: ReachFacts) -> Finding:
    is_ok, finding, advice = _NATS[reach.nat]
    return Finding("nat", is_ok=is_ok or reach.is_public, finding=finding, advice=advice)


def _mapping(reach: ReachFacts) -> Finding:
    if reach.mapping:
        shown = ", ".join(reach.external) or "an address"
        return Finding(
            "port mapping", is_ok=True, finding=f"the router opened {shown} by {reach.mapping}"
        )
    # Without a mapping a node can be reached all the same: whether it is, another check tells.
    trouble = reach.mapping_trouble or "the router was not asked"
    return Finding("port mapping", is_ok=True, finding=f"no port opened by the router: {trouble}")


def _relays(reach: ReachFacts) -> list[Finding]:
    if reach.relay_setting == "none":
        return [Finding("relays", is_ok=True, finding="switched off (`relay` is `none`)")]
    if reach.relay_setting != "auto":
        return [_relay(relay) for relay in reach.relays]
    outside = [relay for relay in reach.relays if not relay.is_member and not relay.is_refused]
    silent = [relay for relay in outside if relay.latency_s is None]
    found = [_relay(relay) for relay in reach.relays if relay not in silent]
    return [*found, _silent(silent, is_all=silent == outside)] if silent else found


def _silent(silent: Sequence[RelayFacts], *, is_all: bool) -> Finding:
    """Say once which relays of others do not answer: nobody chose them one by one."""
    named = ", ".join(f"{each.url} ({each.trouble or 'no reason known'})" for each in silent)
    if not is_all:
        # One that answers is enough.
        return Finding("outside relays", is_ok=True, finding=f"some do not answer: {named}")
    return Finding(
        "outside relays",
        is_ok=False,
        finding=f"no outside relay answers: {named}",
        advice="if they stay away, name another one: `p2prc down`, then `p2prc up --detach"
        " --relay URL`; `--relay none` uses none",
    )


def _relay(relay: RelayFacts) -> Finding:
    whose = "a member's" if relay.is_member else "not a member's: it sees ids, addresses and volume"
    check = f"relay {relay.url}"
    if relay.is_refused:
        return Finding(
            check,
            is_ok=False,
            finding=f"does not serve this node: {relay.trouble}",
            advice="join that network by a ticket, or name another relay: `p2prc down`, then"
            " `p2prc up --detach --relay URL`",
        )
    if relay.latency_s is None:
        return Finding(
            check,
            is_ok=False,
            finding=f"does not answer: {relay.trouble or 'no reason known'}",
            advice="if it stays away, name another one: `p2prc down`, then `p2prc up --detach"
            " --relay URL`; `--relay none` uses none",
        )
    home = ", our home" if relay.is_home else ""
    return Finding(
        check, is_ok=True, finding=f"answers in {relay.latency_s * 1000:.0f} ms{home} ({whose})"
    )


# -- the others -------------------------------------------------------------------------------


def _neighbours(reach: ReachFacts) -> Finding:
    # Others find us by their tables, too: no reason to change anything.
    if reach.neighbours_trouble:
        finding = f"nobody is looked for there: {reach.neighbours_trouble}"
        return Finding("local network", is_ok=True, finding=finding)
    found = f"nodes of this network that are heard there: {reach.neighbours}"
    return Finding("local network", is_ok=True, finding=found)


def _unforeseen(count: int) -> Finding:
    return Finding(
        "errors",
        is_ok=False,
        finding=f"unforeseen errors in single pieces of work: {count}",
        advice="it is a bug of p2prc: report the tracebacks in the node's log, then start the"
        " node anew: `p2prc down`, `p2prc up --detach`",
    )


def _members(network: NetworkFacts) -> Finding:
    if network.put_out_by:
        return Finding(
            "network",
            is_ok=False,
            finding=f"put out of this network by {network.put_out_by}: nobody here answers",
            advice="ask who put it out; a network of its own: `p2prc leave`",
        )
    others = network.alive + network.suspect + network.dead
    if not others:
        return Finding(
            "network",
            is_ok=True,
            finding="this node is alone in its network",
            advice="invite somebody: `p2prc invite`; or enter a network: `p2prc join TICKET`",
        )
    told = f"{network.alive} alive, {network.suspect} suspect, {network.dead} dead"
    if network.linked:
        return Finding("network", is_ok=True, finding=f"{told}; linked with {network.linked}")
    return Finding(
        "network",
        is_ok=False,
        finding=f"linked with nobody ({told})",
        advice="see why for one of them: `p2prc doctor NODE`; where all have moved, ask a member"
        " for a new ticket: `p2prc join TICKET`",
    )


def _clock(network: NetworkFacts) -> Finding:
    if not network.clock_skews_s:
        return Finding("clock", is_ok=True, finding="nobody to compare it with")
    skew_s = _middle(network.clock_skews_s)
    size = _span(abs(skew_s))
    if abs(skew_s) <= CLOCK_SKEW_LIMIT_S:
        return Finding("clock", is_ok=True, finding=f"within {size} of the others'")
    side = "behind" if skew_s > 0 else "ahead of"
    harm = "tickets may seem expired, or last longer"
    if len(network.clock_skews_s) == 1:
        return Finding(
            "clock",
            is_ok=False,
            finding=f"{size} {side} the only other one that answers: {harm}",
            advice="see by `date` which is wrong, and set it there: `timedatectl set-ntp true`",
        )
    return Finding(
        "clock",
        is_ok=False,
        finding=f"{size} {side} most others: {harm}",
        advice="set it: `timedatectl set-ntp true`",
    )


def _middle(skews: tuple[float, ...]) -> float:
    """Return the median; of two middles the nearer: one wrong clock of two may be the other's."""
    ordered = sorted(skews)
    return min(ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2], key=abs)


def _span(seconds: float) -> str:
    for unit, size in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"


def _peer(peer: PeerFacts, reach: ReachFacts) -> Finding:
    check = f"path to {peer.name}"
    latency = "" if peer.latency_s is None else f", {peer.latency_s * 1000:.1f} ms"
    if peer.path == "direct":
        return Finding(check, is_ok=True, finding=f"direct{latency}")
    if peer.path == "relayed":
        why, advice = _why_relayed(peer, reach)
        return Finding(check, is_ok=True, finding=f"relayed{latency}: {why}", advice=advice)
    advice = "ask its owner to look: `p2prc doctor` there"
    if peer.state in ("left", "dead"):
        said = "it said that it leaves" if peer.state == "left" else "nobody hears it any more"
        return Finding(
            check,
            is_ok=False,
            finding=f"none: {said}",
            advice="start it there: `p2prc up --detach`",
        )
    if not peer.addresses and not peer.relays:
        finding = "none: it tells no address and no relay"
    else:
        finding = f"none: {peer.trouble or 'it does not answer'}"
    return Finding(check, is_ok=False, finding=finding, advice=advice)


def _why_relayed(peer: PeerFacts, reach: ReachFacts) -> tuple[str, str]:
    if reach.nat == "blocked":
        return "UDP does not get out here", _NATS["blocked"][2]
    if reach.nat == "symmetric" and not peer.is_public:
        return "the router here shows another port to everyone", _NATS["symmetric"][2]
    if not peer.is_public:
        return (
            "no hole could be punched through the routers between",
            "it may turn direct by itself; a port mapping on either side makes it so",
        )
    return "the direct path is not proved yet", ""


# -- the machine ------------------------------------------------------------------------------


def _disk(machine: MachineFacts) -> Finding:
    free_gib = machine.free_bytes / (1 << 30)
    finding = f"{free_gib:.1f} GiB free for {machine.home}"
    is_low = machine.free_bytes < max(LOW_DISK_BYTES, LOW_DISK_PART * machine.total_bytes)
    if not is_low:
        return Finding("disk", is_ok=True, finding=finding)
    return Finding(
        "disk",
        is_ok=False,
        finding=f"only {finding}",
        advice="make room there, or move the home: `p2prc --home DIR up`",
    )


def _runtimes(machine: MachineFacts) -> Finding:
    isolating = [f"{name} ({_promise(tier)})" for name, tier in machine.tiers if tier != "none"]
    if isolating:
        return Finding("runtimes", is_ok=True, finding=", ".join(isolating))
    if machine.engine and not machine.missing_packages:
        return Finding(
            "runtimes",
            is_ok=False,
            finding=f"the container engine is of no use: {machine.engine}",
            advice="lend by a sandbox instead: `p2prc down`, then `p2prc up --detach --runtime"
            " process`; a rootless engine has control groups when systemd starts it",
        )
    if machine.missing_packages:
        packages = " ".join(machine.missing_packages)
        return Finding(
            "runtimes",
            is_ok=False,
            finding=f"no sandbox: {packages} not installed",
            advice=f"install it: `sudo apt-get install {packages}`, then start the node again",
        )
    return Finding(
        "runtimes",
        is_ok=False,
        finding="no sandbox works here: others' work runs nowhere, or without isolation",
        advice="allow unprivileged user namespaces:"
        " `sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0`",
    )


def _bridge(trouble: str) -> Finding:
    return Finding(
        "bridge",
        is_ok=False,
        finding=f"the network `bridge` is allowed and cannot be lent: {trouble}",
        advice="see to that and start the node again, or lend without it:"
        " `p2prc policy set lend.networks none,proxy`",
    )


def _strays(containers: tuple[str, ...]) -> Finding:
    return Finding(
        "containers",
        is_ok=False,
        finding=f"{len(containers)} of nodes whose home folder is gone: nobody ends them",
        advice=f"`docker rm -f {' '.join(containers[:_STRAYS_SHOWN])}`",
    )


def _domains(troubles: tuple[str, ...]) -> Finding:
    return Finding(
        "domains",
        is_ok=False,
        finding="; ".join(troubles[:_TROUBLES_SHOWN]),
        advice="renew what is over; see `gateway.https`, `gateway.certificates`, `p2prc tunnels`",
    )


def _rendering(missing: tuple[str, ...]) -> Finding:
    """All is well without them: who renders here with Blender needs them all the same."""
    packages = " ".join(missing)
    return Finding(
        "rendering",
        is_ok=True,
        finding=f"Blender does not start in sandboxes here: {packages} not installed",
        advice=f"to render for others: `sudo apt-get install {packages}`",
    )


def _promise(tier: str) -> str:
    """Return a tier with what it may not stop."""
    gaps = sorted(UNSTOPPED.get(tier, ()))
    return f"{tier}, which may not stop {' and '.join(gaps)}" if gaps else tier


def _lending(machine: MachineFacts) -> Finding:
    if not machine.is_lending:
        return Finding("lending", is_ok=True, finding="nothing is lent (`lend.to` is `none`)")
    if machine.is_paused:
        return Finding(
            "lending",
            is_ok=True,
            finding="paused: nothing new is lent",
            advice="lend again: `p2prc resume`",
        )
    return Finding("lending", is_ok=True, finding="open, as `p2prc policy show` says")
