"""A virtual clock and a lossy network that run the shipped protocol code, with seeds."""

from p2prc.simulation.report import Convergence, Milestone, Report, Sample, Verdict
from p2prc.simulation.scenario import (
    SCENARIO_LIMIT_BYTES,
    Scenario,
    load_scenario,
    parse_scenario,
    scenario_names,
    with_nodes,
)
from p2prc.simulation.world import run_scenario

__all__ = [
    "SCENARIO_LIMIT_BYTES",
    "Convergence",
    "Milestone",
    "Report",
    "Sample",
    "Scenario",
    "Verdict",
    "load_scenario",
    "parse_scenario",
    "run_scenario",
    "scenario_names",
    "with_nodes",
]
