"""What a job's coordinator hears and what it asks for: the two unions of `coordinator`.

The driver answers OpenSlot with SlotOpened or SlotRefused, StoreOutputs with OutputsStored or
OutputsFailed, and a StartAttempt that the node refuses with StartRefused. AskAttempts is answered
with AttemptsReported, or not at all: it is asked again every few seconds. A message that cannot
be delivered because the connection broke is dropped, and NodeLost says so. Facts are made durable
before the effects that follow them are performed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from p2prc.model.identity import AttemptId, BlobId, LeaseId, NodeId
from p2prc.model.workload import Command, Outcome, Workload
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.facts import Fact
from p2prc.protocol.placement import NodeOffer

# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class OffersChanged:
    """What every known node lends at present; the whole list each time."""

    offers: tuple[NodeOffer, ...]


@dataclass(frozen=True, slots=True)
class SlotsAllowed:
    """How many slots this job may hold on each node beside others; None sets no bound."""

    limits: Mapping[NodeId, int] | None


@dataclass(frozen=True, slots=True)
class SlotOpened:
    """The node granted the lease."""

    node: NodeId
    lease: LeaseId
    tier: str


@dataclass(frozen=True, slots=True)
class SlotRefused:
    """The node did not grant the lease, or could not be asked."""

    node: NodeId
    lease: LeaseId
    code: str
    message: str
    is_retryable: bool


@dataclass(frozen=True, slots=True)
class SlotEnded:
    """The node says that the lease is over, and who ended it."""

    node: NodeId
    lease: LeaseId
    ended_by: str
    reason: str


@dataclass(frozen=True, slots=True)
class StartRefused:
    """The node did not start the attempt."""

    node: NodeId
    attempt: AttemptId
    code: str
    reason: str


@dataclass(frozen=True, slots=True)
class AttemptEnded:
    """The node says how an attempt ended; may be said many times."""

    node: NodeId
    attempt: AttemptId
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class OutputsStored:
    """The attempt's outputs are in place here, durably."""

    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class OutputsFailed:
    """The attempt's outputs could not be fetched (the peer's fault) or stored (ours)."""

    attempt: AttemptId
    code: str
    reason: str
    is_peer_fault: bool


@dataclass(frozen=True, slots=True)
class OutputsCompared:
    """Whether two attempts' outputs show the same; None where that could not be found out.

    `lost` is the attempt whose outputs could not be had.
    """

    first: AttemptId
    second: AttemptId
    is_same: bool | None
    reason: str = ""
    lost: AttemptId | None = None


@dataclass(frozen=True, slots=True)
class AttemptsReported:
    """What the node holds of this job; every finished attempt follows as AttemptEnded."""

    node: NodeId
    leases: tuple[LeaseId, ...] = ()
    running: tuple[AttemptId, ...] = ()
    finished: tuple[AttemptId, ...] = ()


@dataclass(frozen=True, slots=True)
class NodeLost:
    """The connection to the node broke; it may be back at once, or never."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class CancelRequested:
    """The submitter stops the job."""


@dataclass(frozen=True, slots=True)
class RetryRequested:
    """The submitter wants the failed tasks tried again."""


@dataclass(frozen=True, slots=True)
class FactsMerged:
    """Others' facts were added to the ledger: the coordinator finds them there."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class StoodDown:
    """Another node carries the job on: give back what is held, add nothing."""


@dataclass(frozen=True, slots=True)
class Tick:
    """The deadline was reached; also the first event after a start, when there is no other."""


Event = (
    OffersChanged
    | SlotsAllowed
    | SlotOpened
    | SlotRefused
    | SlotEnded
    | StartRefused
    | AttemptEnded
    | OutputsStored
    | OutputsFailed
    | OutputsCompared
    | AttemptsReported
    | NodeLost
    | CancelRequested
    | RetryRequested
    | FactsMerged
    | StoodDown
    | Tick
)


# -- effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class AppendFacts:
    """Make these durable before anything that follows."""

    facts: tuple[Fact, ...]


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Ask the node for a lease of this job."""

    node: NodeId
    lease: LeaseId
    workload: Workload
    is_isolated: bool
    has_sessions: bool = False


@dataclass(frozen=True, slots=True)
class CloseSlot:
    """Give the lease back, also when it was not granted yet."""

    node: NodeId
    lease: LeaseId


@dataclass(frozen=True, slots=True)
class StartAttempt:
    """Run the task's command, values already in it."""

    node: NodeId
    lease: LeaseId
    attempt: AttemptId
    command: Command


@dataclass(frozen=True, slots=True)
class CancelAttempt:
    """Stop the attempt there, stop fetching its outputs here."""

    node: NodeId
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class StoreOutputs:
    """Fetch this tree from the node and put it where the job's outputs go."""

    node: NodeId
    attempt: AttemptId
    task: TaskKey
    outputs: BlobId


@dataclass(frozen=True, slots=True)
class Made:
    """What an attempt on a node gave."""

    node: NodeId
    attempt: AttemptId
    outputs: BlobId


@dataclass(frozen=True, slots=True)
class CompareOutputs:
    """Look whether two attempts' pictures show the same, within so many levels of 255."""

    first: Made
    second: Made
    within: float


@dataclass(frozen=True, slots=True)
class Acknowledge:
    """Tell the node that it may forget the attempt and its outputs."""

    node: NodeId
    attempt: AttemptId


@dataclass(frozen=True, slots=True)
class AskAttempts:
    """Ask the node what it holds of this job, as soon as it can be reached."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class JobBlocked:
    """Nothing runs, and why; None when it goes on."""

    reason: str | None


@dataclass(frozen=True, slots=True)
class JobEnded:
    """The job came to its end: `succeeded`, `failed` or `cancelled`."""

    state: str


Effect = (
    AppendFacts
    | OpenSlot
    | CloseSlot
    | StartAttempt
    | CancelAttempt
    | StoreOutputs
    | CompareOutputs
    | Acknowledge
    | AskAttempts
    | JobBlocked
    | JobEnded
)
