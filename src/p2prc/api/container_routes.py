"""The operations of the control API that are about containers on other nodes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any, Protocol

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from p2prc.api import container_schema as schema
from p2prc.api.duplex import OCTETS, Duplex
from p2prc.api.schema import RunEvent
from p2prc.api.streaming import MEDIA_TYPE, EventStream
from p2prc.errors import InvalidInput

_LINE_LIMIT_BYTES = 16 << 20
_line_decoder: msgspec.json.Decoder[schema.ExecLine] = msgspec.json.Decoder(schema.ExecLine)


class ContainerService(Protocol):
    """What a running node does with the containers that it holds. LEASE is as typed."""

    def create(self, request: schema.CreateRequest) -> AsyncIterator[schema.CreateEvent]: ...

    async def rows(self, *, is_all: bool) -> list[schema.ContainerRow]: ...

    async def remove(self, leases: list[str]) -> list[schema.ContainerRow]: ...

    def execute(
        self, lease: str, lines: AsyncIterator[schema.ExecLine]
    ) -> AsyncGenerator[RunEvent, None]: ...

    def log(self, lease: str, *, follows: bool) -> AsyncIterator[RunEvent]: ...

    def dial(
        self, lease: str, port: int, body: AsyncIterator[bytes]
    ) -> AsyncGenerator[bytes, None]: ...

    def ssh(self, lease: str, body: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]: ...

    async def ssh_facts(self, lease: str) -> schema.SshFacts: ...

    def get_files(self, lease: str, path: str) -> AsyncGenerator[bytes, None]: ...

    async def put_files(self, lease: str, folder: str, body: AsyncIterator[bytes]) -> None: ...

    async def groups(self) -> list[schema.GroupRow]: ...

    async def change_group(self, request: schema.GroupRequest) -> list[schema.GroupRow]: ...


class HasContainers(Protocol):
    """A running node."""

    @property
    def containers(self) -> ContainerService: ...


def add_container_routes(
    add: Any, body: Any, json: Callable[[object], Response], node: HasContainers
) -> None:
    """Add them with the server's own means: how it adds, reads a body and answers."""

    async def create_container(request: Request) -> Response:
        """Get a container to work in; hanging up before it is there gives it back."""
        return EventStream(node.containers.create(await body(request, schema.CreateRequest)))

    async def containers(*, every: bool = False) -> Response:
        """The containers that this node holds, checked against their nodes."""
        return json(await node.containers.rows(is_all=every))

    async def remove_containers(request: Request) -> Response:
        """End containers and forget them."""
        return json(
            await node.containers.remove((await body(request, schema.RemoveRequest)).leases)
        )

    async def execute(lease: str) -> Response:
        """Run a command in a container: lines both ways, the first one is `exec`."""

        async def answering(content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
            async for event in node.containers.execute(lease, _lines(content)):
                yield msgspec.json.encode(event) + b"\n"

        return Duplex(answering, media_type=MEDIA_TYPE, keep_alive=b"\n")

    async def container_log(lease: str, *, follow: bool = False) -> Response:
        """What the main process printed, as far as its node keeps it."""
        return EventStream(node.containers.log(lease, follows=follow))

    async def dial(lease: str, port: int) -> Response:
        """Reach a port in a container: raw bytes both ways."""
        return Duplex(lambda content: node.containers.dial(lease, port, content), media_type=OCTETS)

    async def ssh(lease: str) -> Response:
        """Speak SSH with a container's node: raw bytes both ways."""
        return Duplex(lambda content: node.containers.ssh(lease, content), media_type=OCTETS)

    async def ssh_facts(lease: str) -> Response:
        """The nodes at both ends of a container's SSH: their ids are its keys."""
        return json(await node.containers.ssh_facts(lease))

    async def get_files(lease: str, path: str = "") -> Response:
        """A file or folder of a container's working folder, as a tar archive."""
        return Duplex(lambda _: node.containers.get_files(lease, path), media_type=OCTETS)

    async def put_files(lease: str, folder: str = "") -> Response:
        """Unpack a tar archive, the request's body, below a container's working folder."""

        async def answering(content: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
            await node.containers.put_files(lease, folder, content)
            yield b"{}"

        return Duplex(answering, media_type="application/json")

    async def groups() -> Response:
        """The groups of containers."""
        return json(await node.containers.groups())

    async def change_group(request: Request) -> Response:
        """Make, change or drop a group."""
        return json(await node.containers.change_group(await body(request, schema.GroupRequest)))

    add(
        "POST",
        "/v1/containers",
        create_container,
        body=schema.CreateRequest,
        answer=schema.CreateEvent,
        is_stream=True,
    )
    add("GET", "/v1/containers", containers, answer=list[schema.ContainerRow])
    add(
        "POST",
        "/v1/containers/remove",
        remove_containers,
        body=schema.RemoveRequest,
        answer=list[schema.ContainerRow],
    )
    here = "/v1/containers/{lease}"
    add(
        "POST",
        f"{here}/exec",
        execute,
        body=schema.ExecLine,
        answer=RunEvent,
        is_stream=True,
        is_raw=True,
    )
    add("GET", f"{here}/log", container_log, answer=RunEvent, is_stream=True)
    add("POST", f"{here}/dial", dial, is_raw=True)
    add("POST", f"{here}/ssh", ssh, is_raw=True)
    add("GET", f"{here}/ssh", ssh_facts, answer=schema.SshFacts)
    add("GET", f"{here}/files", get_files, is_raw=True)
    add("POST", f"{here}/files", put_files, is_raw=True)
    add("GET", "/v1/groups", groups, answer=list[schema.GroupRow])
    add("POST", "/v1/groups", change_group, body=schema.GroupRequest, answer=list[schema.GroupRow])


async def _lines(content: AsyncIterator[bytes]) -> AsyncIterator[schema.ExecLine]:
    """Cut a body into lines; raise InvalidInput."""
    held = bytearray()
    async for piece in content:
        held += piece
        while (end := held.find(b"\n")) >= 0:
            line = bytes(held[:end])
            del held[: end + 1]
            if line:
                yield _decoded(line)
        if len(held) > _LINE_LIMIT_BYTES:
            raise InvalidInput("a line of the request is too long")


def _decoded(line: bytes) -> schema.ExecLine:
    try:
        return _line_decoder.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"the request is not valid: {error}") from error
