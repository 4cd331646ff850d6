"""The supervisor of a lease with sessions: many commands, and what they leave behind goes on.

What is too much of memory is taken like the kernel takes it: the largest process is killed, and the
rest goes on. What does not come back by that, as a full disk, ends the lease.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time

from p2prc.runtime.process import watch
from p2prc.runtime.process.lease import Supervisor
from p2prc.runtime.process.messages import Execute
from p2prc.runtime.process.places import Finished
from p2prc.runtime.process.shared import SessionsPlace

_LOOK_S = 0.1
_LONGEST_PAUSE_S = 1.0
_CALM_S = 0.02
_LOOK_CLOSELY_S = 10.0
_PATIENT_LOOKS = 5
_KILLED = 137
_TOLD_WITHIN_S = 5.0


class SessionsSupervisor(Supervisor):
    """One lease whose commands run at once, and whose sandbox lives until the lease ends."""

    _times_held_back = 0
    _excess = ""
    _excess_until = 0.0
    _used_s = 0.0
    _look_closely_at = 0.0
    _pause_s = 0.0

    @property
    def _is_busy(self) -> bool:
        return True

    def _before(self, now: float) -> None:
        self._look_at = min(self._look_at, now + _LOOK_S)
        self._look_at_disk_at = min(self._look_at_disk_at, now + _LOOK_S)
        self._pause_s = 0.0

    def _stop(self, number: int, code: str, reason: str) -> None:
        self._running[number].because(code, reason)
        self._place.stop(number)

    def _kill(self) -> None:
        # What it used was told all the time.
        self._place.kill()

    def _settle(self) -> None:
        super()._settle()
        if isinstance(self._place, SessionsPlace) and self._place.is_over and self._end is None:
            self._end = ("lease-ended", "the sandbox ended unexpectedly")

    def _account(self, finished: Finished, now: float) -> tuple[float, int]:
        return finished.cpu_s, finished.memory_peak_bytes

    def _excess_at_end(self) -> str:
        return ""

    def _verdict(self, finished: Finished, request: Execute, excess: str) -> tuple[str, str]:
        if finished.status == _KILLED and self._excess:
            return "limit-exceeded", self._excess
        return super()._verdict(finished, request, excess)

    def _look_at_busy(self, now: float, pids: list[int]) -> None:
        used_s = self._place.cpu_s(pids)
        # Who sleeps is looked at less often, and not closely: many leases sleep.
        is_calm = used_s - self._used_s < _CALM_S and not self._excess
        is_asleep = used_s == self._used_s and self._pause_s >= _LONGEST_PAUSE_S
        if is_asleep and now < min(self._next_timeout(), self._look_closely_at):
            self._look_at = now + _LONGEST_PAUSE_S
        else:
            super()._look_at_busy(now, pids)
            self._look_closely_at = now + _LOOK_CLOSELY_S
        self._pause_s = min(2 * self._pause_s + _LOOK_S, _LONGEST_PAUSE_S) if is_calm else 0.0
        self._used_s = used_s
        self._look_at = max(self._look_at, now + self._pause_s)
        for running in self._running.values():
            if not running.cause[0]:
                self._look_at = min(self._look_at, running.times_out_at)

    def _next_timeout(self) -> float:
        """Return when a command that runs is to be ended for its time, or for a reason known."""
        ends = [0.0 if each.cause[0] else each.times_out_at for each in self._running.values()]
        return min(ends, default=float("inf"))

    def _hold_back(self, excess: str) -> None:
        self._times_held_back += 1
        self._excess, self._excess_until = excess, time.monotonic() + _TOLD_WITHIN_S
        if self._times_held_back > _PATIENT_LOOKS:
            self._give_up(excess)
            return
        init = self._place.init()
        largest = watch.largest([pid for pid in self._place.processes() if pid != init])
        if largest:
            with contextlib.suppress(OSError):
                os.kill(largest, signal.SIGKILL)
            watch.be_impolite([largest])

    def _recover(self) -> None:
        self._times_held_back = 0
        # Its memory is back before its end is told.
        if time.monotonic() >= self._excess_until:
            self._excess = ""

    def _give_up(self, excess: str) -> None:
        self._end = ("limit-exceeded", excess)
