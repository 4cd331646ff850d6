"""Pool the computers that people already own into one network for computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2prc.api.own_routes import Route
    from p2prc.client import AsyncClient, Client, Executor
    from p2prc.daemon.embedding import EmbeddedNode, open_node
    from p2prc.errors import P2prcError, UntrustedResult
    from p2prc.plugins.hooks import Hooks, JobEvent, Joiner

__version__ = "0.1.0"
_ROOMS = {
    "AsyncClient": "client",
    "Client": "client",
    "EmbeddedNode": "daemon.embedding",
    "Executor": "client",
    "Hooks": "plugins.hooks",
    "JobEvent": "plugins.hooks",
    "Joiner": "plugins.hooks",
    "P2prcError": "errors",
    "Route": "api.own_routes",
    "UntrustedResult": "errors",
    "open_node": "daemon.embedding",
}
__all__ = [
    "AsyncClient",
    "Client",
    "EmbeddedNode",
    "Executor",
    "Hooks",
    "JobEvent",
    "Joiner",
    "P2prcError",
    "Route",
    "UntrustedResult",
    "__version__",
    "open_node",
]


def __getattr__(name: str) -> Any:
    """Load the Python interface when it is used: the commands answer in a blink without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - the same

    return getattr(import_module(f"p2prc.{_ROOMS[name]}"), name)
