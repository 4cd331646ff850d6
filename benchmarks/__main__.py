"""`python -m benchmarks`: every ratio that we promise, from one run on this machine."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import functions, idle, relay, relays, rivals, transport, work
from benchmarks.network import MeasuredNode, open_network
from benchmarks.report import FIGURES, Figure, Record

TRANSPORT_ROUNDS = 7


def measure_all(rounds: int) -> Record:
    """Measure everything, showing figures as they come."""
    missing = rivals.missing() + ([] if relays.rival_program() else [relays.TOLD])
    for line in missing:
        print(line, flush=True)
    details: dict[str, Any] = {"load_before": [round(load, 2) for load in os.getloadavg()]}
    figures = _shown(transport_figures(details))
    figures += _shown(relay_figures(details))
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        open_network(Path(folder)) as nodes,
    ):
        if rivals.has_bubblewrap():  # Without it the nodes run nothing for each other.
            figures += _shown(_work_figures(nodes[0], rounds, details))
            figures += _shown(work.input_figures(nodes[0], nodes[1].name, Path(folder)))
        figures += _shown(idle.figures([node.pid for node in nodes]))
    return Record("bench", figures, details, missing)


def transport_figures(details: dict[str, Any]) -> list[Figure]:
    """Return the transport's ratios."""
    found: dict[str, Any] = asyncio.run(transport.measure(TRANSPORT_ROUNDS))
    details["transport"] = found
    lanes, iroh, target = found["lanes_ratio"], found["iroh_ratio"], found["target_bulk_ratio"]
    one, four = "bulk_mb_per_s", "bulk_4_streams_mb_per_s"
    return [
        Figure("request round trip: iroh / TCP+TLS", iroh["round_trip_ms"], "x"),
        Figure("bulk rate: our lanes over TCP / TCP+TLS", lanes[one], "x", at_least=target),
        Figure("bulk rate, four streams: our lanes / TCP+TLS", lanes[four], "x"),
        Figure("bulk rate where TCP does not go: iroh / TCP+TLS", iroh[one], "x"),
        Figure("the same, four streams: iroh / TCP+TLS", iroh[four], "x"),
    ]


def relay_figures(details: dict[str, Any]) -> list[Figure]:
    """Return the relay's ratios, none without iroh's own."""
    details["relay"] = relay.measure()
    return relay.figures(details["relay"])


def _work_figures(node: MeasuredNode, rounds: int, details: dict[str, Any]) -> list[Figure]:
    latency = work.latency_race(node)
    latency.run(1)
    latency.seconds.clear()
    latency.run(work.LATENCY_RUNS)
    with rivals.open_dask() as dask:
        commands = work.map_race(node, dask)
        commands.run(rounds)
        with functions.function_race(node, dask) as calls:
            calls.run(rounds)
    details |= work.details({"latency_s": latency, "commands_s": commands, "functions_s": calls})
    return [
        *work.latency_figures(latency),
        *work.map_figures(commands),
        *functions.figures(calls),
    ]


def _shown(figures: Sequence[Figure]) -> list[Figure]:
    for figure in figures:
        print(figure, flush=True)
    return list(figures)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, show, keep."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=work.ROUNDS, help="of the 300 commands")
    parser.add_argument("--to", type=Path, default=FIGURES, help="the folder for the record")
    given = parser.parse_args(arguments)
    record = measure_all(max(1, given.rounds))
    print(f"kept in {record.keep(given.to)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
