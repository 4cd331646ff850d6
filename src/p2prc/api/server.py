"""The control API of a running node: HTTP over a Unix socket that only its owner can open.

Bodies are decoded and answers encoded by the structs of `schema`, which also give OpenAPI its
components: one description of every value. Starlette holds the routes together; nothing here
knows more of a node than `NodeService`. Why not FastAPI: docs/adr/0007-api.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from p2prc.api import schema
from p2prc.api.container_routes import add_container_routes
from p2prc.api.openapi import Operation, describe
from p2prc.api.own_routes import Route, add_own_routes
from p2prc.api.parameters import Endpoint, handler_of, parameters_of
from p2prc.api.service import NodeService
from p2prc.api.streaming import HTTP_STATUS, EventStream, error_body
from p2prc.api.tunnel_routes import add_tunnel_routes
from p2prc.errors import InvalidInput, P2prcError, PeerTooOld

BODY_LIMIT_BYTES = 4 << 20
LOG_LINES_LIMIT = 10_000
PINGS_LIMIT = 100
DAY_S = 86400.0
LONGEST_AGO_S = 1e9
_Body = TypeVar("_Body", bound=schema.Request)


def build_app(service: NodeService, routes: Sequence[Route] = ()) -> Starlette:
    """Return the API of this node, with `routes` of a program that embeds it."""
    app = Starlette()
    app.add_exception_handler(P2prcError, _answer_error)
    app.add_exception_handler(HTTPException, _answer_no_route)
    _Routes(app, service).add_all(routes)
    return app


class _Routes:
    """Every operation of the API. A method's docstring is its summary in OpenAPI."""

    def __init__(self, app: Starlette, service: NodeService) -> None:
        self._app = app
        self._service = service
        self._operations: list[Operation] = []

    def add_all(self, own: Sequence[Route]) -> None:
        self._add_node()
        self._add_network()
        self._add_admission()
        self._add_work()
        self._add_owner()
        add_container_routes(self._add, _body, _json, self._service)
        add_tunnel_routes(self._add, _body, _json, self._service)
        add_own_routes(self._add, _body, _json, own)
        self._app.add_route("/openapi.json", self._describe)

    async def _describe(self, _: Request) -> Response:
        # Made when asked for: it takes longer than all other steps of a node's start.
        return _json(describe(self._operations))

    def _add(
        self,
        method: str,
        path: str,
        endpoint: Endpoint,
        *,
        answer: Any = None,
        body: Any = None,
        is_stream: bool = False,
        is_raw: bool = False,
    ) -> None:
        parameters = parameters_of(endpoint, path)
        self._operations.append(
            Operation(
                method=method,
                path=path,
                name=endpoint.__name__,
                summary=(endpoint.__doc__ or "").strip(),
                parameters=parameters,
                answer=answer,
                body=body,
                is_stream=is_stream,
                is_raw=is_raw,
            )
        )
        self._app.add_route(path, handler_of(endpoint, parameters), methods=[method])

    def _add_node(self) -> None:
        service = self._service

        async def status() -> Response:
            """This node."""
            return _json(await service.status())

        async def shut_down() -> Response:
            """Stop the node; the answer comes before the end."""
            await service.shut_down()
            return Response(status_code=204)

        async def settings() -> Response:
            """Every setting and where its value came from."""
            return _json(await service.settings())

        async def node_log(lines: int = 200) -> Response:
            """The last lines of the node's own log."""
            return _json(await service.node_log(max(1, min(lines, LOG_LINES_LIMIT))))

        self._add("GET", "/v1/status", status, answer=schema.Status)
        self._add("POST", "/v1/shutdown", shut_down)
        self._add("GET", "/v1/settings", settings, answer=list[schema.Setting])
        self._add("GET", "/v1/log", node_log, answer=list[str])

    def _add_network(self) -> None:
        service = self._service

        async def invite(request: Request) -> Response:
            """Make a ticket."""
            return _json(await service.invite(await _body(request, schema.InviteRequest)))

        async def join(request: Request) -> Response:
            """Join a network."""
            body = await _body(request, schema.JoinRequest)
            return _json(await service.join(body.ticket))

        async def leave() -> Response:
            """Leave the network."""
            await service.leave()
            return Response(status_code=204)

        async def nodes() -> Response:
            """The network as seen from here."""
            return _json(await service.nodes())

        async def specs(node: str = "") -> Response:
            """What machine a node is; without `node`, this one."""
            return _json(await service.specs(node))

        async def volumes(node: str = "") -> Response:
            """The volumes that a node keeps for this one; without `node`, all that are here."""
            return _json(await service.volumes(node))

        async def erase_volume(request: Request) -> Response:
            """Delete a volume and what it holds."""
            await service.erase_volume(await _body(request, schema.EraseRequest))
            return Response(status_code=204)

        async def images(node: str = "") -> Response:
            """Which images a node offers; without `node`, this one."""
            return _json(await service.images(node))

        async def bring_image(request: Request) -> Response:
            """Build, fetch or send an image and stream how far it is."""
            return EventStream(service.bring_image(await _body(request, schema.ImageRequest)))

        async def ping(node: str, count: int = 5) -> Response:
            """Round trips to a node."""
            return _json(await service.ping(node, max(1, min(count, PINGS_LIMIT))))

        async def measure_bandwidth(request: Request) -> Response:
            """Measure how fast bytes go to a node and come from it; kept in the table."""
            body = await _body(request, schema.PeerRequest)
            return _json(await service.measure_bandwidth(body.node))

        async def interfaces() -> Response:
            """Show the network interfaces of this machine."""
            return _json(await service.interfaces())

        async def doctor(node: str = "") -> Response:
            """Why others cannot reach this node, or it `node`, and what to change."""
            return _json(await service.doctor(node))

        self._add("POST", "/v1/invite", invite, body=schema.InviteRequest, answer=schema.Invitation)
        self._add("POST", "/v1/join", join, body=schema.JoinRequest, answer=schema.Joined)
        self._add("POST", "/v1/leave", leave)
        self._add("GET", "/v1/nodes", nodes, answer=list[schema.NodeRow])
        self._add("GET", "/v1/specs", specs, answer=schema.SpecsOfNode)
        self._add("GET", "/v1/volumes", volumes, answer=list[schema.VolumeRow])
        self._add("POST", "/v1/volumes/erase", erase_volume, body=schema.EraseRequest)
        self._add("GET", "/v1/images", images, answer=list[schema.ImageRow])
        self._add(
            "POST",
            "/v1/images",
            bring_image,
            body=schema.ImageRequest,
            answer=schema.ImageEvent,
            is_stream=True,
        )
        self._add("GET", "/v1/ping", ping, answer=schema.PingResult)
        self._add(
            "POST",
            "/v1/bandwidth",
            measure_bandwidth,
            body=schema.PeerRequest,
            answer=schema.Bandwidth,
        )
        self._add("GET", "/v1/interfaces", interfaces, answer=list[schema.InterfaceRow])
        self._add("GET", "/v1/doctor", doctor, answer=list[schema.Check])

    def _add_admission(self) -> None:
        service = self._service

        async def ask(request: Request) -> Response:
            """Ask a member at an address to let this node in; hanging up withdraws the request."""
            return EventStream(service.ask(await _body(request, schema.AskRequest)))

        async def requests() -> Response:
            """Who asks to be let in."""
            return _json(await service.requests())

        async def decide(request: Request) -> Response:
            """Let in or refuse who asks."""
            return _json(await service.decide(await _body(request, schema.Decision)))

        async def revoke(request: Request) -> Response:
            """Put a member out."""
            return _json(await service.revoke(await _body(request, schema.RevokeRequest)))

        async def metadata() -> Response:
            """What this node tells the others in its owner's words."""
            return _json(await service.metadata())

        async def change_metadata(request: Request) -> Response:
            """Change what this node tells the others."""
            body = await _body(request, schema.MetadataRequest)
            return _json(await service.change_metadata(body.changes))

        self._add(
            "POST", "/v1/ask", ask, body=schema.AskRequest, answer=schema.AskEvent, is_stream=True
        )
        self._add("GET", "/v1/requests", requests, answer=list[schema.RequestRow])
        self._add("POST", "/v1/requests", decide, body=schema.Decision, answer=schema.RequestRow)
        self._add(
            "POST", "/v1/revoke", revoke, body=schema.RevokeRequest, answer=schema.RevokedNode
        )
        self._add("GET", "/v1/metadata", metadata, answer=dict[str, str])
        self._add(
            "POST",
            "/v1/metadata",
            change_metadata,
            body=schema.MetadataRequest,
            answer=dict[str, str],
        )

    def _add_work(self) -> None:
        service = self._service

        async def run(request: Request) -> Response:
            """Run one command and stream what it prints; hanging up cancels it."""
            return EventStream(service.run(await _body(request, schema.RunRequest)))

        async def submit(request: Request) -> Response:
            """Store a job and start it."""
            return _json(await service.submit(await _body(request, schema.JobRequest)))

        async def submit_template(request: Request) -> Response:
            """Turn an Open Job Description template into a job and start it."""
            order = await _body(request, schema.TemplateRequest)
            return _json(await service.submit_template(order))

        async def jobs() -> Response:
            """The jobs that this node knows."""
            return _json(await service.jobs())

        async def job(job: str) -> Response:
            """One job in full."""
            return _json(await service.job(job))

        async def job_events(job: str) -> Response:
            """Follow a job until it ends; hanging up changes nothing for it."""
            return EventStream(service.job_events(job))

        async def task_logs(job: str, task: str | None = None) -> Response:
            """How tasks' output ended: one task's, or those that failed."""
            return _json(await service.task_logs(job, task))

        async def results(job: str, request: Request) -> Response:
            """Bring a job's outputs to a folder."""
            body = await _body(request, schema.ResultsRequest)
            return _json(await service.results(job, body.to))

        async def cancel(job: str) -> Response:
            """Stop a job."""
            return _json(await service.cancel(job))

        async def retry(job: str) -> Response:
            """Queue a job's failed tasks again."""
            return _json(await service.retry(job))

        self._add(
            "POST", "/v1/run", run, body=schema.RunRequest, answer=schema.RunEvent, is_stream=True
        )
        self._add("POST", "/v1/jobs", submit, body=schema.JobRequest, answer=schema.JobCreated)
        self._add(
            "POST",
            "/v1/templates",
            submit_template,
            body=schema.TemplateRequest,
            answer=schema.JobCreated,
        )
        self._add("GET", "/v1/jobs", jobs, answer=list[schema.JobRow])
        self._add("GET", "/v1/jobs/{job}", job, answer=schema.JobDetail)
        self._add(
            "GET", "/v1/jobs/{job}/events", job_events, answer=schema.JobEvent, is_stream=True
        )
        self._add("GET", "/v1/jobs/{job}/logs", task_logs, answer=list[schema.TaskLog])
        self._add(
            "POST",
            "/v1/jobs/{job}/results",
            results,
            body=schema.ResultsRequest,
            answer=schema.Collected,
        )
        self._add("POST", "/v1/jobs/{job}/cancel", cancel, answer=schema.JobRow)
        self._add("POST", "/v1/jobs/{job}/retry", retry, answer=schema.JobRow)

    def _add_owner(self) -> None:
        service = self._service

        async def leases() -> Response:
            """Who runs what here."""
            return _json(await service.leases())

        async def usage(since_s: float = DAY_S) -> Response:
            """What each peer used."""
            if not 0 <= since_s <= LONGEST_AGO_S:
                raise InvalidInput("`since_s` is no time ago")
            return _json(await service.usage(since_s))

        async def kill(request: Request) -> Response:
            """End leases now."""
            body = await _body(request, schema.KillRequest)
            if not (body.leases or body.peer or body.is_all):
                raise InvalidInput("nothing to end: give `leases`, `peer` or `all`")
            return _json(await service.kill(body))

        async def pause() -> Response:
            """Lend nothing new."""
            await service.pause()
            return Response(status_code=204)

        async def resume() -> Response:
            """Lend again."""
            await service.resume()
            return Response(status_code=204)

        async def policy() -> Response:
            """Who may have how much of this machine."""
            return _json(await service.policy())

        async def set_policy(request: Request) -> Response:
            """Change a rule of lending, now and for the next start."""
            return _json(await service.set_policy(await _body(request, schema.PolicyRequest)))

        async def allow(request: Request) -> Response:
            """Lend to a node."""
            return _json(await service.allow((await _body(request, schema.PeerRequest)).node))

        async def deny(request: Request) -> Response:
            """Lend a node nothing, and end what it has here."""
            return _json(await service.deny((await _body(request, schema.PeerRequest)).node))

        changed, peer = schema.PolicyChanged, schema.PeerRequest
        self._add("GET", "/v1/policy", policy, answer=list[schema.Setting])
        self._add("POST", "/v1/policy", set_policy, body=schema.PolicyRequest, answer=changed)
        self._add("POST", "/v1/policy/allow", allow, body=peer, answer=changed)
        self._add("POST", "/v1/policy/deny", deny, body=peer, answer=changed)
        self._add("GET", "/v1/leases", leases, answer=list[schema.LeaseRow])
        self._add("GET", "/v1/usage", usage, answer=list[schema.UsageRow])
        self._add("POST", "/v1/kill", kill, body=schema.KillRequest, answer=schema.Killed)
        self._add("POST", "/v1/pause", pause)
        self._add("POST", "/v1/resume", resume)


async def _body(request: Request, kind: type[_Body]) -> _Body:
    """Read and decode a bounded body; raise `InvalidInput`."""
    content = bytearray()
    async for piece in request.stream():
        content += piece
        if len(content) > BODY_LIMIT_BYTES:
            raise InvalidInput(f"the request is larger than {BODY_LIMIT_BYTES >> 20} MiB")
    try:
        return msgspec.json.decode(bytes(content), type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request is not valid: {error}") from error


def _json(answer: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(answer), status, media_type="application/json")


async def _answer_error(_request: Request, error: Exception) -> Response:
    if not isinstance(error, P2prcError):
        raise error
    return _json(error_body(error), HTTP_STATUS.get(error.exit_status, 500))


async def _answer_no_route(request: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    asked = f"{request.method} {request.url.path[:100]}"
    refusal = PeerTooOld(
        f"the running node does not know the request {asked}",
        hint="start it again with this version: `p2prc down`, then `p2prc up --detach`",
    )
    return _json(error_body(refusal), error.status_code)
