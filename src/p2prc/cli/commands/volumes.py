"""`volumes`: folders that stay on a node between leases, shown and erased."""

from __future__ import annotations

import click

from p2prc.api.schema import EraseRequest
from p2prc.cli.failures import note
from p2prc.cli.invocation import Invocation, command
from p2prc.cli.render.output import write, write_json
from p2prc.cli.render.text import plain, size, table
from p2prc.errors import InvalidInput

_PEER_SHOWN = 10


@command("volumes")
@click.argument("node", default="", required=False)
@click.option("--erase", metavar="NAME", help="Delete the volume and what it holds.")
@click.option("--peer", default="", metavar="PEER", help="Whose volume to erase here.")
@click.pass_obj
def volumes_command(invocation: Invocation, /, *, node: str, erase: str | None, peer: str) -> None:
    """Show the folders that stay between leases: mine at NODE; without NODE, everybody's here."""
    if node and peer:
        raise InvalidInput("of another node's volumes only one's own can be erased")
    if erase is not None:
        invocation.client.erase_volume(EraseRequest(name=erase, node=node, peer=peer))
        note(f"erased {erase}")
        return
    rows = invocation.client.volumes(node)
    if invocation.as_json:
        write_json(rows)
    elif rows:
        shown = [
            (
                row.name,
                plain(row.peer_name) or row.peer[:_PEER_SHOWN],
                size(row.size_bytes),
                "yes" if row.is_used else "no",
            )
            for row in rows
        ]
        write(table(("VOLUME", "PEER", "SIZE", "IN USE"), shown))
    else:
        note("no volumes")
