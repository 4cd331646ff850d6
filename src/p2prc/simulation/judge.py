"""Compares what every node believes with the truth, incrementally, and times how fast they agree.

The judge keeps one byte for each (observer, node) pair: whether the observer is wrong about the
node. Only what an event can have changed is looked at anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from p2prc.protocol.membership import NodeState
from p2prc.simulation.network import SimulatedNetwork
from p2prc.simulation.node import SimulatedNode
from p2prc.simulation.report import Milestone
from p2prc.simulation.trace import Trace

_GONE = (NodeState.DEAD, None)


@dataclass(slots=True)
class _Open:
    """A happening that not all know of yet; `node` is None when it concerns everybody."""

    name: str
    at_s: float
    node: int | None
    wrong_at_first: int
    half_after_s: float | None = None


class Judge:
    """Knows the truth. The pictures of crashed, left and lying nodes do not count."""

    def __init__(
        self, nodes: Sequence[SimulatedNode], network: SimulatedNetwork, trace: Trace
    ) -> None:
        self.suspicion_views = 0
        self.death_views = 0
        self.false_suspicions = 0
        self.false_deaths = 0
        self.wrong_count = 0
        self._nodes = nodes
        self._network = network
        self._trace = trace
        self._count = len(nodes)
        self._wrong = bytearray(self._count * self._count)
        self._wrong_of = [0] * self._count
        self._wrong_about = [0] * self._count
        self._observers = 0
        self._right_observers = 0
        self._is_counted = [False] * self._count
        self._suspected: dict[int, set[int]] = {}
        self._killed: dict[int, set[int]] = {}
        self._milestones: list[Milestone] = []
        self._open: dict[int | None, _Open] = {}

    @property
    def observers(self) -> int:
        """How many pictures count now."""
        return self._observers

    @property
    def right_share(self) -> float:
        """Which share of the observers has a picture without any mistake."""
        return self._right_observers / self._observers if self._observers else 1.0

    @property
    def right_pairs_share(self) -> float:
        """How much of all pictures taken together is right."""
        pairs = self._observers * max(1, self._count - 1)
        return 1.0 - self.wrong_count / pairs if pairs else 1.0

    # -- what happens --

    def life_changed(self, node: int, now: float) -> None:
        """The node began a life or ended one: as observer, and for all others."""
        watching = self._nodes[node]
        counts = watching.is_up and not watching.is_lying and not watching.has_left
        if counts != self._is_counted[node]:
            self._is_counted[node] = counts
            step = 1 if counts else -1
            self._observers += step
            if not self._wrong_of[node]:
                self._right_observers += step
        for other in range(self._count):
            self._look(node, other)
        self._forget_blame(node)
        self.truth_changed(node, now)

    def truth_changed(self, node: int, now: float) -> None:
        """A node says something new of itself, or is gone."""
        for observer in range(self._count):
            self._look(observer, node)
        self._settle(node, now)

    def begins_settled(self, started: Sequence[int]) -> None:
        """All that have started know each other, and nobody else."""
        for node in started:
            self._is_counted[node] = True
        self._observers = self._right_observers = len(started)

    def sides_changed(self, apart: Sequence[bool], now: float) -> None:
        """Look anew at all that are on different sides, or were until now."""
        first = [index for index, is_apart in enumerate(apart) if is_apart]
        second = [index for index, is_apart in enumerate(apart) if not is_apart]
        for ours, theirs in ((first, second), (second, first)):
            for observer in ours:
                for node in theirs:
                    self._look(observer, node)
        for known in list(self._open):
            self._settle(known, now)

    def happened(self, name: str, now: float, node: int | None = None) -> None:
        """Time from now on how long this takes to be known: of the node, or of all."""
        for known in [node] if node is not None else list(self._open):
            self._close(known, None)
        wrong = self.wrong_count if node is None else self._wrong_about[node]
        self._open[node] = _Open(name, now, node, wrong)
        self._trace.note(now, "happening", name, "" if node is None else str(node))
        self._settle(node, now)

    def belief_changed(self, observer: int, node: int, now: float) -> None:
        """An observer's picture of a node has changed."""
        state = self._nodes[observer].state_of(node)
        self._trace.note(now, str(observer), str(node), str(state))
        self._blame(observer, node, state)
        self._look(observer, node)
        self._settle(node, now)

    def milestones(self) -> tuple[Milestone, ...]:
        """Return what happened and how long it took to be known."""
        for known in list(self._open):
            self._close(known, None)
        return tuple(sorted(self._milestones, key=lambda one: one.at_s))

    # -- right and wrong --

    def _look(self, observer: int, node: int) -> None:
        position = observer * self._count + node
        is_wrong = not self._is_right(observer, node)
        if is_wrong == self._wrong[position]:
            return
        self._wrong[position] = is_wrong
        step = 1 if is_wrong else -1
        before = self._wrong_of[observer]
        self._wrong_of[observer] = before + step
        self._wrong_about[node] += step
        self.wrong_count += step
        if self._is_counted[observer]:
            self._right_observers -= (before == 0) - (before + step == 0)

    def _is_right(self, observer: int, node: int) -> bool:
        nodes = self._nodes
        watching = nodes[observer]
        if observer == node or not watching.is_up or watching.is_lying or watching.has_left:
            return True
        watched = nodes[node]
        state = watching.state_of(node)
        if watched.life == 0:
            return state is None
        if watched.has_left:
            return state is NodeState.LEFT or state is None
        if not self._network.can_talk(observer, node):
            return state in _GONE
        return state is NodeState.ALIVE and watching.version_of(node) == watched.version

    # -- false accusations --

    def _blame(self, observer: int, node: int, state: NodeState | None) -> None:
        """Count who is wronged: once for each node, and once for each view of it."""
        suspecting, killing = self._suspected.get(node), self._killed.get(node)
        nodes = self._nodes
        # The death of an earlier life is no slander, though it becomes known late.
        is_of_this_life = nodes[observer].version_of(node) >= nodes[node].born_as
        if state is NodeState.ALIVE or not is_of_this_life or not self._is_there(observer, node):
            for views in (suspecting, killing):
                if views is not None:
                    views.discard(observer)
            return
        if state is NodeState.SUSPECT:
            self.suspicion_views += 1
            self.false_suspicions += not suspecting
            self._suspected.setdefault(node, set()).add(observer)
        elif state is NodeState.DEAD:
            self.death_views += 1
            self.false_deaths += not killing
            self._killed.setdefault(node, set()).add(observer)

    def _forget_blame(self, node: int) -> None:
        self._suspected.pop(node, None)
        self._killed.pop(node, None)
        for views in (*self._suspected.values(), *self._killed.values()):
            views.discard(node)

    def _is_there(self, observer: int, node: int) -> bool:
        """Whether the node is up, reachable for the observer, and both count."""
        watching = self._nodes[observer]
        if watching.is_lying or watching.has_left or self._nodes[node].has_left:
            return False
        return observer != node and self._network.can_talk(observer, node)

    # -- milestones --

    def _settle(self, node: int | None, now: float) -> None:
        for known in (node, None) if node is not None else (None,):
            found = self._open.get(known)
            if found is None:
                continue
            wrong = self.wrong_count if known is None else self._wrong_about[known]
            if found.half_after_s is None and wrong * 2 <= found.wrong_at_first:
                found.half_after_s = now - found.at_s
            if wrong == 0:
                self._close(known, now - found.at_s)

    def _close(self, known: int | None, settled_after_s: float | None) -> None:
        found = self._open.pop(known, None)
        if found is not None:
            self._milestones.append(
                Milestone(found.name, found.at_s, settled_after_s, found.half_after_s, found.node)
            )
