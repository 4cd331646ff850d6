"""What a lease book hears and what it asks for: the two unions of `leases`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.model.workload import MainProcess, Workload
from p2prc.protocol.lending import LendingPolicy
from p2prc.protocol.messages import RequestLease

# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseRequested:
    """A peer asks for a place."""

    peer: NodeId
    request: RequestLease


@dataclass(frozen=True, slots=True)
class LeaseEndRequested:
    """A peer gives its place back."""

    peer: NodeId
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class SandboxReady:
    """The sandbox takes commands."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class LeaseAdopted:
    """A lease of the node's life before whose sandbox lives: it goes on for `left_s`."""

    peer: NodeId
    request: RequestLease
    runtime: RuntimeOffer
    age_s: float
    left_s: float


@dataclass(frozen=True, slots=True)
class SandboxFailed:
    """The sandbox could not be made; nothing of it is left."""

    lease: LeaseId
    code: str
    reason: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class SandboxEnded:
    """The sandbox is gone: because it was ended, or by its own limit, time or crash."""

    lease: LeaseId
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class OwnerKilled:
    """The owner of this machine ends these leases, all of one peer, or all."""

    leases: tuple[LeaseId, ...] = ()
    peer: NodeId | None = None
    is_all: bool = False
    reason: str = "ended by the owner of the node"


@dataclass(frozen=True, slots=True)
class Paused:
    """The owner lends nothing new."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The owner lends again."""


@dataclass(frozen=True, slots=True)
class OwnerNeedsMachine:
    """The owner needs the machine, for this reason; "" when it may be lent again."""

    reason: str = ""


@dataclass(frozen=True, slots=True)
class TaskOver:
    """A task that ran in the lease has ended, and nothing else runs there."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class TermsChanged:
    """The owner changed what is lent, and to whom; leases that exist stay as they are."""

    capacity: Capacity
    policy: LendingPolicy
    runtimes: tuple[RuntimeOffer, ...]


@dataclass(frozen=True, slots=True)
class PeerGone:
    """The peer cannot be reached."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class PeerReturned:
    """The peer is connected again."""

    peer: NodeId


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline was reached."""


Event = (
    LeaseRequested
    | LeaseEndRequested
    | SandboxReady
    | LeaseAdopted
    | SandboxFailed
    | SandboxEnded
    | OwnerKilled
    | Paused
    | Resumed
    | OwnerNeedsMachine
    | TaskOver
    | TermsChanged
    | PeerGone
    | PeerReturned
    | Tick
)


# -- effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateSandbox:
    """Make the sandbox and answer with SandboxReady or SandboxFailed."""

    lease: LeaseId
    peer: NodeId
    workload: Workload
    runtime: str
    tier: str
    is_isolated: bool
    has_sessions: bool = False
    variables: Mapping[str, str] = field(default_factory=dict)
    main: MainProcess | None = None
    ports: int = 0


@dataclass(frozen=True, slots=True)
class Granted:
    """Answer the peer's request, and every repetition of it that waits."""

    peer: NodeId
    lease: LeaseId
    expires_in_s: float
    tier: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """Answer the peer's request with an error."""

    peer: NodeId
    lease: LeaseId
    code: str
    message: str
    hint: str = ""


@dataclass(frozen=True, slots=True)
class ConfirmEnd:
    """Answer the peer's wish to end the lease: it is carried out."""

    peer: NodeId
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class EndSandbox:
    """Kill everything in it now, and answer with SandboxEnded when it is gone."""

    lease: LeaseId
    ended_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class SuspendSandbox:
    """Stop everything in it until ResumeSandbox; its memory stays, its time goes on."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class ResumeSandbox:
    """Let it go on."""

    lease: LeaseId


@dataclass(frozen=True, slots=True)
class TellEnded:
    """Tell the peer who ended its lease; may be lost when the peer is away."""

    peer: NodeId
    lease: LeaseId
    ended_by: str
    reason: str


Effect = (
    CreateSandbox
    | Granted
    | Refuse
    | ConfirmEnd
    | EndSandbox
    | SuspendSandbox
    | ResumeSandbox
    | TellEnded
)
