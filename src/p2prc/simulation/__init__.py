"""A virtual clock and a lossy network that run the shipped protocol code, with seeds."""

from p2prc.simulation.report import Milestone, Report
from p2prc.simulation.scenario import Scenario, load_scenario, scenario_names
from p2prc.simulation.world import run_scenario

__all__ = [
    "Milestone",
    "Report",
    "Scenario",
    "load_scenario",
    "run_scenario",
    "scenario_names",
]
