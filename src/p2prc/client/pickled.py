"""Functions as bytes for providers: what lives in a module of one's own travels along."""

from __future__ import annotations

import inspect
import sys
import sysconfig
from collections.abc import Callable
from types import ModuleType
from typing import Any

import cloudpickle

from p2prc.errors import InvalidInput

_INSTALLED = tuple(
    path for name, path in sysconfig.get_paths().items() if name in ("stdlib", "purelib", "platlib")
)


def pickled_function(function: Callable[..., Any]) -> bytes:
    """Return a function as bytes, with the module it lives in unless that one is installed.

    Raises InvalidInput for one that cannot travel.
    """
    if not callable(function):
        raise InvalidInput(f"{type(function).__name__} is no function")
    module = inspect.getmodule(function)
    if module is not None and not _is_installed(module):
        send_along(module)
    return _pickled(function, "the function")


def pickled_arguments(arguments: tuple[Any, ...], keywords: dict[str, Any]) -> bytes:
    """Return a call's arguments as bytes. Raises InvalidInput for those that cannot travel."""
    return _pickled((arguments, keywords), "the arguments")


def send_along(module: ModuleType) -> None:
    """Send the functions and classes of a module by value from now on, with its whole package."""
    package = sys.modules[module.__name__.partition(".")[0]]
    cloudpickle.register_pickle_by_value(package)


def _is_installed(module: ModuleType) -> bool:
    place = getattr(module, "__file__", None)
    return place is None or module.__name__ == "__main__" or place.startswith(_INSTALLED)


def _pickled(value: Any, what: str) -> bytes:
    try:
        content: bytes = cloudpickle.dumps(value)
    except Exception as error:
        # Whatever its classes raise.
        raise InvalidInput(f"{what} cannot be sent: {error}") from error
    return content
