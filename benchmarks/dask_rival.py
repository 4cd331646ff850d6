"""Dask's side of the comparison; runs in an environment of its own, where Dask is installed.

Three workers with a thread each, started once. For every number read from standard input it runs
that many `true` through `subprocess` and answers with the seconds.
"""

from __future__ import annotations

import subprocess
import sys
import time

from distributed import Client, LocalCluster  # type: ignore[import-not-found]

WORKERS = 3


def run_true(_: int) -> int:
    return subprocess.run(["true"], check=False).returncode


def main() -> None:
    with (
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.gather(client.map(run_true, range(WORKERS), pure=False))
        print("ready", flush=True)
        for line in sys.stdin:
            began = time.perf_counter()
            statuses = client.gather(client.map(run_true, range(int(line)), pure=False))
            took_s = time.perf_counter() - began
            assert not any(statuses)
            print(took_s, flush=True)


if __name__ == "__main__":
    main()
