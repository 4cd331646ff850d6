"""`AsyncClient`: `Client` for programs with an event loop; each call waits in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from p2prc.api.schema import Collected, JobDetail, JobRow, NodeRow, Status, TaskLog
from p2prc.client.client import (
    ENDED_STATES,
    Client,
    Completed,
    Container,
    Job,
    Notes,
    Values,
    waits,
)
from p2prc.errors import TimedOut


class AsyncClient:
    """The network as this machine's node sees it; see `Client` for what each method does."""

    def __init__(self, home: str | Path | None = None) -> None:
        self._client = Client(home)

    async def status(self) -> Status:
        return await asyncio.to_thread(self._client.status)

    async def nodes(self) -> list[NodeRow]:
        return await asyncio.to_thread(self._client.nodes)

    async def create(
        self,
        node: str = "any",
        command: Sequence[str] = (),
        *,
        ports: int = 0,
        volumes: Sequence[str] = (),
        group: str = "",
        restart: str = "no",
        on_note: Notes | None = None,
        **work: Any,
    ) -> AsyncContainer:
        def create() -> Container:
            return self._client.create(
                node,
                command,
                ports=ports,
                volumes=volumes,
                group=group,
                restart=restart,
                on_note=on_note,
                **work,
            )

        return AsyncContainer(await asyncio.to_thread(create))

    async def containers(self) -> list[AsyncContainer]:
        return [AsyncContainer(one) for one in await asyncio.to_thread(self._client.containers)]

    async def map(
        self,
        command: Sequence[str],
        *,
        over: Mapping[str, Values],
        inputs: Sequence[str | Path] = (),
        outputs: Sequence[str] = (),
        to: str | Path | None = None,
        on: Sequence[str] = (),
        chunk: int = 1,
        retries: int | None = None,
        verify: float = 0.0,
        priority: int = 0,
        **work: Any,
    ) -> AsyncJob:
        def submit() -> Job:
            return self._client.map(
                command,
                over=over,
                inputs=inputs,
                outputs=outputs,
                to=to,
                on=on,
                chunk=chunk,
                retries=retries,
                verify=verify,
                priority=priority,
                **work,
            )

        return AsyncJob(await asyncio.to_thread(submit))

    async def job(self, job: str) -> AsyncJob:
        return AsyncJob(await asyncio.to_thread(self._client.job, job))

    async def jobs(self) -> list[JobRow]:
        return await asyncio.to_thread(self._client.jobs)


class AsyncContainer:
    """A container on some node; `async with` gives it back."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.id = container.id
        self.row = container.row

    async def run(
        self,
        command: Sequence[str],
        *,
        content: bytes = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        return await asyncio.to_thread(
            self._container.run, command, content=content, variables=variables
        )

    async def put(
        self, source: str | Path, path: str = "", *, on_left_out: Notes | None = None
    ) -> None:
        await asyncio.to_thread(self._container.put, source, path, on_left_out=on_left_out)

    async def get(self, path: str, target: str | Path) -> None:
        await asyncio.to_thread(self._container.get, path, target)

    async def remove(self) -> None:
        await asyncio.to_thread(self._container.remove)

    async def __aenter__(self) -> AsyncContainer:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.remove()


class AsyncJob:
    """A job of this node."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self.id = job.id
        self.key = job.key

    async def detail(self) -> JobDetail:
        return await asyncio.to_thread(self._job.detail)

    async def wait(
        self,
        timeout_s: float | None = None,
        *,
        on_progress: Callable[[JobDetail], None] | None = None,
    ) -> JobDetail:
        for wait_s in waits(timeout_s):
            detail = await self.detail()
            if detail.state in ENDED_STATES:
                return detail
            if on_progress is not None:
                on_progress(detail)
            await asyncio.sleep(wait_s)
        raise TimedOut(f"the job has not ended after {timeout_s:g} s: it goes on")

    async def results(self, to: str | Path) -> Collected:
        return await asyncio.to_thread(self._job.results, to)

    async def logs(self, task: str | None = None) -> list[TaskLog]:
        return await asyncio.to_thread(self._job.logs, task)

    async def retry(self) -> JobRow:
        return await asyncio.to_thread(self._job.retry)

    async def cancel(self) -> JobRow:
        return await asyncio.to_thread(self._job.cancel)
