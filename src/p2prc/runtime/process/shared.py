"""The places with an agent: one command after another, or sessions with many at once."""

from __future__ import annotations

from p2prc.runtime.process import watch
from p2prc.runtime.process.agency import Agency, command_fds, command_words, exit_status
from p2prc.runtime.process.messages import Execute
from p2prc.runtime.process.places import Finished, Streams


class SharedPlace:
    """One sandbox with an agent that runs command after command, or a new one for each."""

    def __init__(self, agency: Agency, *, is_isolated: bool = False) -> None:
        self._agency = agency
        self._is_isolated = is_isolated
        self._number: int | None = None
        self._before_s = 0.0

    @property
    def channel(self) -> int:
        return self._agency.channel

    def open(self) -> None:
        self._agency.open()

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        self.open()
        self._before_s = watch.cpu_s([self.init()])
        if request.cores:
            watch.use_cores([self.init()], request.cores)
        self._number = request.number
        self._agency.order(command_words(request, streams, variables), command_fds(streams))

    def poll(self) -> list[Finished]:
        said = self._agency.report()
        if said is not None and self._number is not None:
            number, self._number = self._number, None
            return [self._finished(number, said)]
        usage = self._agency.ended()
        if usage is None or self._number is None:
            return []
        number, self._number = self._number, None
        used_s = max(0.0, usage.ru_utime + usage.ru_stime - self._before_s)
        return [Finished(number, None, 0, used_s, usage.ru_maxrss * 1024)]

    def stop(self, number: int) -> None:
        self.kill()

    def kill(self) -> None:
        self._agency.kill()

    def processes(self) -> list[int]:
        return self._agency.processes()

    def cpu_s(self, pids: list[int] | None = None) -> float:
        return max(0.0, watch.cpu_s(self.processes() if pids is None else pids) - self._before_s)

    def init(self) -> int:
        return self._agency.init

    def _finished(self, number: int, said: list[int]) -> Finished:
        wait_status, error, micros, peak_kib, is_leaving = said
        # What the agent says can be a tenant's lie; the kernel counts in hundredths of a second.
        counted_s = watch.cpu_s([self.init()]) - self._before_s - 0.02
        used_s, peak = max(counted_s, micros / 1e6), max(0, peak_kib) * 1024
        if is_leaving or self._is_isolated:
            self.kill()
        status = None if error else exit_status(wait_status)
        return Finished(number, status, max(0, error), used_s, peak)


class SessionsPlace:
    """One sandbox whose agent runs many commands; its end is the end of all of them."""

    def __init__(self, agency: Agency) -> None:
        self._agency = agency
        self._running: set[int] = set()
        self.is_over = False
        """Whether the sandbox has ended: it is not made again, for what ran in it is lost."""

    @property
    def channel(self) -> int:
        return self._agency.channel

    def open(self) -> None:
        self._agency.open()

    def run(self, request: Execute, streams: Streams, variables: dict[str, str]) -> None:
        self._running.add(request.number)
        if request.cores:
            watch.use_cores(self.processes(), request.cores)
        words = [str(request.number), *command_words(request, streams, variables)]
        self._agency.order(words, command_fds(streams))

    def poll(self) -> list[Finished]:
        found = []
        while (said := self._agency.report()) is not None:
            number, wait_status, error, micros, peak_kib = said
            if number in self._running:
                self._running.discard(number)
                status = None if error else exit_status(wait_status)
                used = (max(0, micros) / 1e6, max(0, peak_kib) * 1024)
                found.append(Finished(number, status, max(0, error), *used))
        if self._agency.ended() is not None:
            self.is_over = True
            found += [Finished(number, None, 0, 0.0, 0) for number in sorted(self._running)]
            self._running.clear()
        return found

    def stop(self, number: int) -> None:
        self._agency.order(["kill", str(number)])

    def kill(self) -> None:
        self._agency.kill()

    def processes(self) -> list[int]:
        return self._agency.processes()

    def cpu_s(self, pids: list[int] | None = None) -> float:
        return watch.cpu_s(self.processes() if pids is None else pids)

    def init(self) -> int:
        return self._agency.init
