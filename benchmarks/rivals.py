"""The other contenders: GNU parallel, bubblewrap alone, Dask. Each may be missing, and says so."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.network import quiet_environment
from benchmarks.report import REPOSITORY

BWRAP = ("bwrap", "--ro-bind", "/", "/", "--unshare-all", "true")
DASK_FOLDER = REPOSITORY / ".tools" / "dask"
DASK_TOLD = (
    "Dask is not there: `uv venv .tools/dask && uv pip install --python .tools/dask "
    "'distributed>=2025'` installs it beside the project"
)
_JOBS = 3


def missing() -> list[str]:
    """Return a line for each rival that is not there, with how to install it."""
    told = [
        f"`{name}` is not there: `apt-get install {package}` installs it"
        for name, package in (("parallel", "parallel"), ("bwrap", "bubblewrap"))
        if shutil.which(name) is None
    ]
    return told if dask_python() else [*told, DASK_TOLD]


def dask_python() -> Path | None:
    """Return the interpreter that has Dask (also from BENCH_DASK_PYTHON), if there is one."""
    path = Path(os.environ.get("BENCH_DASK_PYTHON") or DASK_FOLDER / "bin" / "python")
    return path if path.exists() else None


def has_parallel() -> bool:
    return shutil.which("parallel") is not None


def has_bubblewrap() -> bool:
    return shutil.which("bwrap") is not None


def timed(argv: Sequence[str]) -> float:
    """Run a command to its end and return the seconds it took; it must succeed."""
    environment = quiet_environment()
    began = time.perf_counter()
    done = subprocess.run(argv, env=environment, check=False, capture_output=True, timeout=600)
    took_s = time.perf_counter() - began
    if done.returncode != 0:
        said = done.stderr.decode(errors="replace").strip()[-2000:]
        raise RuntimeError(f"{shlex.join(argv[:8])} failed with {done.returncode}: {said}")
    return took_s


def parallel_s(command: Sequence[str], count: int) -> float:
    """Return the seconds that GNU parallel takes for so many commands, three at a time."""
    numbers = map(str, range(count))
    return timed(["parallel", f"-j{_JOBS}", "-N0", *command, ":::", *numbers])


class Dask:
    """A running LocalCluster in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def seconds(self, count: int, kind: str = "command") -> float:
        """Return the seconds that it takes for so many commands, or no-op functions."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{kind} {count}\n")
        self._process.stdin.flush()
        return float(self.heard())

    def heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("Dask went away; is `distributed` installed in its environment?")
        return line.strip()


@contextmanager
def open_dask() -> Iterator[Dask | None]:
    """Dask, ready; None when it is not installed."""
    python = dask_python()
    if python is None:
        yield None
        return
    program = str(Path(__file__).with_name("dask_rival.py"))
    with subprocess.Popen(
        [str(python), program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env=quiet_environment(),
    ) as process:
        dask = Dask(process)
        while dask.heard() != "ready":
            pass
        yield dask
        assert process.stdin is not None
        process.stdin.close()
