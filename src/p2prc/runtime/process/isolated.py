"""The place for `--isolate`: a sandbox for every command, started by bubblewrap directly."""

# ruff: noqa: PTH113, PTH118
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import errno
import os

from p2prc.runtime.process import bubblewrap, watch
from p2prc.runtime.process.bubble import Bubble, bubblewrapped
from p2prc.runtime.process.caps import Caps
from p2prc.runtime.process.messages import Execute
from p2prc.runtime.process.places import Finished, Streams, reaped


class IsolatedPlace:
    """A sandbox for every command, without an agent: bubblewrap runs it directly."""

    channel = -1

    def __init__(self, bwrap: str, walls: bubblewrap.Walls, caps: Caps) -> None:
        self._bwrap = bwrap
        self._options = bubblewrap.options(walls, is_agent=False)
        # bubblewrap's own first process counts too, but is not one of the tenant's.
        self._caps = caps._replace(processes=caps.processes + 1)
        self._folders = (
            (bubblewrap.WORK, f"{walls.folder}/work"),
            (bubblewrap.INPUTS, f"{walls.folder}/inputs"),
            (bubblewrap.ENVIRONMENT, walls.environment),
            ("/run", f"{walls.assets}/run"),
            *((target, source) for source, target in walls.volumes),
        )
        self._request: Execute | None = None
        self._variables: dict[str, str] = {}
        self._sandbox: Bubble | None = None
        self._code: int | None = None
        self._used = 0.0
        self._peak = 0

    def open(self) -> None:
        """Do nothing: there is nothing to share."""

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        options = self._options + bubblewrap.variables(variables)
        fds = {1: streams.out, 2: streams.err}
        if streams.source >= 0:
            fds[0] = streams.source
        sandbox = Bubble(bubblewrapped(self._bwrap, options, request.argv, fds))
        self._sandbox, self._code, self._used, self._peak = sandbox, None, 0.0, 0
        self._request, self._variables = request, variables
        if sandbox.confine(self._caps, request.cores):
            sandbox.be_last_in_line()
        sandbox.let_go()

    def poll(self) -> list[Finished]:
        if self._sandbox is None or self._request is None:
            # Of a sandbox that is gone an orphan may come to us later.
            reaped()
            return []
        # Before we take leave: what it used comes with the farewell of its first process.
        is_init_gone = self._sandbox.is_init_gone
        for pid, code, usage in reaped():
            self._used += usage.ru_utime + usage.ru_stime
            self._peak = max(self._peak, usage.ru_maxrss * 1024)
            if pid == self._sandbox.monitor:
                self._code = os.waitstatus_to_exitcode(code)
        if self._code is None or not is_init_gone:
            return []
        has_started = self._sandbox.close()
        self._sandbox = None
        number, used = self._request.number, (self._used, self._peak)
        if has_started:
            return [Finished(number, self._code, 0, *used)]
        return [Finished(number, None, self._why_not_started(), *used)]

    def _why_not_started(self) -> int:
        """Guess from outside; 0 when the command looks fine and the sandbox must be to blame."""
        assert self._request is not None
        name = self._request.argv[0]
        places = [folder for folder in self._variables.get("PATH", "").split(":") if folder]
        if "/" in name:
            places = [bubblewrap.WORK]
        found = [self._outside(os.path.join(place, name)) for place in places]
        found = [path for path in found if os.path.isfile(path)]
        if not found:
            return errno.ENOENT
        return 0 if any(os.access(path, os.X_OK) for path in found) else errno.EACCES

    def _outside(self, path: str) -> str:
        """Return where a path of the sandbox is on the host."""
        for inside, outside in self._folders:
            if path == inside or path.startswith(f"{inside}/"):
                return outside + path.removeprefix(inside)
        return path

    def stop(self, number: int) -> None:
        self.kill()

    def kill(self) -> None:
        if self._sandbox is not None:
            self._sandbox.kill()

    def processes(self) -> list[int]:
        init = self.init()
        return [init, *watch.descendants(init)] if init else []

    def cpu_s(self, pids: list[int] | None = None) -> float:
        return watch.cpu_s(self.processes() if pids is None else pids)

    def init(self) -> int:
        return self._sandbox.init if self._sandbox is not None else 0
