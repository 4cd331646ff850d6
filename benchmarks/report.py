"""Figures with their targets: how they are shown, and how they are kept with date and command."""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
FIGURES = REPOSITORY / "figures"
_TABLE_HEAD = (
    "# Figures\n\n"
    "Measurements that were kept, newest run of each day; `docs/benchmarks.md` says what each\n"
    "means. Ratios compare contenders of one run on one machine: trust them, not the absolutes.\n\n"
    "| file | command | machine | what it found |\n|---|---|---|---|\n"
)


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number, and what it should be; without a target it is only told."""

    title: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def is_reached(self) -> bool | None:
        """Whether the target is reached; None without one."""
        if self.at_least is not None:
            return self.value >= self.at_least
        if self.at_most is not None:
            return self.value <= self.at_most
        return None

    @property
    def target(self) -> str:
        """The target as text, "" without one."""
        if self.at_least is not None:
            return f"at least {self.at_least:g}"
        return "" if self.at_most is None else f"at most {self.at_most:g}"

    def __str__(self) -> str:
        verdict = {None: "", True: "reached", False: "MISSED"}[self.is_reached]
        value = f"{_short(self.value)} {self.unit}".strip()
        return f"{self.title:<58} {value:>12}  {self.target:<14} {verdict}".rstrip()


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"


@dataclass(frozen=True, slots=True)
class Record:
    """One run to be kept: its figures, and what they were made of."""

    name: str
    figures: Sequence[Figure]
    details: dict[str, Any]
    missing: Sequence[str] = ()

    @property
    def has_reached_all(self) -> bool:
        """Whether no target was missed."""
        return all(figure.is_reached is not False for figure in self.figures)

    def keep(self, folder: Path = FIGURES) -> Path:
        """Write the record and its line in the folder's table; return the file."""
        now = datetime.now(UTC)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}-{now:%Y-%m-%d}.json"
        content = {
            "date": now.isoformat(timespec="seconds"),
            "command": command_line(),
            "commit": _commit(),
            "machine": machine(),
            "figures": [
                {**asdict(figure), "reached": figure.is_reached} for figure in self.figures
            ],
            "missing": list(self.missing),
            **self.details,
        }
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        _enter(folder / "README.md", path.name, self._line(path.name))
        return path

    def _line(self, name: str) -> str:
        aimed = [figure for figure in self.figures if figure.is_reached is not None]
        reached = sum(bool(figure.is_reached) for figure in aimed)
        missed = "; missed: " + ", ".join(
            f"{figure.title} ({_short(figure.value)} {figure.unit})".replace(" )", ")")
            for figure in aimed
            if not figure.is_reached
        )
        found = f"{reached} of {len(aimed)} targets reached" + missed * (reached < len(aimed))
        if self.missing:
            found += f"; {len(self.missing)} rivals were missing"
        facts = machine()
        at = f"{facts['cores']} cores, {facts['cpu']}"
        return f"| [{name}]({name}) | `{command_line()}` | {at} | {found} |"


def _enter(table: Path, name: str, line: str) -> None:
    """Put a line into the table; a record that was written again replaces its line."""
    text = table.read_text(encoding="utf-8") if table.exists() else _TABLE_HEAD
    kept = [old for old in text.splitlines() if not old.startswith(f"| [{name}]")]
    table.write_text("\n".join([*kept, line]) + "\n", encoding="utf-8")


def command_line() -> str:
    """Return how this process was started, as somebody would type it."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    name = sys.argv[0] if module is None else module.name.removesuffix(".__main__")
    return shlex.join(["python", "-m", name, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """Return what a reader needs to judge the figures by."""
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    """Return the commit that was measured, "" outside of a checkout."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except OSError:
        return ""
    return found.stdout.strip()
