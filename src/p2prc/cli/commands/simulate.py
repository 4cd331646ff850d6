"""`simulate`: networks of many nodes in this process, with the shipped protocol code."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click
import msgspec

from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.errors import InvalidInput, PathInvalid, WorkFailed

if TYPE_CHECKING:
    from p2prc.simulation import Scenario

_LINE_PERIOD_S = 5.0


@command("simulate")
@click.argument("scenario", default="", required=False)
@click.option("--nodes", type=int, metavar="N", help="How many; else what the scenario says.")
@click.option("--seed", type=int, metavar="S", help="The same one gives the same run.")
@click.option(
    "--plot", type=click.Path(dir_okay=False), metavar="FILE.png", help="Draw a picture of it."
)
@click.option(
    "--trace", type=click.Path(dir_okay=False), metavar="FILE", help="Write down all that happens."
)
@click.option("--list", "is_list", is_flag=True, help="Show the scenarios that ship.")
@click.pass_obj
def simulate_command(
    invocation: Invocation,
    /,
    *,
    scenario: str,
    nodes: int | None,
    seed: int | None,
    plot: str | None,
    trace: str | None,
    is_list: bool,
) -> None:
    """Simulate a network of many nodes.

    Shows how fast its nodes know and what that costs. Runs the protocol code of this version under
    a virtual clock, in this process: no node needs to run. SCENARIO is one of those that ship or a
    TOML file of one's own.
    """
    if is_list:
        _list(as_json=invocation.as_json)
        return
    if not scenario:
        raise click.UsageError("which scenario? `--list` shows them")
    chosen = _load(scenario)
    from p2prc.simulation import run_scenario, with_nodes  # noqa: PLC0415 - slow to load

    if nodes is not None:
        chosen = with_nodes(chosen, nodes)
    if plot is not None:
        # Before minutes of work, not after them.
        _open(plot).close()
    with ExitStack() as files:
        file = files.enter_context(_open(trace)) if trace is not None else None
        progress = files.enter_context(_Progress(chosen))
        report = run_scenario(
            chosen,
            seed,
            progress=progress.show,
            write_trace=file.write if file is not None else None,
        )
    if plot is not None:
        from p2prc.simulation.plot import draw  # noqa: PLC0415 - slow to load

        Path(plot).write_bytes(draw(report))
    if invocation.as_json:
        write_json({**msgspec.to_builtins(report), "ok": report.has_met_all, "plot": plot})
    else:
        from p2prc.cli.render.simulation import report_text  # noqa: PLC0415 - only shown here

        write(report_text(report))
        if plot is not None:
            note(f"look at it: {plot}")
    if not report.has_met_all:
        failed = sum(not check.ok for check in report.checks)
        raise WorkFailed(
            f"checks of {chosen.name} that failed: {failed} of {len(report.checks)}",
            hint="the same `--seed` gives the same run; `--trace FILE` shows what happened",
        )


def _list(*, as_json: bool) -> None:
    from p2prc.simulation import load_scenario, scenario_names  # noqa: PLC0415 - slow to load

    scenarios = [load_scenario(name) for name in scenario_names()]
    if as_json:
        write_json(
            [
                {"name": one.name, "nodes": one.nodes, "description": one.description}
                for one in scenarios
            ]
        )
        return
    width = max(len(one.name) for one in scenarios)
    write("\n".join(f"{one.name:<{width}}  {one.description}" for one in scenarios))


def _load(scenario: str) -> Scenario:
    from p2prc.simulation import (  # noqa: PLC0415 - slow to load
        SCENARIO_LIMIT_BYTES,
        load_scenario,
        parse_scenario,
        scenario_names,
    )

    if scenario in scenario_names():
        return load_scenario(scenario)
    path = Path(scenario)
    if not (path.suffix == ".toml" or "/" in scenario):
        # Says which there are.
        return load_scenario(scenario)
    try:
        with path.open("rb") as file:
            text = file.read(SCENARIO_LIMIT_BYTES + 1).decode()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"not a scenario: {scenario} is not text in UTF-8") from error
    except OSError as error:
        raise PathInvalid(
            f"cannot read {scenario}: {error.strerror}",
            hint="see the scenarios that ship: `p2prc simulate --list`",
        ) from error
    try:
        return parse_scenario(text)
    except InvalidInput as error:
        hint = error.hint or "what each key means: docs/simulation.md"
        raise InvalidInput(f"{scenario}: {error.message}", hint=hint) from error


def _open(path: str) -> TextIO:
    try:
        return Path(path).open("w", encoding="utf-8")
    except OSError as error:
        raise PathInvalid(f"cannot write {path}: {error.strerror}") from error


class _Progress:
    """How far the run is, on standard error: in place on a terminal, else a line now and then."""

    def __init__(self, scenario: Scenario) -> None:
        self._scenario = scenario
        self._began_at = self._told_at = time.monotonic()
        self._is_terminal = sys.stderr.isatty()

    def __enter__(self) -> _Progress:
        note(
            f"simulating {self._scenario.name}: {self._scenario.nodes} nodes"
            f" for {self._scenario.duration_s:g} s of their time"
        )
        return self

    def __exit__(self, *_: object) -> None:
        if self._is_terminal:
            print(file=sys.stderr, flush=True)

    def show(self, share: float) -> None:
        now = time.monotonic()
        line = f"{share:4.0%} after {now - self._began_at:.0f} s"
        if self._is_terminal:
            print(f"\r{line}", end="", file=sys.stderr, flush=True)
        elif now - self._told_at >= _LINE_PERIOD_S:
            self._told_at = now
            note(line)
