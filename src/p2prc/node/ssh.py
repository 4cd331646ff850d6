"""SSH into the leases of this node: one connection a stream, for the lease's own holder."""

from __future__ import annotations

import asyncio
from importlib import import_module

from p2prc.model.identity import NodeId
from p2prc.model.workload import Outcome
from p2prc.node.places import Place
from p2prc.runtime.port import Link

_NO_NETWORK = (
    "this container has no network: one with HTTP and HTTPS is made by "
    "`p2prc create ... --network proxy`\n"
)


class SshDoor:
    """Serves SSH with the node's own key, which its peers know: it is the node's id."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    async def serve(self, peer: NodeId, place: Place, link: Link) -> None:
        """Serve one connection to its end."""
        # Its library takes a third of a second and 20 MB: who is never asked never pays.
        await asyncio.to_thread(import_module, "p2prc.ssh.server")
        from p2prc.ssh.server import serve_ssh  # noqa: PLC0415

        place.argv = place.argv or ("ssh",)
        await serve_ssh(
            link,
            place.sandbox,
            host_key=self._secret,
            authorized=peer,
            banner=_NO_NETWORK if place.workload.network == "none" else "",
            variables=place.variables,
            count=lambda ended, duration_s: place.used.add(
                Outcome(
                    ended.status,
                    code=ended.code,
                    reason=ended.reason[:2000],
                    usage=ended.usage,
                    duration_s=duration_s,
                )
            ),
        )
