"""What an owner lends, to whom, and how a refusal says so.

The policy is a plain value; the functions below compare a request with it and answer with a
refusal that names the greatest amount that would have been accepted.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from p2prc.model.identity import JobId, NodeId
from p2prc.model.quantities import format_duration
from p2prc.model.resources import GIBIBYTE, MEBIBYTE, Capacity, Limits, RuntimeOffer
from p2prc.model.workload import Workload
from p2prc.protocol.egress import BRIDGE, NETWORKS, NONE, OPEN_TIERS, EgressTerms

NO_ISOLATION = "none"
"""The tier that isolates nothing: for nodes that the owner names, and nobody else."""
IMAGELESS_RUNTIME = "process"
SMALLEST_CPU_MILLIS = 10
_SENTENCE_LIMIT = 500
SMALLEST_MEMORY_BYTES = 4 * MEBIBYTE


UNBOUNDED = Capacity(cpu_millis=1_000_000, memory_bytes=1 << 60, disk_bytes=1 << 60, gpus=64)
CONTINUE, SUSPEND, END = "continue", "suspend", "end"
WHEN_NEEDED = (CONTINUE, SUSPEND, END)


@dataclass(frozen=True, slots=True)
class LendingPolicy:
    """The owner's rules. `lends_to` None means every member, an empty set nobody; `denied`
    get nothing in any case.

    `trusted` are the nodes that may run without isolation where there is none to be had,
    `host_access` those that may ask for it in any case. `absence_s` and `job_absence_s` bound
    how long a requester may be away before its lease ends. `networks` are those that may be asked
    for, and `egress` what their traffic is bounded to; `bridge_trouble` is why the network `bridge`
    cannot be lent although it is allowed. `patience_s` bounds how long a request
    waits for sandboxes that are just ending.

    `per_peer` bounds what one peer holds together, `requests_per_s` how often it asks for leases.
    `when_needed` is what becomes of leases while the owner needs the machine: `continue`,
    `suspend` or `end`.
    """

    lends_to: frozenset[NodeId] | None = None
    denied: frozenset[NodeId] = frozenset()
    trusted: frozenset[NodeId] = frozenset()
    host_access: frozenset[NodeId] = frozenset()
    lifetime_limit_s: float = 7 * 86400.0
    processes_limit: int = 10_000
    leases_limit: int = 256
    per_peer: Capacity = UNBOUNDED
    per_peer_leases: int = 256
    requests_per_s: float = 50.0
    when_needed: str = SUSPEND
    absence_s: float = 60.0
    job_absence_s: float = 15 * 60.0
    patience_s: float = 5.0
    networks: frozenset[str] = frozenset({NONE})
    bridge_trouble: str = ""
    egress: EgressTerms = field(default_factory=EgressTerms)

    @property
    def lends_at_all(self) -> bool:
        """Whether there is anybody that could be lent to."""
        return self.lends_to is None or bool(self.lends_to - self.denied)

    def lends_to_peer(self, peer: NodeId) -> bool:
        """Whether the owner lends anything to this peer."""
        return peer not in self.denied and (self.lends_to is None or peer in self.lends_to)

    def absence_of(self, job: JobId | None) -> float:
        """Return how long the requester of such a lease may be away."""
        return self.absence_s if job is None else self.job_absence_s


@dataclass(frozen=True, slots=True)
class Refusal:
    """No, and why: an error's code, its sentence and its hint."""

    code: str
    message: str
    hint: str = ""


def size_text(size_bytes: int) -> str:
    """Return a size as people write it: `11 GiB`, `512 MiB`."""
    if size_bytes >= GIBIBYTE:
        return f"{size_bytes / GIBIBYTE:.3g} GiB"
    return f"{size_bytes / MEBIBYTE:.3g} MiB"


def cores_text(cpu_millis: int) -> str:
    """Return an amount of processor as people say it: `1 core`, `1.5 cores`."""
    return "1 core" if cpu_millis == 1000 else f"{cpu_millis / 1000:g} cores"


def refusal_of(
    policy: LendingPolicy, capacity: Capacity, peer: NodeId, workload: Workload
) -> Refusal | None:
    """Say why this would never be lent to this peer, however free the machine is."""
    if not policy.lends_to_peer(peer):
        if not policy.lends_at_all:
            return Refusal("policy-refuses", "this node lends nothing")
        return Refusal("policy-refuses", "the owner of this node does not lend to you")
    if workload.network not in policy.networks | {NONE}:
        return _network_refused(workload.network, policy.networks)
    if workload.network == BRIDGE and policy.bridge_trouble:
        message = f"this node cannot lend the network `bridge`: {policy.bridge_trouble}"
        return Refusal("policy-refuses", message[:_SENTENCE_LIMIT])
    limits = workload.limits
    if limits.lasts_s > policy.lifetime_limit_s:
        return _too_long(policy.lifetime_limit_s)
    excess = _too_small(limits) or _excess(policy, capacity, limits) or _share(policy, limits)
    return Refusal("policy-refuses", excess) if excess else None


def _network_refused(network: str, lent: frozenset[str]) -> Refusal:
    wanted = ",".join(each for each in NETWORKS if each in {NONE, network, *lent})
    return Refusal(
        "policy-refuses",
        f"the owner of this node does not lend the network `{network}`",
        f"its owner allows it with `p2prc policy set lend.networks {wanted}`",
    )


