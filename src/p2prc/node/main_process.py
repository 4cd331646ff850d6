"""A lease's main process: begun with it, begun again by its rule, its output kept bounded."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Literal

from p2prc.errors import P2prcError
from p2prc.model.resources import finite
from p2prc.model.workload import MainProcess
from p2prc.node.kept_log import KeptLog
from p2prc.node.log_file import LogFile
from p2prc.protocol.leases import LeaseState, LeaseView
from p2prc.protocol.messages import LeaseStanding
from p2prc.protocol.restarts import Restarts
from p2prc.runtime.port import Execution, OutputChunk, Sandbox


class Main:
    """Runs until it ends for good or is stopped; the lease goes on either way."""

    def __init__(
        self,
        sandbox: Sandbox,
        wanted: MainProcess,
        variables: Mapping[str, str],
        file: LogFile | None = None,
    ) -> None:
        self.log = KeptLog()
        self._file = file
        self.state: Literal["running", "waiting", "ended"] = "running"
        self.status: int | None = None
        self.starts = 0
        self._sandbox = sandbox
        self._wanted = wanted
        self._variables = variables
        self._is_stopped = asyncio.Event()

    def take_up_log(self) -> None:
        """Go on with what was printed in the node's life before."""
        for chunk in [] if self._file is None else self._file.load():
            self.log.add(chunk)

    def ended_before(self, status: int | None) -> None:
        """Know that it ended for good in the node's life before."""
        self.state, self.status = "ended", status
        self.log.close()

    async def run(self, *, was_cut_off: bool = False) -> None:
        """Start it as often as its rule says.

        With `was_cut_off` it ended with the node's life before, by no fault of its own.
        """
        restarts, clock = Restarts(self._wanted.restart), asyncio.get_running_loop().time
        try:
            if was_cut_off:
                self._say("it ended with its node, which was started anew")
                restarts, pause_s = restarts.ended(None, ran_s=0)
                if pause_s is None:
                    return
            while not self._is_stopped.is_set():
                self.state, began_at = "running", clock()
                self.starts += 1
                self.status = await self._once()
                restarts, pause_s = restarts.ended(self.status, ran_s=clock() - began_at)
                if pause_s is None:
                    return
                self.state = "waiting"
                await self._pause(pause_s)
        finally:
            self.state = "ended"
            self.log.close()

    @property
    def is_stopped(self) -> bool:
        """Whether it was told to start no more."""
        return self._is_stopped.is_set()

    def stop(self) -> None:
        """Start it no more: the lease ends. Whoever ends the sandbox kills the process."""
        self._is_stopped.set()
        if self._file is not None:
            self._file.remove()

    async def _once(self) -> int | None:
        try:
            execution = await self._sandbox.execute(self._wanted.argv, variables=self._variables)
            await self._read(execution)
            ended = await execution.wait()
        except P2prcError as error:
            self._say(error.message)
            return None
        if ended.code and not self._is_stopped.is_set():
            self._say(ended.reason)
        return ended.status

    async def _read(self, execution: Execution) -> None:
        async for chunk in execution.output():
            self._keep(chunk)

    def _say(self, sentence: str) -> None:
        self._keep(OutputChunk(2, f"p2prc: {sentence}\n".encode("utf-8", "replace")))

    def _keep(self, chunk: OutputChunk) -> None:
        self.log.add(chunk)
        if self._file is not None:
            self._file.add(chunk)

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._is_stopped.wait()
        except TimeoutError:
            return


def standing_of(view: LeaseView, expires_in_s: float, main: Main | None) -> LeaseStanding:
    """Return a lease that is held as its requester is told."""
    is_suspended = view.is_suspended and view.state is LeaseState.ACTIVE
    return LeaseStanding(
        lease=view.lease,
        state="suspended" if is_suspended else view.state.value,
        expires_in_s=finite(max(0.0, expires_in_s)),
        tier=view.tier,
        main="" if main is None else main.state,
        main_status=None if main is None else main.status,
        main_starts=0 if main is None else main.starts,
    )
