"""`Executor`: Python functions in sandboxes on other people's machines, as `concurrent.futures`.

Each worker is a container whose interpreter stays warm. A call that is lost with its worker is
made again elsewhere, so a function may run more than once; its result is taken once. Nothing that
comes back is unpickled unless the caller said that it trusts the providers.
"""

from __future__ import annotations

import atexit
import itertools
import logging
import os
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent import futures
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

from p2prc.api.client import ControlClient
from p2prc.api.container_schema import CreateEnded, CreateRequest
from p2prc.api.exec_call import ExecCall
from p2prc.client import bundle
from p2prc.client.channel import Answer, WorkerChannel
from p2prc.client.outcomes import settle
from p2prc.client.pickled import pickled_arguments, pickled_function, send_along
from p2prc.client.printed import Printed
from p2prc.errors import NodeNotRunning, P2prcError, PeerLost
from p2prc.settings import home_folder

RESULT_LIMIT_BYTES = 256 << 20
_ATTEMPTS = 3
_AHEAD_S = 0.05
"""So much work a worker is given ahead, beside what the way there and back takes."""
_AHEAD_CALLS = 256
_START_AGAIN_S = 3.0
_log = logging.getLogger("p2prc")
_P = ParamSpec("_P")
_T = TypeVar("_T")
_open: weakref.WeakSet[Executor] = weakref.WeakSet()


@dataclass(slots=True, eq=False)
class _Call:
    number: int
    function: bytes
    arguments: bytes
    future: Future[Any]
    attempts: int = 0
    sent_at: float = 0.0


@dataclass(slots=True, eq=False)
class _Worker:
    """A worker that answers; `took_s` is a moving mean, `way_s` the best time there and back."""

    channel: WorkerChannel
    under_way: dict[int, _Call] = field(default_factory=dict)
    took_s: float | None = None
    way_s: float = 0.0

    @property
    def room(self) -> int:
        """How many more calls it may be given: one until it is known what they take."""
        if self.took_s is None:
            return 1 - len(self.under_way)
        ahead = 1 + int((_AHEAD_S + self.way_s) / max(self.took_s, 1e-6))
        return min(ahead, _AHEAD_CALLS) - len(self.under_way)

    def note(self, call: _Call, took_s: float, now: float) -> None:
        self.took_s = took_s if self.took_s is None else 0.8 * self.took_s + 0.2 * took_s
        way_s = max(now - call.sent_at - took_s, 0.0)
        self.way_s = way_s if self.way_s == 0.0 else min(self.way_s, way_s)


