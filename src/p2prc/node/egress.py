"""The proxies of our leases: one each, made before its sandbox and closed after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from p2prc.egress.dialing import Internet
from p2prc.egress.proxy import EgressProxy
from p2prc.errors import MachineCannot
from p2prc.model.workload import Workload
from p2prc.protocol.egress import PROXY, EgressTerms

SOCKET_ENDING = ".proxy"


class WaysOut:
    """Makes proxies by the owner's rules of the moment."""

    def __init__(self, internet: Internet, terms: Callable[[], EgressTerms]) -> None:
        self._internet = internet
        self._terms = terms

    async def open(self, folder: Path, workload: Workload) -> EgressProxy | None:
        """Serve beside the lease's folder; None for a lease without. Raises MachineCannot."""
        if workload.network != PROXY:
            return None
        path = folder.with_name(folder.name + SOCKET_ENDING)
        proxy = EgressProxy(path, self._terms(), self._internet)
        try:
            await proxy.open()
        except OSError as error:
            raise MachineCannot(f"the lease's proxy cannot be made: {error}") from error
        return proxy
