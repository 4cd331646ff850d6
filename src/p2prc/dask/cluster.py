"""`P2PCluster`: a Dask cluster on nodes that are named."""

from __future__ import annotations

import os
import secrets
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import dask
from distributed import Scheduler
from distributed.deploy.spec import SpecCluster

from p2prc.dask.hub import SCHEDULER, Hub
from p2prc.dask.sent import p2prc_dask_comm as comm
from p2prc.dask.worker import PeerWorker, Place
from p2prc.errors import InvalidInput
from p2prc.settings import home_folder

PINNED = ("distributed", "dask", "cloudpickle", "msgpack", "tornado", "toolz")
"""Whose versions meet on the wire or in a pickle: workers get the ones that are here."""
CONFIG = {
    # The default keeps workers waiting for a round trip between tasks.
    "distributed.scheduler.worker-saturation": float("inf"),
    "distributed.comm.timeouts.connect": "60s",
    "distributed.comm.timeouts.tcp": "60s",
}


class P2PCluster(SpecCluster):
    """Dask's workers in containers on the nodes named; the scheduler runs in this process.

    A task runs code at every worker, and what workers answer is unpickled here: name nodes whose
    owners you trust. `nodes` "any" therefore needs `trust_any`. `requirements` come on top of
    Dask itself, whose versions are those here; with an `image` Dask must be in it. Sizes are
    bytes, times seconds. `resources` are Dask's own. Raises P2prcError, or Dask's RuntimeError.
    """

    def __init__(
        self,
        workers: int = 1,
        *,
        nodes: str | Sequence[str] = (),
        trust_any: bool = False,
        requirements: Sequence[str] = (),
        image: str = "",
        nthreads: int = 1,
        resources: Mapping[str, float] | None = None,
        home: str | Path | None = None,
        start_timeout_s: float = 120.0,
        dashboard_address: str = "127.0.0.1:0",
        python: str = "python3",
        asynchronous: bool = False,
        name: str | None = None,
        **work: Any,
    ) -> None:
        named = named_nodes(nodes, trust_any=trust_any)
        if not image:
            work["requirements"] = [*pinned(), *requirements]
        elif requirements:
            raise InvalidInput("requirements or an image, not both")
        else:
            work["image"] = image
        cluster = secrets.token_hex(6)
        self._hub = Hub(cluster)
        comm.switches[cluster] = self._hub
        self._sockets = Path(tempfile.mkdtemp(prefix="p2prc-dask-"))
        place = Place(
            home=str(home_folder(None if home is None else str(home), os.environ)),
            nodes=named,
            work=work,
            sockets=self._sockets,
            nthreads=nthreads,
            resources=resources or {},
            start_timeout_s=start_timeout_s,
            python=python,
            config={key: value for key, value in CONFIG.items() if "comm" in key},
        )
        options = {"hub": self._hub, "place": place, "served_by": lambda: self.scheduler}
        worker = {"cls": PeerWorker, "options": options}
        scheduler = {
            "cls": _scheduler,
            "options": {
                "host": comm.address(SCHEDULER, cluster),
                "dashboard_address": dashboard_address,
            },
        }
        super().__init__(
            workers=dict.fromkeys(range(workers), worker),
            scheduler=scheduler,
            worker=worker,
            asynchronous=asynchronous,
            name=name,
        )

    @property
    def dashboard_link(self) -> str:
        """The scheduler's web pages, which are on this machine; "" while it does not run."""
        port = getattr(getattr(self.scheduler, "http_server", None), "port", None)
        return f"http://127.0.0.1:{port}/status" if port else ""

    async def _close(self) -> None:
        try:
            await super()._close()
        finally:
            self._hub.close()
            comm.switches.pop(self._hub.cluster, None)
            shutil.rmtree(self._sockets, ignore_errors=True)


def named_nodes(nodes: str | Sequence[str], *, trust_any: bool) -> tuple[str, ...]:
    """Return the nodes a cluster may use. Raises InvalidInput for none, and for any untrusted."""
    named = (nodes,) if isinstance(nodes, str) else tuple(nodes)
    if not named or "any" in named:
        if trust_any:
            return ("any",)
        raise InvalidInput(
            "a Dask cluster runs its workers' code in each other and here: name nodes you trust",
            hint='`nodes=["grace", "linus"]`, or `trust_any=True` where you trust every member',
        )
    return named


def pinned() -> list[str]:
    """Return requirements for the versions that are here."""
    return [f"{name}=={metadata.version(name)}" for name in PINNED]


def _scheduler(**options: Any) -> Scheduler:
    with dask.config.set(CONFIG):
        return Scheduler(**options)
