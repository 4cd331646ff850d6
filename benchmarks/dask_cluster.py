"""Dask on `P2PCluster` against `LocalCluster` over tcp:// and tls://, on this machine.

`python -m benchmarks.dask_cluster`: the same work on three workers of each, one after another. The
packages of the workers are installed once before, which is not measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import dask
from distributed import Client, LocalCluster, wait
from distributed.security import Security

from benchmarks.network import open_network
from benchmarks.report import FIGURES, Figure, Record
from p2prc.dask import P2PCluster
from p2prc.dask.cluster import CONFIG

WORKERS = 3
SINGLE = 100
MANY = 10_000
BULK_BYTES = 200_000_000
_WAIT_S = 300
Opened = Callable[[], AbstractContextManager[Any]]


def same(value: int) -> int:
    """Return what was given."""
    return value


@contextmanager
def local(security: Any) -> Iterator[Any]:
    """Dask's own cluster on this machine, with a process for each worker."""
    with LocalCluster(
        n_workers=WORKERS, threads_per_worker=1, dashboard_address=None, security=security
    ) as cluster:
        yield cluster


def measure_cluster(open_cluster: Opened) -> dict[str, float]:
    """Return the seconds that each kind of work takes; the names are those of the figures."""
    found = {}
    began = time.perf_counter()
    with open_cluster() as cluster, Client(cluster) as client:
        client.wait_for_workers(WORKERS, timeout=_WAIT_S)
        found["up"] = time.perf_counter() - began
        client.gather(client.map(same, range(WORKERS * 10), pure=False))
        singles = []
        for number in range(SINGLE):
            began = time.perf_counter()
            client.submit(same, number, pure=False).result(_WAIT_S)
            singles.append(time.perf_counter() - began)
        found["one task"] = statistics.median(singles)
        began = time.perf_counter()
        client.gather(client.map(same, range(MANY), pure=False))
        found["map"] = time.perf_counter() - began
        first, second, *_ = client.scheduler_info(n_workers=-1)["workers"]
        content = os.urandom(BULK_BYTES)
        began = time.perf_counter()
        client.scatter(content, hash=False, direct=True, workers=[first])
        found["client to worker"] = time.perf_counter() - began
        made = client.submit(os.urandom, BULK_BYTES, workers=[first], pure=False)
        wait(made, timeout=_WAIT_S)
        began = time.perf_counter()
        assert client.submit(len, made, workers=[second], pure=False).result(_WAIT_S) == BULK_BYTES
        found["worker to worker"] = time.perf_counter() - began
    return found


def measure() -> Record:
    """Let all three do the same, with the same settings of Dask."""
    found = {}
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        open_network(Path(folder)) as nodes,
        dask.config.set(CONFIG),
    ):
        names = [node.name for node in nodes]

        def ours(workers: int = WORKERS) -> AbstractContextManager[Any]:
            made: AbstractContextManager[Any] = P2PCluster(
                workers, nodes=names, home=nodes[0].home, start_timeout_s=_WAIT_S
            )
            return made

        with ours():
            pass  # Every node has the packages now.
        found["p2prc"] = measure_cluster(ours)
        found["tcp"] = measure_cluster(lambda: local(None))
        found["tls"] = measure_cluster(lambda: local(Security.temporary()))
    return Record("dask", figures(found), {"seconds": found})


def figures(found: dict[str, dict[str, float]]) -> list[Figure]:
    """Return what we are of the others, and each on its own."""
    mine, tcp, tls = found["p2prc"], found["tcp"], found["tls"]
    megabytes = BULK_BYTES / 1e6
    return [
        Figure("cluster of three up", mine["up"], "s", at_most=3.0),
        Figure("one task, of tcp's time", mine["one task"] / tcp["one task"], at_most=1.1),
        Figure("map of 10,000 no-ops, of tcp's rate", tcp["map"] / mine["map"], at_least=0.8),
        *(
            Figure(f"{way}, of tls's rate", tls[way] / mine[way], at_least=0.5)
            for way in ("client to worker", "worker to worker")
        ),
        *(
            Figure(f"{name}: {way}", megabytes / seconds[way], "MB/s")
            for name, seconds in found.items()
            for way in ("client to worker", "worker to worker")
        ),
        *(
            Figure(f"{name}: map of 10,000", MANY / seconds["map"], "/s")
            for name, seconds in found.items()
        ),
    ]


def main() -> None:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dask_cluster", description=__doc__)
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args()
    record = measure()
    for figure in record.figures:
        print(figure, flush=True)
    print(f"kept in {record.keep(given.to)}")


if __name__ == "__main__":
    main()
