"""What a holder of a job hears and asks for beyond coordination: the unions of `holder`.

The driver stores facts and pages before anything that follows them in the effects. It answers
`HandOver` with HandedOver or HandOverFailed, `Sync` with SyncAnswered or SyncFailed, `FetchResult`
with ResultFetched or ResultNotFetched. Pages that came from others are stored before they are fed.
"""

from __future__ import annotations

from dataclasses import dataclass

from p2prc.model.identity import BlobId, NodeId
from p2prc.protocol.jobs import events as coordination
from p2prc.protocol.jobs.attempts import TaskKey
from p2prc.protocol.jobs.pages import LogLength, LogName, Page, SignedPage


@dataclass(frozen=True, slots=True)
class HolderSettings:
    """How many nodes hold a job, and how patient they are with each other, in seconds.

    A coordinator is given up after `lease_s`, by the second in line `stagger_s` later, and so on.
    """

    keepers: int = 2
    beat_s: float = 2.0
    soon_s: float = 0.2
    lease_s: float = 10.0
    stagger_s: float = 2.5
    probe_s: float = 3.0
    lost_s: float = 20.0
    replaced_s: float = 120.0
    again_s: float = 10.0
    fetches: int = 4


# -- events -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CandidatesChanged:
    """Who could keep the job, the most stable first; never this node itself."""

    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Heard:
    """A holder said what it has. `epoch`: the one that it carries the job on in, or None."""

    node: NodeId
    epoch: int | None
    logs: tuple[LogLength, ...]
    is_safe: bool = False
    pages: tuple[SignedPage, ...] = ()


@dataclass(frozen=True, slots=True)
class SyncAnswered:
    """The answer to `Sync`: as `Heard`, and it has all that it was sent."""

    said: Heard


@dataclass(frozen=True, slots=True)
class SyncFailed:
    """The node could not be told, or refused: its disk may be full.

    `is_unknown`: it has nothing of the job any more, and has to be given it again.
    """

    node: NodeId
    reason: str
    is_unknown: bool = False


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The node has the description and the inputs, on disk."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class HandOverFailed:
    """The node does not keep the job, and why."""

    node: NodeId
    reason: str


@dataclass(frozen=True, slots=True)
class ResultFetched:
    """The outputs of an accepted result are here, where they belong, on disk."""

    task: TaskKey
    attempt: int


@dataclass(frozen=True, slots=True)
class ResultNotFetched:
    """Nobody who has them could give them, or there is no room."""

    task: TaskKey
    attempt: int


Event = (
    coordination.Event
    | CandidatesChanged
    | Heard
    | SyncAnswered
    | SyncFailed
    | HandedOver
    | HandOverFailed
    | ResultFetched
    | ResultNotFetched
)


# -- effects ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Seal:
    """All facts that were appended and are on no page yet are on these: sign and keep them."""

    pages: tuple[Page, ...]


@dataclass(frozen=True, slots=True)
class HandOver:
    """Ask the node to keep the job: to fetch its description and inputs."""

    node: NodeId


@dataclass(frozen=True, slots=True)
class Sync:
    """Tell the node what is here, with some of the pages that it lacks; one at a time per node."""

    node: NodeId
    epoch: int | None
    is_safe: bool
    logs: tuple[LogLength, ...]
    lacking: tuple[tuple[LogName, int], ...]


@dataclass(frozen=True, slots=True)
class FetchResult:
    """Bring the outputs of an accepted result here, from one of these that has them."""

    task: TaskKey
    attempt: int
    outputs: BlobId
    sources: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class Succeeds:
    """This node carries the job on now: the nodes may end what the last coordinator held there."""

    last: NodeId
    nodes: tuple[NodeId, ...]


@dataclass(frozen=True, slots=True)
class SafetyChanged:
    """Whether the job survives its submitter from now on, and if not, why not."""

    is_safe: bool
    reason: str


Effect = coordination.Effect | Seal | HandOver | Sync | FetchResult | Succeeds | SafetyChanged
