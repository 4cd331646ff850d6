"""The other contenders: GNU parallel, bubblewrap, Dask, HyperQueue. Who is missing is named."""

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
HYPERQUEUE_FOLDER = REPOSITORY / ".tools" / "hyperqueue"
HYPERQUEUE_TOLD = (
    "HyperQueue is not there: `uv venv .tools/hyperqueue && uv pip install --python "
    ".tools/hyperqueue hyperqueue` installs it beside the project"
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


def missing_for_commands() -> list[str]:
    """Return the same for those who run commands alone."""
    told = [] if has_parallel() else ["`parallel` is not there: `apt-get install parallel`"]
    return told if hyperqueue_python() else [*told, HYPERQUEUE_TOLD]


def dask_python() -> Path | None:
    """Return the interpreter that has Dask (also from BENCH_DASK_PYTHON), if there is one."""
    return _python("BENCH_DASK_PYTHON", DASK_FOLDER)


def hyperqueue_python() -> Path | None:
    """Return the interpreter that has HyperQueue (also from BENCH_HYPERQUEUE_PYTHON)."""
    return _python("BENCH_HYPERQUEUE_PYTHON", HYPERQUEUE_FOLDER)


def _python(variable: str, folder: Path) -> Path | None:
    path = Path(os.environ.get(variable) or folder / "bin" / "python")
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


class Rival:
    """A running rival in a process of its own, which answers lines with seconds."""

    def __init__(self, name: str, process: subprocess.Popen[str]) -> None:
        self._name = name
        self._process = process

    def asked(self, line: str) -> float:
        """Say what to do and return the seconds that it took."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return float(self.heard())

    def heard(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} went away; is it installed in its environment?")
        return line.strip()


class Dask:
    """A running LocalCluster."""

    def __init__(self, rival: Rival) -> None:
        self._rival = rival

    def seconds(self, count: int, kind: str = "command") -> float:
        """Return the seconds that it takes for so many commands, or no-op functions."""
        return self._rival.asked(f"{kind} {count}")


class HyperQueue:
    """A running server with its workers."""

    def __init__(self, rival: Rival) -> None:
        self._rival = rival

    def seconds(self, count: int) -> float:
        """Return the seconds that it takes for so many commands."""
        return self._rival.asked(str(count))


@contextmanager
def open_dask() -> Iterator[Dask | None]:
    """Dask, ready; None when it is not installed."""
    with _open("Dask", dask_python(), "dask_rival.py") as rival:
        yield None if rival is None else Dask(rival)


@contextmanager
def open_hyperqueue() -> Iterator[HyperQueue | None]:
    """HyperQueue, ready; None when it is not installed."""
    with _open("HyperQueue", hyperqueue_python(), "hyperqueue_rival.py") as rival:
        yield None if rival is None else HyperQueue(rival)


@contextmanager
def _open(name: str, python: Path | None, program: str) -> Iterator[Rival | None]:
    if python is None:
        yield None
        return
    with subprocess.Popen(
        [str(python), str(Path(__file__).with_name(program))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=sys.stderr,
        text=True,
        env=quiet_environment(),
    ) as process:
        rival = Rival(name, process)
        while rival.heard() != "ready":
            pass
        yield rival
        assert process.stdin is not None
        process.stdin.close()
