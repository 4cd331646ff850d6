"""HyperQueue's side of the comparison; runs in an environment of its own, where it is installed.

Three workers with a core each, started once. For every number read from standard input it runs
`true` that often and answers with the seconds. Its Python client looks for the end once a second;
so a last task, which waits for all others, writes down when that was.
"""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
from pathlib import Path

from hyperqueue import Job  # type: ignore[import-not-found]
from hyperqueue.cluster import LocalCluster, WorkerConfig  # type: ignore[import-not-found]

WORKERS = 3
STAMP = "import sys, time; open(sys.argv[1], 'w').write(repr(time.time()))"


def main() -> None:
    logging.disable(logging.CRITICAL)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # Its own tables and bars are no answers.
    os.dup2(silence, 2)
    with tempfile.TemporaryDirectory() as folder, LocalCluster() as cluster:
        os.chdir(folder)
        for _ in range(WORKERS):
            cluster.start_worker(WorkerConfig(cores=1))
        client = cluster.client()
        print("ready", file=answers)
        for line in sys.stdin:
            ended = Path(folder) / "ended"
            job = Job()
            began = time.time()
            quiet = {"stdout": None, "stderr": None}
            tasks = [job.program(["true"], **quiet) for _ in range(int(line))]
            job.program([sys.executable, "-I", "-S", "-c", STAMP, str(ended)], deps=tasks, **quiet)
            client.wait_for_jobs([client.submit(job)])
            print(float(ended.read_text()) - began, file=answers)


if __name__ == "__main__":
    main()
