"""One worker of a cluster: a container on a node that is named, and Dask's worker in it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask
import distributed
from distributed.core import Status
from distributed.deploy.spec import ProcessInterface

from p2prc.api.client import ControlClient
from p2prc.api.exec_call import ExecCall
from p2prc.api.tunnel_schema import ForwardRequest
from p2prc.client.client import Client, Container
from p2prc.dask.hub import Hub, Member
from p2prc.dask.sent import p2prc_dask_comm as comm
from p2prc.errors import P2prcError, PeerBusy, PeerMisbehaved, TimedOut, WorkFailed

LINE_LIMIT_BYTES = 64 * 1024
SENT = ("p2prc_dask_comm.py", "p2prc_dask_worker.py")
_SENT_FOLDER = Path(comm.__file__).parent


@dataclass(frozen=True, slots=True)
class Place:
    """Where workers run and with what; `sockets` is a folder that only this user may enter."""

    home: str
    nodes: Sequence[str]
    work: Mapping[str, Any]
    sockets: Path
    nthreads: int
    resources: Mapping[str, float]
    start_timeout_s: float
    python: str = "python3"
    config: Mapping[str, Any] = field(default_factory=dict)


class PeerWorker(ProcessInterface):
    """What the cluster knows of a worker. Its end is told to the scheduler when it happens."""

    def __init__(
        self, scheduler: str, name: object, *, hub: Hub, place: Place, served_by: Any
    ) -> None:
        super().__init__(scheduler=scheduler, name=name)
        self._scheduler = scheduler
        self._worker_name = name
        self._member = f"worker-{name}"
        self._hub = hub
        self._place = place
        self._served_by = served_by
        self._loop = asyncio.get_running_loop()
        self._said: asyncio.Queue[dict[str, Any] | P2prcError] = asyncio.Queue()
        self._container: Container | None = None
        self._call: ExecCall | None = None
        self._tunnel = ""
        self._errors = b""
        self.node_name = ""

    async def start(self) -> None:
        """Get a container, and in it a worker that has registered. Raises P2prcError."""
        try:
            async with asyncio.timeout(self._place.start_timeout_s):
                await self._start()
        except TimeoutError:
            await self.close()
            raise TimedOut(
                f"no worker in {self._place.start_timeout_s:g} s{self._last_words()}"
            ) from None
        except BaseException:
            await self.close()
            raise
        await super().start()

    async def _start(self) -> None:
        self._container = await asyncio.to_thread(self._lease)
        self.node_name = self._container.row.node_name
        for name in SENT:
            await asyncio.to_thread(self._container.put, _SENT_FOLDER / name, name)
        self._call = await asyncio.to_thread(
            lambda: ExecCall(
                self._place.home,
                self._container.id if self._container else "",
                [self._place.python, SENT[1]],
                takes_input=True,
            )
        )
        threading.Thread(target=self._listen, args=(self._call,), daemon=True).start()
        hello = await self._next("hello")
        self._check_versions(hello)
        path = str(self._place.sockets / f"{self._member}.sock")
        request = ForwardRequest(self._container.id, str(int(hello["port"])), path)
        row = await asyncio.to_thread(ControlClient(self._place.home).forward, request)
        self._tunnel = row.id
        self._hub.add(Member(self._member, path, self._refuse))
        self._tell(
            {
                "name": self._member,
                "worker": self._worker_name,
                "cluster": self._hub.cluster,
                "scheduler": self._scheduler,
                "nthreads": self._place.nthreads,
                "memory_limit": self._place.work.get("memory_bytes") or 0,
                "resources": dict(self._place.resources),
                "config": dict(self._place.config),
            }
        )
        await self._next("ready")
        self.address = comm.address(self._member, self._hub.cluster)

    def _lease(self) -> Container:
        """Ask the nodes in turn, each worker beginning at another."""
        nodes = self._place.nodes
        number = self._worker_name if isinstance(self._worker_name, int) else 0
        refusals: list[str] = []
        for step in range(len(nodes)):
            node = nodes[(number + step) % len(nodes)]
            try:
                return Client(self._place.home).create(node, **self._place.work)
            except P2prcError as error:
                if len(nodes) == 1:
                    raise
                refusals.append(f"{node}: {error.message}")
        raise PeerBusy(
            f"no room for another worker: {'; '.join(refusals)}",
            hint="name more nodes, or ask for less",
        )

    def _check_versions(self, hello: Mapping[str, Any]) -> None:
        ours = {
            "python": list(sys.version_info[:2]),
            "distributed": distributed.__version__,
            "dask": dask.__version__,
        }
        for name, version in ours.items():
            if hello.get(name) != version:
                raise WorkFailed(
                    f"{name} is {_shown(version)} here and {_shown(hello.get(name))} at "
                    f"{self.node_name}: a cluster needs the same",
                    hint="name an `image` with your versions, or another node",
                )

    async def close(self) -> None:
        """End it and give its container back."""
        self._hub.remove(self._member)
        call, self._call = self._call, None
        container, self._container = self._container, None
        tunnel, self._tunnel = self._tunnel, ""
        if call is not None:
            call.close()
        if tunnel:
            await _quietly(ControlClient(self._place.home).end_tunnel, tunnel)
        if container is not None:
            await _quietly(container.remove)
        await super().close()

    # -- its stream

    def _tell(self, line: dict[str, Any]) -> None:
        if self._call is not None:
            self._call.send(json.dumps(line).encode() + b"\n")

    def _refuse(self, number: str, reason: str) -> None:
        with contextlib.suppress(OSError):
            self._tell({"refuse": [number, reason]})

    def _listen(self, call: ExecCall) -> None:
        """Read what it says, in a thread of its own, to its end."""
        held = b""
        ended: P2prcError = WorkFailed("the worker ended")
        try:
            for output in call.outputs():
                if output.channel != 1:
                    self._errors = (self._errors + output.content)[-4000:]
                    continue
                *lines, held = (held + output.content).split(b"\n")
                for line in lines:
                    self._post(self._heard, line)
                if len(held) > LINE_LIMIT_BYTES:
                    raise PeerMisbehaved("a worker said too long a line")
        except P2prcError as error:
            ended = error
        except (OSError, ValueError) as error:
            ended = WorkFailed(f"the worker's stream broke: {error}")
        self._post(self._lost, ended)

    def _post(self, call: Any, *values: object) -> None:
        # The loop is gone with the program.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *values)

    def _heard(self, line: bytes) -> None:
        try:
            said = json.loads(line)
            if "dial" in said:
                number, target = said["dial"]
                self._hub.asked(self._member, str(number)[:20], str(target)[:100])
            else:
                self._said.put_nowait(said)
        except (ValueError, TypeError):
            self._said.put_nowait(PeerMisbehaved("a worker said what is no line of a worker"))

    def _lost(self, error: P2prcError) -> None:
        self._said.put_nowait(error)
        self._hub.remove(self._member)
        if self.status == Status.running and self._call is not None:
            # Dask itself would wait for its own time-outs.
            task = asyncio.ensure_future(
                self._served_by().remove_worker(
                    self.address, stimulus_id=f"p2prc-worker-ended-{self._member}", close=False
                )
            )
            task.add_done_callback(lambda done: done.cancelled() or done.exception())

    async def _next(self, word: str) -> Any:
        said = await self._said.get()
        if isinstance(said, P2prcError):
            raise WorkFailed(f"the worker ended: {said.message}{self._last_words()}")
        if "failed" in said:
            raise WorkFailed(f"the worker did not start: {str(said['failed'])[:500]}")
        if word not in said:
            raise PeerMisbehaved(f"a worker said something else than `{word}`")
        return said[word]

    def _last_words(self) -> str:
        lines = self._errors.decode("utf-8", "replace").strip().splitlines()
        return f": {lines[-1][:300]}" if lines else ""


def _shown(version: object) -> str:
    if isinstance(version, list):
        return ".".join(str(part)[:10] for part in version[:3])
    return str(version)[:40]


async def _quietly(call: Any, *values: object) -> None:
    # What is gone already needs no end.
    with contextlib.suppress(P2prcError, OSError):
        await asyncio.to_thread(call, *values)
