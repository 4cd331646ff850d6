"""`python -m benchmarks.containers [PART …]`: leases that somebody works in, against their targets.

Parts: `process` (the runtime alone, beside bare bubblewrap), `daemon` (two nodes, by API and
command line, and what an idle one costs), `collector` (fifty leases looked at once a second),
`engine` (containers beside the engine's command line), `ssh` (commands and files
beside sshd), `warm` (containers that wait for their lease). All of them make one record.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.containers import collector, daemon, engine, process, ssh, warm
from benchmarks.containers.part import Part
from benchmarks.report import FIGURES, Figure, Record

PARTS: dict[str, Callable[[], Part]] = {
    "process": process.measure,
    "daemon": daemon.measure,
    "collector": collector.measure,
    "engine": engine.measure,
    "ssh": ssh.measure,
    "warm": warm.measure,
}
"""Each in its own module; in this order, for the later ones leave the machine busier."""
VERSIONS = (
    ("bwrap", "--version"),
    ("docker", "version", "--format", "{{.Server.Version}}"),
    ("ssh", "-V"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, keep; 1 when a target was missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.containers", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args(arguments)
    if unknown := set(given.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    record = measure(given.parts or list(PARTS))
    print(f"kept in {record.keep(given.to)}", flush=True)
    return int(not record.has_reached_all)


def measure(names: Sequence[str]) -> Record:
    """Measure these parts, showing figures as they come."""
    figures: list[Figure] = []
    missing: list[str] = []
    details: dict[str, Any] = {
        "load_before": [round(load, 2) for load in os.getloadavg()],
        "versions": {words[0]: _said(words) for words in VERSIONS},
    }
    for name in names:
        print(f"-- {name}", flush=True)
        began = time.monotonic()
        part = PARTS[name]()
        seconds = time.monotonic() - began
        print(f"took {seconds:.0f} s", flush=True)
        for line in (*part.missing, *part.figures):
            print(line, flush=True)
        figures += part.figures
        missing += part.missing
        details[name] = {
            what: [round(each, 5) for each in times] for what, times in part.times_s.items()
        }
    # Some parts alone do not replace the record of all.
    title = "-".join(["containers", *(names if set(names) != set(PARTS) else ())])
    return Record(title, figures, details, missing)


def _said(words: Sequence[str]) -> str:
    """Return the first line that a program says of its version, "" where it is not there."""
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return next(iter((done.stdout or done.stderr).splitlines()), "")


if __name__ == "__main__":
    sys.exit(main())