def _too_long(limit_s: float) -> Refusal:
    longest = format_duration(limit_s)
    return Refusal(
        "policy-refuses",
        f"this node lends for at most {longest}",
        f"`--lifetime {longest}`, or its owner allows more: `p2prc policy set lend.lifetime none`",
    )


def _too_small(limits: Limits) -> str:
    # Leases that hold nothing could be asked for without end.
    if limits.cpu_millis < SMALLEST_CPU_MILLIS:
        return f"a lease has at least {cores_text(SMALLEST_CPU_MILLIS)}"
    if limits.memory_bytes < SMALLEST_MEMORY_BYTES:
        return f"a lease has at least {size_text(SMALLEST_MEMORY_BYTES)} of memory"
    return ""


def _excess(policy: LendingPolicy, capacity: Capacity, limits: Limits) -> str:
    if limits.cpu_millis > capacity.cpu_millis:
        return f"this node lends at most {cores_text(capacity.cpu_millis)}"
    if limits.memory_bytes > capacity.memory_bytes:
        return f"this node lends at most {size_text(capacity.memory_bytes)} of memory"
    if limits.disk_bytes > capacity.disk_bytes:
        return f"this node lends at most {size_text(capacity.disk_bytes)} of disk"
    if limits.gpus and not capacity.gpus:
        return "this node has no graphics card to lend"
    if limits.gpus > capacity.gpus:
        return f"this node lends at most {capacity.gpus} graphics cards"
    if limits.processes > policy.processes_limit:
        return f"this node lends at most {policy.processes_limit} processes"
    return ""


def _share(policy: LendingPolicy, limits: Limits) -> str:
    each = policy.per_peer
    if limits.cpu_millis > each.cpu_millis:
        return f"this node lends one peer at most {cores_text(each.cpu_millis)}"
    if limits.memory_bytes > each.memory_bytes:
        return f"this node lends one peer at most {size_text(each.memory_bytes)} of memory"
    if limits.disk_bytes > each.disk_bytes:
        return f"this node lends one peer at most {size_text(each.disk_bytes)} of disk"
    if not policy.per_peer_leases:
        return "this node lends one peer no lease"
    return ""


def is_runtime_suitable(offer: RuntimeOffer, workload: Workload) -> bool:
    """Say whether this runtime can run the workload, tiers aside."""
    if workload.runtime not in ("auto", offer.name):
        return False
    if workload.limits.gpus and not shows_cards(offer):
        return False
    if workload.volumes and offer.tier in OPEN_TIERS:
        # Without folders of its own there is no place where one could appear.
        return False
    return not (workload.image and offer.name == IMAGELESS_RUNTIME)


def shows_cards(offer: RuntimeOffer) -> bool:
    """Say whether the machine's graphics cards are seen in it: the sandbox's walls hide them."""
    return offer.name != IMAGELESS_RUNTIME or offer.tier == NO_ISOLATION


def is_tier_accepted(offer: RuntimeOffer, workload: Workload) -> bool:
    """Say whether the requester accepts the offer's tier; naming none accepts any."""
    return not workload.tiers or offer.tier in workload.tiers


def may_run_bare(policy: LendingPolicy, peer: NodeId, *, can_isolate: bool) -> bool:
    """Say whether work of this peer may run without walls here.

    Host access always allows it; other trust only where there are no walls to be had.
    """
    return peer in policy.host_access or (peer in policy.trusted and not can_isolate)


def select_runtime(
    policy: LendingPolicy, runtimes: tuple[RuntimeOffer, ...], peer: NodeId, workload: Workload
) -> RuntimeOffer | Refusal:
    """Return the first (best) runtime that suits both sides, or why there is none."""
    suitable = [offer for offer in runtimes if is_runtime_suitable(offer, workload)]
    if not suitable:
        if workload.limits.gpus and not any(map(shows_cards, runtimes)):
            message = "this node has graphics cards, but no containers to show them to"
            return Refusal("policy-refuses", message)
        wanted = f"image `{workload.image}`" if workload.image else f"runtime `{workload.runtime}`"
        if workload.volumes:
            wanted = "what keeps volumes"
        return Refusal("policy-refuses", f"this node has nothing that runs {wanted}")
    accepted = [offer for offer in suitable if is_tier_accepted(offer, workload)]
    if not accepted:
        tiers = ", ".join(offer.tier for offer in suitable)
        return Refusal("policy-refuses", f"this node offers other tiers: {tiers}")
    can_isolate = any(offer.tier != NO_ISOLATION for offer in suitable)
    if workload.network != NONE:
        accepted = [offer for offer in accepted if offer.tier not in OPEN_TIERS]
        if not accepted:
            message = f"this node has no place whose network could be `{workload.network}`"
            return Refusal("policy-refuses", message)
    for offer in accepted:
        if offer.tier != NO_ISOLATION or may_run_bare(policy, peer, can_isolate=can_isolate):
            return offer
    if can_isolate:
        return Refusal(
            "policy-refuses",
            "the owner of this node has not given you host access",
            "leave the tier to the node, or ask its owner to name you in the file `host-access`",
        )
    return Refusal(
        "policy-refuses",
        "this node cannot isolate work, and its owner has not named you as trusted",
        "ask its owner to name this node as trusted",
    )
