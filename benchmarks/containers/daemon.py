"""Leases between two real daemons, as a user has them: by the control API, and by command line.

One node asks, the other lends; both are processes on this machine and speak over loopback. When all
is over the lender has served everything that belongs to containers, and its idle cost is taken.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks import idle
from benchmarks.containers.inhabitants import Inhabitants
from benchmarks.containers.part import Part, Took, median_ms, nothing_taken
from benchmarks.containers.process import BOMBS_OF, CREATE_MS, EXEC_MS, GONE_MS, PROCESSES, explode
from benchmarks.network import MeasuredNode, quiet_environment
from benchmarks.report import Figure
from p2prc.api.client import ControlClient
from p2prc.api.container_schema import CreateEnded, CreateRequest
from p2prc.api.exec_call import ExecCall
from p2prc.api.schema import KillRequest

ROUNDS = 15
COMMANDS = 3
COMMAND_LINES = 10
BOMBS = 5
IDLE_MB = 140.0
_JOINED_S = 30.0
_POLL_S = 0.1


def measure() -> Part:
    """Have one node lend to the other."""
    if os.geteuid() != 0:
        return Part([], missing=["daemon: needs root, like a node that gives each tenant a user"])
    took = nothing_taken()
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        open_pair(Path(folder)) as (asker, lender),
    ):
        pair = _Pair(asker, lender)
        pair.life(nothing_taken(), is_killed=True)
        for number in range(ROUNDS):
            pair.life(took, is_killed=number % 2 == 0)
        for _ in range(BOMBS):
            pair.bomb(took)
        pair.command_lines(took)
        pair.everything_else()
        figures = _figures(took)
        return Part([*figures, *_idle_figures(lender.pid)], took)


class _Pair:
    """Who asks and who lends."""

    def __init__(self, asker: MeasuredNode, lender: MeasuredNode) -> None:
        self._asker = asker
        self._target = lender.name
        self._asking = ControlClient(str(asker.home))
        self._lending = ControlClient(str(lender.home))

    def life(self, took: Took, *, is_killed: bool) -> None:
        """Note a lease's life: ended by its owner, or given back by who had it."""
        clock = time.perf_counter
        began = clock()
        lease = self._create()
        took["create"].append(clock() - began)
        for _ in range(COMMANDS):
            began = clock()
            for _output in (call := self._exec(lease, "true")).outputs():
                pass
            took["exec"].append(clock() - began)
            call.close()
        mark = uuid.uuid4().hex
        call = self._exec(lease, "sh", "-c", "sleep 1000; exit", mark)
        end = (lambda: self._kill(lease)) if is_killed else (lambda: self._remove(lease))
        _note_end(mark, end, "kill" if is_killed else "rm", took)
        call.close()
        if is_killed:
            self._remove(lease)

    def bomb(self, took: Took) -> None:
        """Note how long a fork bomb goes on once the owner kills it."""
        for kind, argv in BOMBS_OF.items():
            lease, mark = self._create(), uuid.uuid4().hex
            call = self._exec(lease, *argv, mark)
            _note_end(mark, lambda lease=lease: self._kill(lease), kind, took, explode)  # type: ignore[misc]
            call.close()
            self._remove(lease)

    def command_lines(self, took: Took) -> None:
        """Note the same by command line, and what the start of its Python alone takes."""
        for _ in range(COMMAND_LINES):
            name = f"c{uuid.uuid4().hex[:8]}"
            self._type(took, "create", self._target, "--runtime", "process", "--name", name)
            for _ in range(COMMANDS):
                self._type(took, "exec", name, "--", "true")
            self._type(took, "rm", name)
            self._type(took, "--version")
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", "pass"], env=quiet_environment(), check=True)
            took["Python alone"].append(time.perf_counter() - began)

    def _type(self, took: Took, *words: str) -> None:
        began = time.perf_counter()
        self._asker.p2prc(*words)
        took[f"{words[0]}, command line"].append(time.perf_counter() - began)

    def everything_else(self) -> None:
        """Have the nodes load what they load only when it is needed."""
        lease = self._create()
        self._asker.p2prc("cp", str(Path(__file__)), f"{lease}:copied")
        if shutil.which("ssh"):
            self._asker.p2prc("ssh", lease, "--", "true")
        self._remove(lease)

    def _create(self) -> str:
        # A tenth of a core: how much is lent must not matter.
        request = CreateRequest(target=self._target, runtime="process", cpus=0.1)
        for event in self._asking.create(request):
            if isinstance(event, CreateEnded):
                return event.container.id
        raise RuntimeError("no container was made")

    def _exec(self, lease: str, *argv: str) -> ExecCall:
        return ExecCall(str(self._asker.home), lease, argv)

    def _kill(self, lease: str) -> None:
        self._lending.kill(KillRequest(leases=[lease]))

    def _remove(self, lease: str) -> None:
        self._asking.remove([lease])


