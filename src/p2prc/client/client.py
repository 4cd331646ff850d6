"""`Client`: nodes, containers and jobs of the network, for programs; one node speaks for it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypedDict

import msgspec

from p2prc.api.client import ControlClient
from p2prc.api.container_files import get_files, put_files
from p2prc.api.container_schema import ContainerRow, CreateEnded, CreateNote, CreateRequest
from p2prc.api.exec_call import ExecCall
from p2prc.api.schema import (
    Collected,
    JobDetail,
    JobRequest,
    JobRow,
    NodeRow,
    Status,
    TaskLog,
)
from p2prc.errors import FunctionFailed, JobInvalid, NodeNotRunning, TimedOut, WorkFailed
from p2prc.settings import home_folder

_OUTPUT_LIMIT_BYTES = 256 << 20
ENDED_STATES = ("succeeded", "failed", "cancelled")
_FIRST_LOOK_S, _LONGEST_WAIT_S = 0.05, 1.0
Values = str | Iterable[object]
"""The values of a range: text as `map --over` takes it (`1-250`, `1-9:2`, `a,b`), or the values."""
Notes = Callable[[str], None]


class Work(TypedDict, total=False):
    """What containers and jobs have in common; everything else is the node's own default.

    Bytes and seconds throughout. `network` is none, proxy or bridge.
    """

    requirements: list[str]
    variables: dict[str, str]
    image: str
    runtime: str
    tiers: list[str]
    network: str
    cpus: float
    memory_bytes: int
    disk_bytes: int
    gpus: int
    lifetime_s: float
    name: str


@dataclass(frozen=True, slots=True)
class Completed:
    """A command that ended: its status and what it printed."""

    exit: int
    output: bytes
    errors: bytes

    def check(self) -> Completed:
        """Return this. Raises WorkFailed for a status other than 0."""
        if self.exit != 0:
            lines = self.errors.decode("utf-8", "replace").strip().splitlines()
            last = f": {lines[-1][:300]}" if lines else ""
            raise WorkFailed(f"the command ended with status {self.exit}{last}")
        return self


class Client:
    """The network as this machine's node sees it. Methods raise `p2prc.errors`; most may wait.

    `home` is the node's folder; None is the one that P2PRC_HOME names, else `~/.p2prc`.
    """

    def __init__(self, home: str | Path | None = None) -> None:
        self._home = str(home_folder(None if home is None else str(home), os.environ))
        self._control = ControlClient(self._home)

    def status(self) -> Status:
        """Return how this node is. Raises NodeNotRunning."""
        return self._control.status()

    def nodes(self) -> list[NodeRow]:
        """Return every node of the network, this one among them."""
        return self._control.nodes()

    # -- containers

    def create(
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
    ) -> Container:
        """Get a container on a node; `command` is its main process if it shall have one.

        `work` holds keys of `Work`. It stays until its time is over or `remove` is called, also
        when this program ends; as a context manager it is given back at the end.
        """
        fields = {
            **work,
            "target": node,
            "argv": list(command),
            "ports": ports,
            "volumes": list(volumes),
            "group": group,
            "restart": restart,
        }
        with closing(self._control.create(_converted(fields, CreateRequest))) as events:
            for event in events:
                if isinstance(event, CreateEnded):
                    return Container(self._home, event.container)
                if isinstance(event, CreateNote) and on_note is not None:
                    on_note(event.message)
        raise NodeNotRunning("the node stopped before the container was there")

    def containers(self) -> list[Container]:
        """Return the containers that this node holds on other nodes."""
        return [Container(self._home, row) for row in self._control.containers()]

    # -- jobs

    def map(
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
    ) -> Job:
        """Run a command once for each value: `{NAME}` in it, `outputs` and `to` stands for it.

        `inputs` are files and folders here, `outputs` patterns of what comes back to the folder
        `to`; `on` names the only nodes allowed. That share of the tasks that `verify` says is done
        again on another node and compared; jobs of higher `priority` come first. Returns once the
        inputs are read: the job goes on without this program. Raises JobInvalid.
        """
        fields = {
            **work,
            "argv": list(command),
            "over": [f"{name}={_range(values)}" for name, values in over.items()],
            "inputs": [str(Path(path).absolute()) for path in inputs],
            "outputs": list(outputs),
            "to": None if to is None else str(Path(to).absolute()),
            "on": list(on),
            "chunk": chunk,
            "retries": retries,
            "verify": verify,
            # Whoever calls twice wants two.
            "again": True,
            "priority": priority,
        }
        created = self._control.submit(_converted(fields, JobRequest))
        return Job(self._control, created.id, created.key)

    def job(self, job: str) -> Job:
        """Return the job with an id, or with the beginning of one. Raises JobUnknown."""
        return Job(self._control, self._control.job(job).id)

    def jobs(self) -> list[JobRow]:
        """Return every job that this node knows."""
        return self._control.jobs()


class Container:
    """A container on some node; a context manager gives it back."""

    def __init__(self, home: str, row: ContainerRow) -> None:
        self.row = row
        self._home = home

    @property
    def id(self) -> str:
        """Its id: a lease."""
        return self.row.id

    def run(
        self,
        command: Sequence[str],
        *,
        content: bytes = b"",
        variables: Mapping[str, str] | None = None,
    ) -> Completed:
        """Run a command in it to its end, with `content` as its input.

        Raises FunctionFailed when it prints more than 256 MiB, CommandNotFound, LeaseEnded, ….
        """
        call = ExecCall(
            self._home, self.id, command, variables=variables, takes_input=bool(content)
        )
        printed: dict[int, list[bytes]] = {1: [], 2: []}
        size = 0
        try:
            if content:
                # Beside the reading: a command that prints while it reads would wait for ever.
                threading.Thread(target=_feed, args=(call, content), daemon=True).start()
            for output in call.outputs():
                printed.setdefault(output.channel, []).append(output.content)
                size += len(output.content)
                if size > _OUTPUT_LIMIT_BYTES:
                    raise FunctionFailed("the command printed more than 256 MiB")
        finally:
            call.close()
        return Completed(call.exit or 0, b"".join(printed[1]), b"".join(printed[2]))

    def put(self, source: str | Path, path: str = "", *, on_left_out: Notes | None = None) -> None:
        """Copy a file or folder to a path below its working folder."""
        tell = on_left_out or (lambda _: None)
        put_files(self._home, Path(source), self.id, path, on_left_out=tell)

    def get(self, path: str, target: str | Path) -> None:
        """Copy a file or folder from below its working folder to `target`."""
        get_files(self._home, self.id, path, Path(target), into=False)

    def remove(self) -> None:
        """Give it back: everything in it ends and is erased."""
        ControlClient(self._home).remove([self.id])

    def __enter__(self) -> Container:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


class Job:
    """A job of this node. `key` is known to who submitted it: whoever has it may collect."""

    def __init__(self, control: ControlClient, job: str, key: str = "") -> None:
        self.id = job
        self.key = key
        self._control = control

    def detail(self) -> JobDetail:
        """Return how far it is, by node, with its failures."""
        return self._control.job(self.id)

    def wait(
        self,
        timeout_s: float | None = None,
        *,
        on_progress: Callable[[JobDetail], None] | None = None,
    ) -> JobDetail:
        """Wait until it has ended, well or not; `on_progress` is called every second at least.

        Raises TimedOut; the job then goes on.
        """
        for wait_s in waits(timeout_s):
            detail = self.detail()
            if detail.state in ENDED_STATES:
                return detail
            if on_progress is not None:
                on_progress(detail)
            time.sleep(wait_s)
        raise TimedOut(f"the job has not ended after {timeout_s:g} s: it goes on")

    def results(self, to: str | Path) -> Collected:
        """Bring the outputs that there are to a folder."""
        return self._control.results(self.id, str(Path(to).absolute()))

    def logs(self, task: str | None = None) -> list[TaskLog]:
        """Return the end of what its tasks printed."""
        return self._control.task_logs(self.id, task)

    def retry(self) -> JobRow:
        """Try its failed tasks again."""
        return self._control.retry(self.id)

    def cancel(self) -> JobRow:
        """End it: nothing more of it runs."""
        return self._control.cancel(self.id)


def _feed(call: ExecCall, content: bytes) -> None:
    # It may end before it has read everything.
    with suppress(OSError):
        call.send(content)
        call.end_input()


def waits(timeout_s: float | None) -> Iterator[float]:
    """Yield how long to wait before each next look, until the time is over."""
    began, wait_s = time.monotonic(), _FIRST_LOOK_S
    while timeout_s is None or time.monotonic() - began < timeout_s:
        yield wait_s
        wait_s = min(wait_s * 1.5, _LONGEST_WAIT_S)


def _range(values: Values) -> str:
    if isinstance(values, str):
        return values
    texts = [str(value) for value in values]
    strange = next((text for text in texts if "," in text or not text), None)
    if strange is not None:
        raise JobInvalid(f"{strange!r} cannot be a value of a range: it is empty or holds a comma")
    return ",".join(texts)


def _converted(fields: Mapping[str, Any], kind: type[Any]) -> Any:
    unknown = set(fields) - set(kind.__struct_encode_fields__)
    if unknown:
        raise JobInvalid(f"there is no option {', '.join(sorted(unknown))}")
    try:
        return msgspec.convert(fields, kind)
    except msgspec.ValidationError as error:
        raise JobInvalid(f"not valid: {error}") from error
