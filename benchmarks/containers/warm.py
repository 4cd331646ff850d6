"""Leases in containers that run before anybody wants them (`lend.warm`), and in new ones."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.containers.daemon import open_pair
from benchmarks.containers.part import Part, Took, median_ms, nothing_taken
from benchmarks.report import Figure
from p2prc.client import Client

ROUNDS = 10
WARM_MS = 50.0
_WARM = 2
_SETTLED_S = 60.0


def measure() -> Part:
    """Have one node lend to the other, without warm containers and with two."""
    if shutil.which("docker") is None:
        return Part([], missing=["warm: a container engine and its command line"])
    took = nothing_taken()
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        open_pair(Path(folder)) as (asker, lender),
    ):
        client = Client(asker.home)
        _lease(client, lender.name, "cold", nothing_taken())
        for _ in range(ROUNDS):
            _lease(client, lender.name, "cold", took)
        lender.p2prc("policy", "set", "lend.warm", str(_WARM))
        for _ in range(ROUNDS):
            _wait_until_warm()
            _lease(client, lender.name, "warm", took)
    title = "create to usable in a container, by its API"
    return Part(
        [
            Figure(f"warm: {title}, new", median_ms(took["cold"]), "ms"),
            Figure(f"warm: {title}, warm", median_ms(took["warm"]), "ms", at_most=WARM_MS),
        ],
        took,
    )


def _lease(client: Client, node: str, what: str, took: Took) -> None:
    began = time.perf_counter()
    container = client.create(node, runtime="docker", cpus=0.1)
    took[what].append(time.perf_counter() - began)
    # It is one that can be worked in.
    container.run(["true"]).check()
    container.remove()


def _wait_until_warm() -> None:
    ends_at = time.monotonic() + _SETTLED_S
    words = ["docker", "ps", "-q", "--filter", "name=p2prc-warm-"]
    while len(subprocess.run(words, check=True, capture_output=True).stdout.split()) != _WARM:
        if time.monotonic() > ends_at:
            raise RuntimeError("no containers are kept warm")
        time.sleep(0.2)
    time.sleep(1.0)  # The one that was given back is on its way out.
