"""Dask's side of the comparison; runs in an environment of its own, where Dask is installed.

Three workers with a thread each, started once. For every `KIND COUNT` read from standard input it
runs that many functions and answers with the seconds: `command` runs `true` through `subprocess`,
`function` returns what it was given.
"""

from __future__ import annotations

import subprocess
import sys
import time

from distributed import Client, LocalCluster

WORKERS = 3


def run_true(_: int) -> int:
    return subprocess.run(["true"], check=False).returncode


def same(value: int) -> int:
    return value


def main() -> None:
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(run_true, range(WORKERS), pure=False))
        print("ready", flush=True)
        for line in sys.stdin:
            kind, count = line.split()
            function = run_true if kind == "command" else same
            began = time.perf_counter()
            found = client.gather(client.map(function, range(int(count)), pure=False))
            took_s = time.perf_counter() - began
            assert found == ([0] * int(count) if kind == "command" else list(range(int(count))))
            print(took_s, flush=True)


if __name__ == "__main__":
    main()