def _note_end(
    mark: str,
    end: Callable[[], None],
    what: str,
    took: Took,
    before: Callable[[Inhabitants], None] = lambda _: None,
) -> None:
    """Note how long it takes from the request until no process is left, and to the answer."""
    tenants = Inhabitants(mark)
    before(tenants)
    gone: list[float] = []
    watching = threading.Thread(target=lambda: gone.append(tenants.gone_at()))
    watching.start()
    began = time.perf_counter()
    end()
    took[f"{what}, answered"].append(time.perf_counter() - began)
    watching.join()
    took[f"{what}, gone"].append(gone[0] - began)


def _figures(took: Took) -> Sequence[Figure]:
    def figure(title: str, what: str, at_most: float | None = None) -> Figure:
        return Figure(f"daemon: {title}", median_ms(took[what]), "ms", at_most=at_most)

    bombs = [
        figure(f"kill to gone, {PROCESSES} {kind} that fork", f"{kind}, gone", GONE_MS)
        for kind in BOMBS_OF
    ]
    adds = median_ms(took["exec, command line"]) - median_ms(took["exec"])
    return [
        figure("create to usable, by its API", "create", CREATE_MS),
        figure("exec true, by its API", "exec", EXEC_MS),
        figure("kill to gone, by its API", "kill, gone", GONE_MS),
        *bombs,
        figure("rm, by its API, answered", "rm, answered"),
        figure("rm, by its API, gone", "rm, gone"),
        figure("create, command line", "create, command line"),
        figure("exec true, command line", "exec, command line"),
        Figure("daemon: of that the command line's own", adds, "ms"),
        figure("rm, command line", "rm, command line"),
        figure("`p2prc --version`", "--version, command line"),
        figure("`python -c pass`", "Python alone"),
    ]


def _idle_figures(pid: int) -> list[Figure]:
    """Return what the lender costs when nothing has happened for a while."""
    time.sleep(idle.SETTLE_S)
    [cost] = idle.watch_each([pid])
    helpers = idle.descendants(pid)
    shares = sum(map(_share_mb, helpers))
    return [
        Figure("daemon: idle, resident", cost.resident_mb, "MB", at_most=IDLE_MB),
        Figure("daemon: idle, its share of memory (PSS)", _share_mb(pid), "MB"),
        Figure(f"daemon: its idle helpers ({len(helpers)}), their share", shares, "MB"),
        Figure("daemon: idle, CPU of a core", cost.cpu_percent, "%"),
    ]


def _share_mb(pid: int) -> float:
    """Return a process's memory, what it shares split between those who share it."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:")) * 1024 / 1e6


@contextmanager
def open_pair(folder: Path) -> Iterator[tuple[MeasuredNode, MeasuredNode]]:
    """Two joined nodes with every runtime that the machine has; stopped at the end."""
    nodes = MeasuredNode(folder / "ada", "ada"), MeasuredNode(folder / "grace", "grace")
    started = []
    try:
        for node in nodes:
            place = ("--name", node.name, "--listen", "127.0.0.1:0", "--relay", "none")
            node.p2prc("up", "--detach", *place, "--memory", "8G", "--disk", "32G")
            started.append(node)
        nodes[1].p2prc("join", nodes[0].p2prc("invite", "--lan").strip())
        ends_at = time.monotonic() + _JOINED_S
        while sum(row["state"] == "alive" for row in nodes[0].json("nodes")) < len(nodes):
            if time.monotonic() > ends_at:
                raise RuntimeError("the two nodes do not see each other")
            time.sleep(_POLL_S)
        yield nodes
    finally:
        for node in started:
            node.p2prc("down")
