"""Who reaches whom: every ordered pair of the matrix of NATs, in network namespaces (as root)."""

from __future__ import annotations

import tempfile
from collections import Counter
from pathlib import Path
from statistics import median

from tests.nat.lab import open_lab, why_not
from tests.nat.matrix import Found, build, must_be_direct, nodes_on, running, try_pairs
from tests.nat.nodes import LabNode

from benchmarks.report import Figure, Record

PUNCHED_WITHIN_S = 15.0
FIRST_COMMAND_S = 3.0


def connectivity() -> Record:
    """Run a command from each node on each other one; tell the paths and the times."""
    if reason := why_not():
        return Record("connectivity", [], {"skipped": reason}, missing=[f"a lab: {reason}"])
    with open_lab() as lab, tempfile.TemporaryDirectory() as folder:
        members = build(lab)
        with running(nodes_on(Path(folder), members)) as nodes:
            pairs = [(one, other) for one in nodes for other in nodes if one is not other]
            # Neighbours in the list would make one node busy.
            pairs.sort(key=lambda pair: _spread(nodes, pair))
            found = try_pairs(members, nodes, pairs, patience_s=PUNCHED_WITHIN_S, at_once=1)
    return Record("connectivity", _figures(found), {"pairs": [_row(each) for each in found]})


def _spread(nodes: list[LabNode], pair: tuple[LabNode, LabNode]) -> tuple[int, int]:
    asker, lender = nodes.index(pair[0]), nodes.index(pair[1])
    return (lender - asker) % len(nodes), asker


def _figures(found: list[Found]) -> list[Figure]:
    reached = [each for each in found if each.way.is_there]
    direct = [each for each in found if must_be_direct(each.one, each.other)]
    became = sum(each.path == "direct" for each in direct)
    seconds = [each.way.seconds for each in reached] or [float("inf")]
    paths = Counter(each.path for each in reached)
    return [
        Figure("reachable pairs / all pairs", len(reached) / len(found), at_least=1.0),
        Figure("direct / pairs that must be direct", became / len(direct), at_least=1.0),
        Figure("all pairs", len(found)),
        Figure("direct pairs", paths["direct"]),
        Figure("relayed pairs", paths["relayed"]),
        Figure("first command on a fresh path, median", median(seconds), "s"),
        Figure("first command, slowest", max(seconds), "s", at_most=FIRST_COMMAND_S),
    ]


def _row(found: Found) -> dict[str, object]:
    way = found.way
    return {
        "from": way.asker,
        "to": way.lender,
        "kinds": [found.one.kind.value, found.other.kind.value],
        "reached": way.is_there,
        "path": found.path,
        "seconds": round(way.seconds, 3),
        "said": way.said,
    }
