"""Holds a report against the figures that its scenario promises."""

from __future__ import annotations

from p2prc.simulation.report import Convergence, Verdict
from p2prc.simulation.scenario import Check, Scenario

FALSE_DEATHS = "false deaths in 1,000 node-hours"
"""The title under which a verdict tells them."""
_PER_1000_NODE_HOURS = 1000.0


def verdicts(
    scenario: Scenario,
    *,
    convergence: tuple[Convergence, ...],
    wrong_at_end: int,
    false_deaths: int,
    node_hours: float,
    idle_bytes_per_node_per_s: float,
) -> tuple[Verdict, ...]:
    """Return one verdict for each figure: the check for the smallest networks that fits counts."""
    chosen: dict[tuple[str, str], Check] = {}
    for check in sorted(scenario.checks, key=lambda one: one.up_to_nodes):
        if scenario.nodes <= check.up_to_nodes:
            chosen.setdefault((check.figure, check.of), check)
    found = []
    for check in chosen.values():
        value: float | None
        match check.figure:
            case "known-to-all-s":
                title, unit = f"{check.of}: known to all (median)", "s"
                value = _median_s(convergence, check.of)
            case "wrong-at-end":
                title, unit, value = "wrong pictures at the end", "", float(wrong_at_end)
            case "false-deaths-per-1000-node-hours":
                title, unit = FALSE_DEATHS, ""
                value = false_deaths / node_hours * _PER_1000_NODE_HOURS
            case "bytes-per-node-per-s":
                title, unit = "sent by an idle node", "B/s"
                value = idle_bytes_per_node_per_s
        is_met = value is not None and value <= check.at_most
        found.append(Verdict(title, value, check.at_most, is_met, unit))
    return tuple(found)


def _median_s(convergence: tuple[Convergence, ...], name: str) -> float | None:
    """Return the median over all happenings of this kind; None when it lies with the overtaken."""
    found = next((one for one in convergence if one.name == name), None)
    if found is None or found.overtaken * 2 >= found.count:
        return None
    return found.median_s