class Executor(futures.Executor):
    """Runs functions in containers of the network that this machine's node belongs to.

    `max_workers` None is as many as the network has free cores now. `nodes` are names or ids, else
    any node that lends. While no worker can be had, nodes are asked again for `start_timeout_s`;
    then what waits fails with the reason. `requirements` are packages for the workers; `cpus` and
    `memory_bytes` are of each worker. `modules` are modules of one's own that go along with the
    functions of others.
    Results are plain values and arrays; with `trust_results` they may be anything that pickles,
    and unpickling runs what the provider put there. What functions print goes to `on_output`, else
    to standard error.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        *,
        home: str | Path | None = None,
        nodes: Sequence[str] = (),
        requirements: Sequence[str] = (),
        image: str = "",
        runtime: str = "auto",
        tiers: Sequence[str] = (),
        network: str = "none",
        cpus: float = 1,
        memory_bytes: int | None = None,
        gpus: int = 0,
        lifetime_s: float | None = None,
        python: str = "python",
        start_timeout_s: float = 60.0,
        modules: Iterable[ModuleType] = (),
        trust_results: bool = False,
        result_limit_bytes: int = RESULT_LIMIT_BYTES,
        on_output: Callable[[str], None] | None = None,
    ) -> None:
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be at least 1")
        for module in modules:
            send_along(module)
        self._home = str(home_folder(None if home is None else str(home), os.environ))
        self._client = ControlClient(self._home)
        self._targets = itertools.cycle([nodes] if isinstance(nodes, str) else nodes or ["any"])
        self._request = CreateRequest(
            requirements=list(requirements),
            image=image,
            runtime=runtime,
            tiers=list(tiers),
            network=network,  # type: ignore[arg-type] # the node says which there are
            cpus=cpus,
            memory_bytes=memory_bytes,
            gpus=gpus,
            lifetime_s=lifetime_s,
            name="",
        )
        self._most = max_workers or self._free_cores(cpus)
        self._command = bundle.command(python, is_trusted=trust_results)
        self._is_trusting = trust_results
        self._limit = result_limit_bytes
        self._start_timeout_s = start_timeout_s
        self._printed = Printed(on_output)
        self._numbers = itertools.count(1)
        self._changed = threading.Condition(threading.RLock())
        self._pending: deque[_Call] = deque()
        self._workers: list[_Worker] = []
        self._slots: list[threading.Thread] = []
        self._is_closing = False
        self._without_worker_since: float | None = None
        _open.add(self)

    # -- what callers do

    def submit(
        self, function: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs
    ) -> Future[_T]:
        """Run a function somewhere. Raises InvalidInput for what cannot travel."""
        return self._add(pickled_function(function), pickled_arguments(args, kwargs))

    def map(
        self,
        function: Callable[..., _T],
        /,
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
    ) -> Iterator[_T]:
        """Run a function over values; yield the results in their order.

        `chunksize` is of no use here: quick calls travel many at once by themselves.
        """
        ends_at = None if timeout is None else time.monotonic() + timeout
        sent = pickled_function(function)
        calls = [self._add(sent, pickled_arguments(args, {})) for args in zip(*iterables)]  # noqa: B905 - as `map` does
        return _results(calls, ends_at)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - as in `concurrent.futures`
        """Take no more; give the workers back when all is done."""
        with self._changed:
            self._is_closing = True
            if cancel_futures:
                cancelled = [call.future for call in self._pending]
                self._pending.clear()
            self._dismiss_idle()
            self._changed.notify_all()
            slots = list(self._slots)
        if cancel_futures:
            for future in cancelled:
                future.cancel()
                future.set_running_or_notify_cancel()
        if wait:
            for slot in slots:
                slot.join()
            self._printed.flush()

    # -- calls

    def _add(self, function: bytes, arguments: bytes) -> Future[Any]:
        with self._changed:
            if self._is_closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            call = _Call(next(self._numbers), function, arguments, Future())
            self._pending.append(call)
            self._hand_out()
            if self._pending and len(self._slots) < self._most:
                self._add_slot()
        return call.future

    def _hand_out(self) -> None:
        """Give waiting calls to workers with room, those with least to do first."""
        for worker in sorted(self._workers, key=lambda one: len(one.under_way)):
            while self._pending and worker.room > 0:
                call = self._pending.popleft()
                if call.attempts == 0 and not call.future.set_running_or_notify_cancel():
                    continue
                call.attempts += 1
                call.sent_at = time.monotonic()
                worker.under_way[call.number] = call
                worker.channel.call(call.number, call.function, call.arguments)

    def _answered(self, worker: _Worker, answer: Answer) -> None:
        with self._changed:
            call = worker.under_way.pop(answer.call, None)
            if call is None:
                # One that never was asked for: nothing waits for it.
                return
            worker.note(call, answer.took_s, time.monotonic())
            self._hand_out()
            self._dismiss_idle()
        settle(call.future, answer, is_trusting=self._is_trusting)

    def _dismiss_idle(self) -> None:
        if self._is_closing and not self._pending:
            for worker in self._workers:
                if not worker.under_way:
                    worker.channel.close()

    # -- workers

    def _add_slot(self) -> None:
        name = f"p2prc worker {len(self._slots) + 1}"
        slot = threading.Thread(target=self._keep_worker, name=name, daemon=True)
        self._slots.append(slot)
        slot.start()

    def _keep_worker(self) -> None:
        """Have a worker as long as there is something to do; start another when it is lost."""
        while self._is_wanted():
            try:
                self._serve()
            except P2prcError as error:
                self._start_failed(error)
            except BaseException as error:
                self._fail_pending(error)
                raise

    def _is_wanted(self) -> bool:
        with self._changed:
            while not self._pending:
                if self._is_closing:
                    return False
                self._changed.wait()
            return True

    def _serve(self) -> None:
        """Start a worker and take its answers until it is lost or dismissed.

        Raises P2prcError if it could not be started.
        """
        lease = self._create()
        try:
            exec_call = ExecCall(self._home, lease, self._command, takes_input=True)
            worker = _Worker(
                WorkerChannel(
                    exec_call, result_limit_bytes=self._limit, on_output=self._printed.add
                )
            )
            self._converse(worker)
        finally:
            # The node has ended it, or is gone itself.
            with suppress(P2prcError):
                self._client.remove([lease])

    def _converse(self, worker: _Worker) -> None:
        has_begun = False
        reason: P2prcError = PeerLost("the worker ended")
        try:
            worker.channel.open()
            for answer in worker.channel.answers(on_ready=lambda: self._ready(worker)):
                has_begun = True
                self._answered(worker, answer)
        except P2prcError as error:
            reason = error
        finally:
            worker.channel.close()
            is_known = self._lost(worker, reason)
        if not (has_begun or is_known):
            raise reason

    def _ready(self, worker: _Worker) -> None:
        with self._changed:
            self._without_worker_since = None
            self._workers.append(worker)
            self._hand_out()
            self._dismiss_idle()

    def _lost(self, worker: _Worker, reason: P2prcError) -> bool:
        """Put its calls back in front; say whether it ever was ready."""
        with self._changed:
            is_known = worker in self._workers
            if is_known:
                self._workers.remove(worker)
            lost = [worker.under_way[number] for number in sorted(worker.under_way, reverse=True)]
            given_up = [call for call in lost if call.attempts >= _ATTEMPTS]
            self._pending.extendleft(call for call in lost if call.attempts < _ATTEMPTS)
            self._hand_out()
            self._changed.notify_all()
        for call in given_up:
            message = f"lost {call.attempts} workers that ran it; the last one: {reason.message}"
            call.future.set_exception(PeerLost(message, hint=reason.hint))
        return is_known

    def _create(self) -> str:
        import msgspec  # noqa: PLC0415

        with self._changed:
            target = next(self._targets)
        request = msgspec.structs.replace(self._request, target=target)
        with closing(self._client.create(request)) as events:
            for event in events:
                if isinstance(event, CreateEnded):
                    return event.container.id
        raise NodeNotRunning("the node stopped before the worker was there")

    def _start_failed(self, error: P2prcError) -> None:
        """Try again later, or give up: for good reasons at once, else after some patience."""
        with self._changed:
            now = time.monotonic()
            if self._workers:
                self._changed.wait(_START_AGAIN_S)
                return
            if self._without_worker_since is None:
                self._without_worker_since = now
                if error.retryable:
                    _log.warning("no worker yet: %s; trying again", error.message)
            waited = now - self._without_worker_since
            if error.retryable and waited < self._start_timeout_s and not self._is_closing:
                self._changed.wait(_START_AGAIN_S)
                return
            self._without_worker_since = None
        self._fail_pending(error)

    def _fail_pending(self, error: BaseException) -> None:
        with self._changed:
            failed, self._pending = list(self._pending), deque()
        for call in failed:
            if call.attempts or call.future.set_running_or_notify_cancel():
                call.future.set_exception(error)

    def _free_cores(self, cpus: float) -> int:
        lending = [node for node in self._client.nodes() if node.is_lending]
        free = sum(int(node.free.cpus // max(cpus, 0.01)) for node in lending)
        return max(1, free)


def _results(calls: list[Future[_T]], ends_at: float | None) -> Iterator[_T]:
    calls.reverse()
    try:
        while calls:
            left = None if ends_at is None else max(0.0, ends_at - time.monotonic())
            yield calls.pop().result(left)
    finally:
        for call in calls:
            call.cancel()


@atexit.register
def _shut_down_all() -> None:
    for executor in list(_open):
        with suppress(KeyboardInterrupt):
            executor.shutdown(wait=sys.exc_info()[0] is None)
