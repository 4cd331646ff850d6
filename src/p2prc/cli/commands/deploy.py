"""`deploy`: a private network in a file, brought up over SSH."""

from __future__ import annotations

from pathlib import Path

import click

from p2prc.cli.deploying.bring_up import bring_up
from p2prc.cli.deploying.plan import Plan, read_plan
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain, table
from p2prc.errors import from_fields


@command("deploy")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Read the file, and reach nobody.")
@click.pass_obj
def deploy_command(invocation: Invocation, /, *, file: Path, check: bool) -> None:
    """Bring up a private network that a file describes, over SSH.

    On each machine what is missing is done: install, set, start, join. Again, it changes nothing
    that is so already. A machine that is down is left for the next time.
    """
    plan = read_plan(file)
    if check:
        _show(invocation, plan)
        return
    results = bring_up(plan, lambda line: note(plain(line)))
    if invocation.as_json:
        write_json(results)
    else:
        cells = [
            [each.name, each.ssh, "ok" if each.ok else "failed", each.network[:10],
             plain(each.reason or ", ".join(each.did) or "as it should be")]
            for each in results
        ]  # fmt: skip
        write(table(["NAME", "SSH", "RESULT", "NETWORK", "WHAT"], cells))
    bad = [each for each in results if not each.ok]
    if bad:
        raise from_fields(
            bad[0].code,
            f"{len(bad)} of {len(results)} nodes are not as they should be: "
            + ", ".join(each.name for each in bad[:8]),
            hint=f"what each lacks is above; then `p2prc deploy {file}` again",
        )


def _show(invocation: Invocation, plan: Plan) -> None:
    if invocation.as_json:
        rows = [
            {"name": node.name, "ssh": node.ssh, "settings": dict(node.settings)}
            for node in plan.nodes
        ]
        write_json(rows)
        return
    cells = []
    for node in plan.nodes:
        told = [f"{key}={value}" for key, value in sorted(node.settings.items()) if key != "name"]
        cells.append([node.name, node.ssh, ", ".join(told)])
    write(table(["NAME", "SSH", "SETTINGS"], cells))
