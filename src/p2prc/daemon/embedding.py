"""A node inside somebody's own asyncio program: `async with p2prc.open_node(...) as node`.

It is the same node as the daemon's, with the same home, so the command line works on it too. The
program's signals, logging and event loop stay the program's.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from p2prc.api.own_routes import Route
from p2prc.client import AsyncClient
from p2prc.daemon.main import Extras, open_daemon
from p2prc.plugins.hooks import Hooks
from p2prc.settings import home_folder


@dataclass(frozen=True, slots=True)
class EmbeddedNode:
    """A node that runs in this program. `stopped` is set when somebody typed `p2prc down`."""

    id: str
    home: Path
    client: AsyncClient
    stopped: asyncio.Event


@asynccontextmanager
async def open_node(
    home: str | Path | None = None,
    *,
    settings: Mapping[str, str] | None = None,
    metadata: Mapping[str, str] | None = None,
    plugins: Sequence[Hooks] = (),
    routes: Sequence[Route] = (),
) -> AsyncIterator[EmbeddedNode]:
    """Run a node until the block ends.

    `settings` are those of docs/settings.md, by key; they stand above the home's file and the
    environment. `metadata` is told to all other nodes. Raises HomeBusy, HomeUnusable,
    SettingInvalid, PortTaken.
    """
    folder = home_folder(None if home is None else str(home), os.environ)
    stopped = asyncio.Event()
    raised: BaseException | None = None
    extras = Extras(tuple(plugins), tuple(routes))
    async with open_daemon(folder, settings or {}, stopped, extras=extras) as service:
        if metadata:
            await service.change_metadata(dict(metadata))
        client = AsyncClient(folder)
        status = await client.status()
        try:
            yield EmbeddedNode(str(status.id), folder, client, stopped)
        except GeneratorExit:
            raise
        except BaseException as error:  # noqa: BLE001 - it goes on once the node is closed
            # Through the node's task groups it would come out wrapped in a group for each.
            raised = error
    if raised is not None:
        raise raised
