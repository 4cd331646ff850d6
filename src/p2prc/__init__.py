"""Pool the computers that people already own into one network for computation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2prc.client import AsyncClient, Client, Executor
    from p2prc.errors import P2prcError, UntrustedResult

__version__ = "0.1.0"
__all__ = ["AsyncClient", "Client", "Executor", "P2prcError", "UntrustedResult", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the Python interface when it is used: the commands answer in a blink without it."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415 - the same

    room = "p2prc.errors" if name in ("P2prcError", "UntrustedResult") else "p2prc.client"
    return getattr(import_module(room), name)
