"""What a running node does for its owner: the methods that the control API calls.

The daemon implements this; the server knows nothing else of a node. Every method raises errors
of `p2prc.errors` and nothing else. NODE, LEASE and JOB are given as typed by a person: a name, an
id or a unique prefix, and the service resolves them (`NodeUnknown`, `NameAmbiguous`, ...).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from p2prc.api.container_routes import ContainerService
from p2prc.api.schema import (
    AskEvent,
    AskRequest,
    Bandwidth,
    Check,
    Collected,
    Decision,
    EraseRequest,
    ImageEvent,
    ImageRequest,
    ImageRow,
    InterfaceRow,
    Invitation,
    InviteRequest,
    JobCreated,
    JobDetail,
    JobEvent,
    JobRequest,
    JobRow,
    Joined,
    Killed,
    KillRequest,
    LeaseRow,
    NodeRow,
    PingResult,
    PolicyChanged,
    PolicyRequest,
    RequestRow,
    RevokedNode,
    RevokeRequest,
    RunEvent,
    RunRequest,
    Setting,
    SpecsOfNode,
    Status,
    TaskLog,
    TemplateRequest,
    UsageRow,
    VolumeRow,
)
from p2prc.api.tunnel_routes import TunnelService


class NodeService(Protocol):
    """A running node, as its owner uses it."""

    @property
    def tunnels(self) -> TunnelService:
        """The ports that it brought here."""
        ...

    @property
    def containers(self) -> ContainerService:
        """The containers that it holds on other nodes."""
        ...

    async def status(self) -> Status: ...

    async def shut_down(self) -> None:
        """Begin to stop and return at once: the answer must still reach the caller."""
        ...

    async def settings(self) -> list[Setting]: ...

    async def node_log(self, lines: int) -> list[str]:
        """Return the last lines of the node's own log, oldest first."""
        ...

    # -- the network

    async def invite(self, request: InviteRequest) -> Invitation: ...

    async def join(self, ticket: str) -> Joined: ...

    def ask(self, request: AskRequest) -> AsyncIterator[AskEvent]:
        """Ask to be let in and wait; an async generator whose last event is `AskEnded`.

        Closing it withdraws the request.
        """
        ...

    async def requests(self) -> list[RequestRow]:
        """Return who asks to be let in, oldest first."""
        ...

    async def decide(self, decision: Decision) -> RequestRow: ...

    async def revoke(self, request: RevokeRequest) -> RevokedNode: ...

    async def metadata(self) -> dict[str, str]: ...

    async def change_metadata(self, changes: dict[str, str]) -> dict[str, str]: ...

    async def leave(self) -> None: ...

    async def nodes(self) -> list[NodeRow]: ...

    async def specs(self, node: str) -> SpecsOfNode:
        """Ask a node what machine it is; "" means this one."""
        ...

    async def volumes(self, node: str) -> list[VolumeRow]:
        """Return what a node keeps for this one; "" means what is kept here for everybody."""
        ...

    async def erase_volume(self, request: EraseRequest) -> None: ...

    async def images(self, node: str) -> list[ImageRow]:
        """Ask a node which images it offers; "" means this one."""
        ...

    def bring_image(self, request: ImageRequest) -> AsyncIterator[ImageEvent]:
        """Build, fetch or send an image; an async generator whose last event is `ImageBrought`."""
        ...

    async def ping(self, node: str, count: int) -> PingResult: ...

    async def measure_bandwidth(self, node: str) -> Bandwidth: ...

    async def interfaces(self) -> list[InterfaceRow]: ...

    async def doctor(self, node: str) -> list[Check]:
        """Look at everything that may keep nodes apart; "" names no peer to look at."""
        ...

    # -- work

    def run(self, request: RunRequest) -> AsyncIterator[RunEvent]:
        """Run one command; an async generator whose last event is `RunEnded`.

        Closing it (`aclose`, or cancelling the task that waits on it) cancels the command: that
        is how a caller that went away is noticed. May raise before its first event, for requests
        that are refused; a failure after that should be told by `RunEnded`.
        """
        ...

    async def submit(self, request: JobRequest) -> JobCreated:
        """Store a job durably and start it; return as soon as it cannot be lost."""
        ...

    async def submit_template(self, request: TemplateRequest) -> JobCreated:
        """Read a template, store its job durably and start it. Raises TemplateInvalid."""
        ...

    async def jobs(self) -> list[JobRow]: ...

    async def job(self, job: str) -> JobDetail: ...

    def job_events(self, job: str) -> AsyncIterator[JobEvent]:
        """Follow a job; an async generator: a snapshot at once, then at most five a second, with
        `JobEnded` last. Closing it changes nothing for the job.
        """
        ...

    async def task_logs(self, job: str, task: str | None) -> list[TaskLog]:
        """Return how tasks' output ended: one task's, or with None those that failed."""
        ...

    async def results(self, job: str, to: str) -> Collected: ...

    async def cancel(self, job: str) -> JobRow: ...

    async def retry(self, job: str) -> JobRow:
        """Queue the failed tasks again."""
        ...

    # -- the owner's side

    async def leases(self) -> list[LeaseRow]: ...

    async def usage(self, since_s: float) -> list[UsageRow]:
        """Return what each peer used since so many seconds ago, in whole days (UTC)."""
        ...

    async def kill(self, request: KillRequest) -> Killed: ...

    async def policy(self) -> list[Setting]: ...

    async def set_policy(self, request: PolicyRequest) -> PolicyChanged: ...

    async def allow(self, node: str) -> PolicyChanged: ...

    async def deny(self, node: str) -> PolicyChanged: ...

    async def pause(self) -> None: ...

    async def resume(self) -> None: ...
