"""Python plugins: code of this machine's owner that the node asks, and tells.

A plugin is a subclass of `Hooks`. An installed package offers it under the entry-point group
`p2prc.plugins`; a program that embeds a node passes it. One that raises is passed over, and the log
says so: a plugin's bug is no bug of the node.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, TypeVar

from p2prc.protocol.placement import NodeOffer

GROUP = "p2prc.plugins"
_Given = TypeVar("_Given")
_RAISED = object()

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Joiner:
    """Who asks to be let in: its id in hex, the name that it gives itself, and from where."""

    id: str
    name: str
    address: str


@dataclass(frozen=True, slots=True)
class JobEvent:
    """How far a job is. `state`: queued, running, succeeded, failed or cancelled."""

    job: str
    name: str
    state: str
    total: int
    running: int
    succeeded: int
    failed: int


class Hooks:
    """What a plugin may have a say in. Each method is optional, and must return at once.

    They run in the node's own event loop: whoever has to wait starts a thread.
    """

    def place(self, offers: Sequence[NodeOffer], job: str) -> Sequence[NodeOffer]:
        """Return the nodes that may be asked, the best first; `job` is a job's name, or "".

        Those that are left out get nothing. For jobs, which use all nodes, the order means nothing.
        """
        del job
        return offers

    def admit(self, joiner: Joiner) -> bool | None:
        """Let in who asks at this node (True), refuse (False), or leave it to a person (None)."""
        del joiner
        return None

    def job_event(self, event: JobEvent) -> None:
        """Hear that a job of this node went on; once more when it has ended."""


def _ask(plugin: Hooks, ask: Callable[[Hooks, _Given], Any], given: _Given) -> Any:
    """Return the answer, or `_RAISED`."""
    try:
        return ask(plugin, given)
    except Exception:  # somebody else's code: its bugs must not end the node
        log.exception("a plugin raised", extra={"plugin": type(plugin).__qualname__})
        return _RAISED


class HookSet:
    """All plugins of a node, asked one after the other."""

    def __init__(self, plugins: Sequence[Hooks] = ()) -> None:
        self._plugins = tuple(plugins)

    def __bool__(self) -> bool:
        return bool(self._plugins)

    def place(self, offers: Sequence[NodeOffer], job: str = "") -> list[NodeOffer]:
        """Return what every plugin left of the offers. None of them can add one."""
        left = list(offers)
        for plugin in self._plugins:
            said = _ask(
                plugin, lambda it, given: [each.node for each in it.place(list(given), job)], left
            )
            if said is not _RAISED:
                there = {offer.node: offer for offer in left}
                left = [there[node] for node in said if node in there]
        return left

    def admit(self, joiner: Joiner) -> bool | None:
        """Return what was decided; one refusal is enough."""
        said = [_ask(plugin, lambda it, who: it.admit(who), joiner) for plugin in self._plugins]
        return False if False in said else True if True in said else None

    def job_event(self, event: JobEvent) -> None:
        """Tell everyone."""
        for plugin in self._plugins:
            _ask(plugin, lambda it, told: it.job_event(told), event)


def installed_hooks() -> list[Hooks]:
    """Return the plugins of installed packages; one that cannot be loaded is passed over."""
    found = []
    for entry in sorted(entry_points(group=GROUP), key=lambda entry: entry.name):
        try:
            plugin = entry.load()()
        except Exception:  # the same
            log.exception("a plugin cannot be loaded", extra={"plugin": entry.name})
            continue
        if isinstance(plugin, Hooks):
            log.info("plugin loaded", extra={"plugin": entry.name})
            found.append(plugin)
        else:
            log.warning("a plugin is no subclass of Hooks", extra={"plugin": entry.name})
    return found
