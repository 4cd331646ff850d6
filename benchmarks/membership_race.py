"""Who knows sooner: real nodes against Serf agents, one process each, on this machine in one run.

The clock starts when every process is up and alone. Then all but the first join the first at once:
until everyone holds everyone for alive. Later one is killed: until everyone else holds it for dead.
"""

from __future__ import annotations

import os
import signal
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

from benchmarks import idle, serf_agent
from benchmarks.network import MeasuredNode
from benchmarks.report import Figure, Record
from p2prc.api.client import ControlClient
from p2prc.api.schema import InviteRequest

NODES = 50
CHAIN = 5
CHAIN_TARGET_S = 2.0
IDLE_CPU_PERCENT = 1.0
IDLE_MEGABYTES = 90.0
JOINS_AT_ONCE = 16
SETTLE_S = 15.0
REST_S = 60.0
"""What a crowd of joins left is gone by then: the figure is of an idle node."""
UP_S = 2.0
"""All processes are up for so long before the clock starts."""
JOIN_ROUNDS = 3
"""Serf repairs what its datagrams lost after 30 s: one round alone would not be fair to it."""
_PATIENCE_S = 180.0
_POLL_S = 0.02
_FIRST_PORT = 21000


class Contender(Protocol):
    """One process of either kind."""

    @property
    def pid(self) -> int: ...

    def counts(self) -> tuple[int, int]: ...

    def kill(self) -> None: ...


@dataclass(frozen=True, slots=True)
class JoinRound:
    """How long all took to know all, and what CPU their processes used meanwhile."""

    took_s: float
    cpu_s: float


class Peer:
    """One of our nodes, asked over its control socket."""

    def __init__(self, number: int, folder: Path) -> None:
        self._node = MeasuredNode(folder / f"n{number}", f"n{number}")
        self._node.p2prc(
            "up", "--detach", "--name", self._node.name, "--listen", "127.0.0.1:0",
            "--relay", "none", "--runtime", "process", "--cpus", "1",
        )  # fmt: skip
        self._client = ControlClient(str(self._node.home))
        self._pid = self._client.status().pid
        self._is_killed = False

    @property
    def pid(self) -> int:
        return self._pid

    def ticket(self) -> str:
        return self._client.invite(InviteRequest(is_lan=True, is_admin=True)).ticket

    def join(self, ticket: str) -> None:
        self._client.join(ticket)

    def counts(self) -> tuple[int, int]:
        """Return how many nodes it holds for alive, and for dead."""
        status = self._client.status()
        return status.alive, status.dead

    def kill(self) -> None:
        """End it without a word, as a power cut would."""
        self._is_killed = True
        os.kill(self._pid, signal.SIGKILL)

    def close(self) -> None:
        if not self._is_killed:
            self._node.p2prc("down")


def race(count: int = NODES) -> Record:
    """Run both, one after the other, and compare."""
    missing = [] if serf_agent.has_serf() else [serf_agent.TOLD]
    details: dict[str, Any] = {"nodes": count}
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="p2prc-race-") as name, ExitStack() as stack:
        folder = Path(name)
        ours = stack.enter_context(_peers(count, folder))
        ticket = ours[0].ticket()
        first_round = _joined(ours, lambda peer: peer.join(ticket), "ours")
        our_rounds = [first_round]
        time.sleep(REST_S)
        costs = idle.watch_each([peer.pid for peer in ours])
        death_s = _time_of(ours[-1].kill, ours[:-1], alive=count - 1, dead=1)
        print(f"ours: a death is known to all after {death_s:.2f} s", flush=True)
        details["ours"] = {"death_s": death_s}
        details["ours"]["idle_cpu_percent"] = [cost.cpu_percent for cost in costs]
        details["ours"]["resident_mb"] = [cost.resident_mb for cost in costs]
        figures += [
            Figure(
                "idle node among them, CPU of a core (median)",
                statistics.median(cost.cpu_percent for cost in costs), "%",
                at_most=IDLE_CPU_PERCENT,
            ),
            Figure(
                "idle node among them, resident (largest)",
                max(cost.resident_mb for cost in costs), "MB", at_most=IDLE_MEGABYTES,
            ),
        ]  # fmt: skip
    if not missing:
        with tempfile.TemporaryDirectory(prefix="serf-race-") as name:
            their_first_round, theirs_death_s = _serf(count, Path(name))
        their_rounds = [their_first_round]
        for _ in range(JOIN_ROUNDS - 1):
            our_rounds.append(_our_join(count))
            their_rounds.append(_their_join(count))
        details["serf"] = {"death_s": theirs_death_s, **_told(their_rounds)}
        ratio = _median_s(our_rounds) / _median_s(their_rounds)
        figures = [
            Figure("join to all know all: ours / serf", ratio, "x", at_most=1.0),
            Figure("death to all know: ours / serf", death_s / theirs_death_s, "x", at_most=1.0),
            *figures,
        ]
    details["ours"] |= _told(our_rounds)
    with tempfile.TemporaryDirectory(prefix="p2prc-chain-") as name:
        chain_s = _chain(Path(name))
    figures.append(
        Figure("five in a chain, each knowing one", chain_s, "s", at_most=CHAIN_TARGET_S)
    )
    return Record("race", figures, details, missing)


