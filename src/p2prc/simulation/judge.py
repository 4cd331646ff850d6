"""Compares what every node believes with the truth, incrementally, and keeps the trace."""

from __future__ import annotations

from blake3 import blake3

from p2prc.protocol.node_table import NodeState
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import SimulatedNode
from p2prc.simulation.report import Milestone


class Judge:
    """Knows the truth. The pictures of crashed, left and lying nodes do not count."""

    def __init__(self, nodes: list[SimulatedNode], network: SimulatedNetwork) -> None:
        self.false_suspicions = 0
        self.false_deaths = 0
        self._nodes = nodes
        self._network = network
        self._wrong: dict[tuple[int, int], None] = {}
        self._trace = blake3()
        self._milestones: list[Milestone] = []
        self._open: tuple[str, float] | None = None

    @property
    def wrong_count(self) -> int:
        """How many (observer, node) pairs are wrong now."""
        return len(self._wrong)

    @property
    def trace(self) -> str:
        return self._trace.hexdigest()

    def happened(self, name: str, now: float) -> None:
        """The truth has changed: look at everything anew, and time how long it takes."""
        self._close(None)
        self._open = (name, now)
        for observer in range(len(self._nodes)):
            for node in range(len(self._nodes)):
                self._look(observer, node)
        self._settle(now)

    def truth_changed(self, node: int, now: float) -> None:
        """A node says something new of itself."""
        for observer in range(len(self._nodes)):
            self._look(observer, node)
        self._settle(now)

    def belief_changed(self, observer: int, node: int, now: float) -> None:
        """An observer's picture of a node has changed."""
        state = self._nodes[observer].state_of(node)
        self._trace.update(f"{now!r} {observer} {node} {state}\n".encode())
        if self._is_there(observer, node):
            self.false_suspicions += state is NodeState.SUSPECT
            self.false_deaths += state is NodeState.DEAD
        self._look(observer, node)
        self._settle(now)

    def milestones(self) -> tuple[Milestone, ...]:
        """Return what happened and how long it took to be known."""
        self._close(None)
        return tuple(self._milestones)

    def _look(self, observer: int, node: int) -> None:
        if self._is_right(observer, node):
            self._wrong.pop((observer, node), None)
        else:
            self._wrong[observer, node] = None

    def _settle(self, now: float) -> None:
        if not self._wrong and self._open is not None:
            self._close(now - self._open[1])

    def _close(self, settled_after_s: float | None) -> None:
        if self._open is not None:
            self._milestones.append(Milestone(*self._open, settled_after_s))
            self._open = None

    def _is_there(self, observer: int, node: int) -> bool:
        """Whether the node is up, reachable for the observer, and both count."""
        watching = self._nodes[observer]
        if watching.is_lying or watching.has_left or self._nodes[node].has_left:
            return False
        return observer != node and self._network.can_talk(observer, node)

    def _is_right(self, observer: int, node: int) -> bool:
        watching, watched = self._nodes[observer], self._nodes[node]
        if observer == node or not watching.is_up or watching.is_lying or watching.has_left:
            return True
        state = watching.state_of(node)
        if watched.life == 0:
            return state is None
        if watched.has_left:
            return state in (NodeState.LEFT, None)
        if not self._network.can_talk(observer, node):
            return state in (NodeState.DEAD, None)
        return state is NodeState.ALIVE and watching.version_of(node) == watched.version
