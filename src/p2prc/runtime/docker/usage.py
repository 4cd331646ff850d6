"""What a container uses, from the kernel's own files where they can be read."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_CGROUPS = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Sample:
    """One look at a container. `kills` counts processes that ran out of memory."""

    cpu_s: float = 0.0
    memory_bytes: int = 0
    memory_peak_bytes: int = 0
    processes: int = 0
    kills: int = 0


class Meter:
    """The control groups of one container, of either version of the kernel's interface."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = folders

    def sample(self) -> Sample | None:
        """Read the files; None when they are gone."""
        try:
            return self._version2() if "" in self._folders else self._version1()
        except (OSError, ValueError, KeyError):
            return None

    def processes(self) -> list[int]:
        """Return the pids of everything in the container, as the host numbers them."""
        folder = self._folders.get("") or self._folders.get("pids")
        try:
            return [int(pid) for pid in ((folder or Path()) / "cgroup.procs").read_text().split()]
        except (OSError, ValueError):
            return []

    def lift_cpu_limit(self) -> None:
        """Let the container use all processors: what is to die needs time for it."""
        folder = self._folders.get("") or self._folders.get("cpu") or Path()
        name, free = ("cpu.max", "max") if "" in self._folders else ("cpu.cfs_quota_us", "-1")
        with contextlib.suppress(OSError):
            (folder / name).write_text(free)

    def signal_all(self, container: str, *, spared: int) -> None:
        """Kill what is in the container from out here, all but one: sooner than its first process
        gets its turn among a fork bomb. What is born meanwhile is left to that one.
        """
        for pid in self.processes():
            if pid == spared:
                continue
            with contextlib.suppress(OSError):
                handle = os.pidfd_open(pid)
                try:
                    # The number may be somebody else's by now; a handle stays one process's.
                    if container in Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii"):
                        signal.pidfd_send_signal(handle, signal.SIGKILL)
                finally:
                    os.close(handle)

    def _version1(self) -> Sample:
        memory, pids = self._folders["memory"], self._folders["pids"]
        kills = _values(memory / "memory.oom_control").get("oom_kill", 0)
        return Sample(
            cpu_s=_number(self._folders["cpuacct"] / "cpuacct.usage") / 1e9,
            memory_bytes=_number(memory / "memory.usage_in_bytes")
            - _values(memory / "memory.stat").get("total_inactive_file", 0),
            memory_peak_bytes=_number(memory / "memory.max_usage_in_bytes"),
            processes=max(0, _number(pids / "pids.current") - 1),
            kills=kills,
        )

    def _version2(self) -> Sample:
        folder = self._folders[""]
        now = _number(folder / "memory.current")
        peak = now
        with contextlib.suppress(OSError):
            peak = _number(folder / "memory.peak")
        return Sample(
            cpu_s=_values(folder / "cpu.stat")["usage_usec"] / 1e6,
            memory_bytes=now - _values(folder / "memory.stat").get("inactive_file", 0),
            memory_peak_bytes=peak,
            processes=max(0, _number(folder / "pids.current") - 1),
            kills=_values(folder / "memory.events").get("oom_kill", 0),
        )


def meter_of(pid: int, container: str) -> Meter | None:
    """Return the meter of the container whose first process has this pid on this machine.

    None where the engine is on another machine or in a virtual one: the pid is then not ours,
    and its groups do not bear the container's id.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    folders: dict[str, Path] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if container not in path:
            continue
        for controller in controllers.split(","):
            mount = _CGROUPS / controllers if controllers else _CGROUPS
            folders[controller] = mount / path.lstrip("/")
    folders = {name: folder for name, folder in folders.items() if folder.is_dir()}
    if "" in folders and not (folders[""] / "memory.current").exists():
        del folders[""]
    is_enough = "" in folders or {"memory", "pids", "cpuacct"} <= folders.keys()
    return Meter(folders) if is_enough else None


def sample_of(statistics: Mapping[str, Any]) -> Sample:
    """Return what the engine's own statistics say."""
    memory = statistics.get("memory_stats") or {}
    cpu = (statistics.get("cpu_stats") or {}).get("cpu_usage") or {}
    pids = (statistics.get("pids_stats") or {}).get("current") or 0
    return Sample(
        cpu_s=int(cpu.get("total_usage") or 0) / 1e9,
        memory_bytes=int(memory.get("usage") or 0),
        memory_peak_bytes=int(memory.get("max_usage") or 0),
        processes=max(0, int(pids) - 1),
    )


def _number(path: Path) -> int:
    return int(path.read_text(encoding="ascii"))


def _values(path: Path) -> dict[str, int]:
    found = {}
    for line in path.read_text(encoding="ascii").splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            found[name] = int(value)
    return found