def _told(rounds: Sequence[JoinRound]) -> dict[str, list[float]]:
    return {
        "join_s": [each.took_s for each in rounds],
        "join_cpu_s": [each.cpu_s for each in rounds],
    }


def _median_s(rounds: Sequence[JoinRound]) -> float:
    return statistics.median(each.took_s for each in rounds)


def _joined(contenders: Sequence[Any], join: Callable[[Any], None], whose: str) -> JoinRound:
    """Let all join the first one until all know all."""
    pids = [contender.pid for contender in contenders]
    time.sleep(UP_S)
    used_s = idle.cpu_s(pids)
    join_s = _time_of(lambda: _all(join, contenders[1:]), contenders, alive=len(contenders))
    used_s = idle.cpu_s(pids) - used_s
    print(f"{whose}: all know all after {join_s:.2f} s, {used_s:.2f} s of CPU", flush=True)
    return JoinRound(join_s, used_s)


def _our_join(count: int) -> JoinRound:
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-race-") as name,
        _peers(count, Path(name)) as ours,
    ):
        ticket = ours[0].ticket()
        return _joined(ours, lambda peer: peer.join(ticket), "ours")


def _their_join(count: int) -> JoinRound:
    with (
        tempfile.TemporaryDirectory(prefix="serf-race-") as name,
        _agents(count, Path(name)) as agents,
    ):
        first = agents[0].address
        return _joined(agents, lambda agent: agent.join(first), "serf")


@contextmanager
def _agents(count: int, folder: Path) -> Iterator[list[serf_agent.SerfAgent]]:
    with ExitStack() as stack:
        agents = []
        for number in range(count):
            agent = serf_agent.SerfAgent(number, _FIRST_PORT + 2 * number, folder)
            stack.callback(agent.close)
            agents.append(agent)
        _until(lambda agent: agent.is_up(), agents)
        yield agents


def _serf(count: int, folder: Path) -> tuple[JoinRound, float]:
    with _agents(count, folder) as agents:
        first = agents[0].address
        first_round = _joined(agents, lambda agent: agent.join(first), "serf")
        time.sleep(SETTLE_S)
        death_s = _time_of(agents[-1].kill, agents[:-1], alive=count - 1, dead=1)
        print(f"serf: a death is known to all after {death_s:.2f} s", flush=True)
    return first_round, death_s


def _chain(folder: Path) -> float:
    """Return the seconds until five nodes know all, each having been given the one before it."""
    with _peers(CHAIN, folder) as peers:

        def join_in_turn() -> None:
            for before, after in pairwise(peers):
                after.join(before.ticket())

        return _time_of(join_in_turn, peers, alive=CHAIN)


@contextmanager
def _peers(count: int, folder: Path) -> Iterator[list[Peer]]:
    with ExitStack() as stack:
        peers = []
        for number in range(count):
            peer = Peer(number, folder)
            stack.callback(peer.close)
            peers.append(peer)
        yield peers


def _time_of(
    begin: Callable[[], None], contenders: Sequence[Contender], *, alive: int, dead: int = 0
) -> float:
    """Return the seconds from the beginning until every contender counts so many."""
    began = time.monotonic()
    begin()
    # One after the other: who knows goes on knowing, and asking costs little.
    _until(lambda contender: contender.counts() == (alive, dead), contenders)
    return time.monotonic() - began


def _until(is_so: Callable[[Any], bool], contenders: Sequence[Any]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    for contender in contenders:
        while not is_so(contender):
            if time.monotonic() > deadline:
                raise RuntimeError(f"not so within {_PATIENCE_S:g} s")
            time.sleep(_POLL_S)


def _all(act: Callable[[Any], None], contenders: Sequence[Any]) -> None:
    with ThreadPoolExecutor(JOINS_AT_ONCE) as pool:
        list(pool.map(act, contenders))
