"""`python -m benchmarks.figures`: the long runs, kept in figures/ with date and command.

`scale` takes hours of processor time: what ended is kept in figures/tmp and not run again. The
others take the better part of an hour on two cores. A name (`membership`, `scale`, `jobs`, `race`,
`connectivity`, `bench`) runs that part alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import connectivity, membership_race, simulated, work
from benchmarks.__main__ import measure_all
from benchmarks.report import FIGURES, Record

MEMBERSHIP_SEEDS = 20
JOB_SEEDS = 5000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts that were asked for; 1 when the simulations broke a promise."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.figures", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART")
    parser.add_argument("--membership-seeds", type=int, default=MEMBERSHIP_SEEDS)
    parser.add_argument(
        "--churn-node-hours", type=float, default=simulated.CHURN_NODE_HOURS, help="of `scale`"
    )
    parser.add_argument("--job-seeds", type=int, default=JOB_SEEDS)
    parser.add_argument("--race-nodes", type=int, default=membership_race.NODES)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the records")
    given = parser.parse_args(arguments)
    parts: dict[str, Callable[[], Record]] = {
        "membership": lambda: simulated.membership(given.membership_seeds),
        "scale": lambda: simulated.scale(given.membership_seeds, given.churn_node_hours),
        "jobs": lambda: simulated.jobs(given.job_seeds),
        "race": lambda: membership_race.race(given.race_nodes),
        "connectivity": connectivity.connectivity,
        "bench": lambda: measure_all(work.ROUNDS),
    }
    unknown = set(given.parts) - set(parts)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(parts)}")
    kept = [_kept(parts[name], name, given.to) for name in given.parts or parts]
    return int(any(record.name != "bench" and not record.has_reached_all for record in kept))


def _kept(run: Callable[[], Record], name: str, folder: Path) -> Record:
    print(f"-- {name}", flush=True)
    record = run()
    if name != "bench":  # It has shown its figures as they came.
        for figure in record.figures:
            print(figure)
    print(f"kept in {record.keep(folder)}", flush=True)
    return record


if __name__ == "__main__":
    sys.exit(main())
