"""A running node, as another process sees it: one method a request, typed by `schema`."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TypeVar

import msgspec

from p2prc.api.connection import JsonObject, Slow, call, events, quoted
from p2prc.api.container_schema import (
    ContainerRow,
    CreateEvent,
    CreateRequest,
    GroupRequest,
    GroupRow,
    RemoveRequest,
)
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
    JoinRequest,
    Killed,
    KillRequest,
    LeaseRow,
    MetadataRequest,
    NodeRow,
    PeerRequest,
    PingResult,
    PolicyChanged,
    PolicyRequest,
    RequestRow,
    ResultsRequest,
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
from p2prc.api.tunnel_schema import EndTunnelRequest, ExposeRequest, ForwardRequest, TunnelRow
from p2prc.errors import JobUnknown

CALL_TIMEOUT_S = 30.0
PEER_CALL_TIMEOUT_S = 120.0
"""For calls that wait for other nodes."""
BULK_CALL_TIMEOUT_S = 24 * 3600.0
"""For calls that move files; the node's own timeouts end them earlier."""
_THE_NODE = "the node, which is busy"
_OTHERS = "other nodes to answer"
_FILES = "files to be read and sent"
_Answer = TypeVar("_Answer")


class ControlClient:
    """The running node of one home. Every method raises errors of `p2prc.errors`."""

    def __init__(self, home: str, tell: Callable[[str], None] | None = None) -> None:
        """`tell` is given a sentence, once a request, when the answer takes long."""
        self._home = home
        self._tell = tell

    # -- this node

    def status(self) -> Status:
        return self._get("/v1/status", Status)

    def shut_down(self) -> None:
        """Tell the node to stop; it may go on for a moment after this returns."""
        self._call("POST", "/v1/shutdown")

    def settings(self) -> list[Setting]:
        return self._get("/v1/settings", list[Setting])

    def node_log(self, lines: int = 200) -> list[str]:
        return self._get(f"/v1/log?lines={lines}", list[str])

    def openapi(self) -> JsonObject:
        """Return the description of the API of the version that runs."""
        return self._get("/openapi.json", JsonObject)

    # -- the network

    def invite(self, request: InviteRequest) -> Invitation:
        waits_for = "a way in from outside: routers and relays are asked"
        return self._post("/v1/invite", request, Invitation, waits_for=waits_for)

    def join(self, ticket: str) -> Joined:
        request = JoinRequest(ticket=ticket)
        waits_for = "the member that made the ticket"
        return self._post(
            "/v1/join", request, Joined, timeout_s=PEER_CALL_TIMEOUT_S, waits_for=waits_for
        )

    def ask(self, request: AskRequest) -> Generator[AskEvent, None, None]:
        """Ask to be let in and wait. Closing the iterator withdraws the request."""
        for event in events(
            self._home, "POST", "/v1/ask", msgspec.to_builtins(request), slow=self._slow(_OTHERS)
        ):
            yield msgspec.convert(event, AskEvent)

    def requests(self) -> list[RequestRow]:
        return self._get("/v1/requests", list[RequestRow])

    def decide(self, decision: Decision) -> RequestRow:
        return self._post("/v1/requests", decision, RequestRow)

    def revoke(self, request: RevokeRequest) -> RevokedNode:
        return self._post("/v1/revoke", request, RevokedNode)

    def metadata(self) -> dict[str, str]:
        return self._get("/v1/metadata", dict[str, str])

    def change_metadata(self, changes: dict[str, str]) -> dict[str, str]:
        return self._post("/v1/metadata", MetadataRequest(changes=changes), dict[str, str])

    def leave(self) -> None:
        self._call("POST", "/v1/leave", timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def nodes(self) -> list[NodeRow]:
        return self._get("/v1/nodes", list[NodeRow])

    def specs(self, node: str = "") -> SpecsOfNode:
        path = f"/v1/specs?node={quoted(node)}"
        return self._get(path, SpecsOfNode, timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def volumes(self, node: str = "") -> list[VolumeRow]:
        path = f"/v1/volumes?node={quoted(node)}"
        return self._get(path, list[VolumeRow], timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def erase_volume(self, request: EraseRequest) -> None:
        self._call(
            "POST",
            "/v1/volumes/erase",
            msgspec.json.encode(request),
            timeout_s=PEER_CALL_TIMEOUT_S,
            waits_for=_OTHERS,
        )

    def images(self, node: str = "") -> list[ImageRow]:
        path = f"/v1/images?node={quoted(node)}"
        return self._get(path, list[ImageRow], timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def bring_image(self, request: ImageRequest) -> Generator[ImageEvent, None, None]:
        """Build, fetch or send an image; the last event is `ImageBrought`."""
        for event in events(
            self._home, "POST", "/v1/images", msgspec.to_builtins(request), slow=self._slow(_OTHERS)
        ):
            yield msgspec.convert(event, ImageEvent)

    def ping(self, node: str, count: int = 5) -> PingResult:
        path = f"/v1/ping?node={quoted(node)}&count={count}"
        waits_for = f"{node} to answer"
        return self._get(path, PingResult, timeout_s=PEER_CALL_TIMEOUT_S, waits_for=waits_for)

    def measure_bandwidth(self, node: str) -> Bandwidth:
        """Move bytes both ways for about a second each."""
        return self._post(
            "/v1/bandwidth",
            PeerRequest(node=node),
            Bandwidth,
            timeout_s=PEER_CALL_TIMEOUT_S,
            waits_for="bytes to go both ways",
        )

    def interfaces(self) -> list[InterfaceRow]:
        return self._get("/v1/interfaces", list[InterfaceRow])

    def doctor(self, node: str = "") -> list[Check]:
        path = f"/v1/doctor?node={quoted(node)}"
        return self._get(path, list[Check], timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    # -- work

    def run(self, request: RunRequest) -> Generator[RunEvent, None, None]:
        """Run one command to its end. Closing the iterator cancels it."""
        for event in events(
            self._home, "POST", "/v1/run", msgspec.to_builtins(request), slow=self._slow(_OTHERS)
        ):
            yield msgspec.convert(event, RunEvent)

    def create(self, request: CreateRequest) -> Generator[CreateEvent, None, None]:
        """Get a container. Closing the iterator before its end gives it back."""
        body = msgspec.to_builtins(request)
        for event in events(self._home, "POST", "/v1/containers", body, slow=self._slow(_OTHERS)):
            yield msgspec.convert(event, CreateEvent)

    def containers(self, *, is_all: bool = False) -> list[ContainerRow]:
        path = f"/v1/containers?every={int(is_all)}"
        return self._get(path, list[ContainerRow], timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def remove(self, leases: list[str]) -> list[ContainerRow]:
        return self._post(
            "/v1/containers/remove", RemoveRequest(leases), list[ContainerRow], waits_for=_OTHERS
        )

    def container_log(self, lease: str, *, follows: bool) -> Generator[RunEvent, None, None]:
        path = f"/v1/containers/{quoted(lease)}/log?follow={int(follows)}"
        for event in events(self._home, "GET", path, slow=self._slow(_OTHERS)):
            yield msgspec.convert(event, RunEvent)

    def groups(self) -> list[GroupRow]:
        return self._get("/v1/groups", list[GroupRow])

    def change_group(self, request: GroupRequest) -> list[GroupRow]:
        return self._post("/v1/groups", request, list[GroupRow])

    def submit(self, request: JobRequest) -> JobCreated:
        """Submit a job; its inputs are read before this returns."""
        return self._post(
            "/v1/jobs", request, JobCreated, timeout_s=BULK_CALL_TIMEOUT_S, waits_for=_FILES
        )

    def submit_template(self, request: TemplateRequest) -> JobCreated:
        """Submit a template; its inputs are read before this returns."""
        return self._post(
            "/v1/templates", request, JobCreated, timeout_s=BULK_CALL_TIMEOUT_S, waits_for=_FILES
        )

    def jobs(self) -> list[JobRow]:
        return self._get("/v1/jobs", list[JobRow])

    def job(self, job: str) -> JobDetail:
        return self._get(f"/v1/jobs/{_job_segment(job)}", JobDetail)

    def job_events(self, job: str) -> Generator[JobEvent, None, None]:
        """Follow a job to its end. Closing the iterator changes nothing for the job."""
        for event in events(
            self._home, "GET", f"/v1/jobs/{_job_segment(job)}/events", slow=self._slow(_OTHERS)
        ):
            yield msgspec.convert(event, JobEvent)

    def task_logs(self, job: str, task: str | None = None) -> list[TaskLog]:
        query = "" if task is None else f"?task={quoted(task)}"
        path = f"/v1/jobs/{_job_segment(job)}/logs{query}"
        return self._get(path, list[TaskLog], timeout_s=PEER_CALL_TIMEOUT_S, waits_for=_OTHERS)

    def results(self, job: str, to: str) -> Collected:
        path = f"/v1/jobs/{_job_segment(job)}/results"
        return self._post(
            path, ResultsRequest(to=to), Collected, timeout_s=BULK_CALL_TIMEOUT_S, waits_for=_FILES
        )

    def cancel(self, job: str) -> JobRow:
        return self._post(f"/v1/jobs/{_job_segment(job)}/cancel", None, JobRow)

    def retry(self, job: str) -> JobRow:
        return self._post(f"/v1/jobs/{_job_segment(job)}/retry", None, JobRow)

    # -- ports

    def forward(self, request: ForwardRequest) -> TunnelRow:
        return self._post("/v1/forwards", request, TunnelRow)

    def expose(self, request: ExposeRequest) -> TunnelRow:
        return self._post(
            "/v1/exposures",
            request,
            TunnelRow,
            timeout_s=PEER_CALL_TIMEOUT_S,
            waits_for="nodes that lend public ports",
        )

    def tunnels(self) -> list[TunnelRow]:
        return self._get("/v1/tunnels", list[TunnelRow])

    def end_tunnel(self, identity: str) -> TunnelRow:
        return self._post("/v1/tunnels/end", EndTunnelRequest(id=identity), TunnelRow)

    # -- the owner's side

    def leases(self) -> list[LeaseRow]:
        return self._get("/v1/leases", list[LeaseRow])

    def usage(self, since_s: float) -> list[UsageRow]:
        return self._get(f"/v1/usage?since_s={since_s:g}", list[UsageRow])

    def kill(self, request: KillRequest) -> Killed:
        return self._post("/v1/kill", request, Killed)

    def policy(self) -> list[Setting]:
        return self._get("/v1/policy", list[Setting])

    def set_policy(self, key: str, value: str) -> PolicyChanged:
        return self._post("/v1/policy", PolicyRequest(key=key, value=value), PolicyChanged)

    def allow(self, node: str) -> PolicyChanged:
        return self._post("/v1/policy/allow", PeerRequest(node=node), PolicyChanged)

    def deny(self, node: str) -> PolicyChanged:
        return self._post("/v1/policy/deny", PeerRequest(node=node), PolicyChanged)

    def pause(self) -> None:
        self._call("POST", "/v1/pause")

    def resume(self) -> None:
        self._call("POST", "/v1/resume")

    # -- how

    def _get(
        self,
        path: str,
        kind: type[_Answer],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        waits_for: str = _THE_NODE,
    ) -> _Answer:
        answer = self._call("GET", path, timeout_s=timeout_s, waits_for=waits_for)
        return msgspec.json.decode(answer, type=kind)

    def _post(
        self,
        path: str,
        body: object,
        kind: type[_Answer],
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        waits_for: str = _THE_NODE,
    ) -> _Answer:
        content = b"" if body is None else msgspec.json.encode(body)
        answer = self._call("POST", path, content, timeout_s=timeout_s, waits_for=waits_for)
        return msgspec.json.decode(answer, type=kind)

    def _call(
        self,
        method: str,
        path: str,
        content: bytes = b"",
        *,
        timeout_s: float = CALL_TIMEOUT_S,
        waits_for: str = _THE_NODE,
    ) -> bytes:
        slow = self._slow(waits_for)
        return call(self._home, method, path, content, timeout_s=timeout_s, slow=slow)

    def _slow(self, waits_for: str) -> Slow | None:
        tell = self._tell
        return None if tell is None else lambda: tell(f"waiting for {waits_for}...")


def _job_segment(job: str) -> str:
    if not (job.isascii() and job.replace("-", "").replace("_", "").isalnum()):
        raise JobUnknown(f"no job has the id {job!r}")
    return job
