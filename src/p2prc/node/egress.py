"""The ways out of our leases: a proxy each, made before its sandbox, or a bridge, made after it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from p2prc.egress.bridge import Bridges, BridgeWay
from p2prc.egress.dialing import Internet
from p2prc.egress.namespaces import network_of
from p2prc.egress.proxy import EgressProxy
from p2prc.errors import MachineCannot
from p2prc.model.identity import LeaseId
from p2prc.model.workload import Workload
from p2prc.protocol.egress import BRIDGE, PROXY, EgressTerms
from p2prc.runtime.port import Sandbox

SOCKET_ENDING = ".proxy"
WayOut = EgressProxy | BridgeWay
Moved = tuple[int, int]
"""Bytes that a lease received, and that it sent."""


class WaysOut:
    """Makes ways out by the owner's rules of the moment."""

    def __init__(
        self, internet: Internet, terms: Callable[[], EgressTerms], bridges: Bridges | None = None
    ) -> None:
        self._internet = internet
        self._terms = terms
        self._bridges = bridges

    async def open(
        self, folder: Path, workload: Workload, moved: Moved = (0, 0)
    ) -> EgressProxy | None:
        """Serve beside the lease's folder; None for a lease without. Raises MachineCannot."""
        if workload.network != PROXY:
            return None
        path = folder.with_name(folder.name + SOCKET_ENDING)
        proxy = EgressProxy(path, self._terms(), self._internet)
        proxy.allowance.count(received=moved[0], sent=moved[1])
        try:
            await proxy.open()
        except OSError as error:
            raise MachineCannot(f"the lease's proxy cannot be made: {error}") from error
        return proxy

    async def join(
        self, lease: LeaseId, workload: Workload, sandbox: Sandbox, moved: Moved = (0, 0)
    ) -> BridgeWay | None:
        """Join a sandbox that wants it to a bridge; None for others. Raises MachineCannot."""
        if workload.network != BRIDGE:
            return None
        if self._bridges is None:
            raise MachineCannot("there are no bridges here")
        with await sandbox.socket_inside() as made:
            try:
                network = network_of(made)
            except OSError as error:
                reason = str(error.strerror or error).lower()
                raise MachineCannot(f"the lease's network cannot be had: {reason}") from error
        try:
            return await self._bridges.join(lease, network, self._terms(), moved)
        finally:
            os.close(network)

    async def sweep(self) -> None:
        """Remove the bridges of an earlier life."""
        if self._bridges is not None:
            await self._bridges.sweep()
