"""The program that runs functions at a provider, as a process of its own."""

from __future__ import annotations

import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from p2prc.client import bundle
from p2prc.client.pickled import pickled_arguments, pickled_function
from p2prc.client.results import decode
from p2prc.errors import InvalidInput


class WorkerProcess:
    """A worker here, without a sandbox."""

    def __init__(self, *, is_trusted: bool = False) -> None:
        # `-I`: it must live from what was sent.
        python, *rest = bundle.command(sys.executable, is_trusted=is_trusted)
        self.process = subprocess.Popen(
            [python, "-I", *rest],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._send(bundle.archive())
        assert self.read()[0] == "hello"
        self._number = 0

    def call(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Run a function; return the answer without its seconds."""
        self._number += 1
        self.say("function", self._number, pickled_function(function))
        self.say("call", self._number, self._number, pickled_arguments(arguments, {}))
        kind, number, took_s, *rest = self.read()
        assert number == self._number
        assert took_s >= 0
        return [kind, *rest]

    def say(self, *frame: Any) -> None:
        content = msgspec.msgpack.encode(frame)
        self._send(struct.pack(">I", len(content)) + content)

    def read(self) -> list[Any]:
        """Return the next frame."""
        assert self.process.stdout is not None
        size = struct.unpack(">I", self.process.stdout.read(4))[0]
        return msgspec.msgpack.decode(self.process.stdout.read(size), type=list[Any])

    def end(self) -> bytes:
        """End its input and return what it printed."""
        return self.process.communicate(timeout=20)[1]

    def _send(self, content: bytes) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(content)
        self.process.stdin.flush()


@pytest.fixture
def worker() -> Any:
    made = WorkerProcess()
    yield made
    made.process.kill()
    made.end()


def _module_function(number: int) -> int:
    return _doubled(number)


def _doubled(number: int) -> int:
    return 2 * number


def test_functions_of_a_module_that_is_not_there_travel_along(worker: WorkerProcess) -> None:
    kind, content = worker.call(_module_function, 21)
    assert (kind, decode(content)) == ("value", 42)
    assert decode(worker.call(lambda: (1, "a"))[1]) == (1, "a")


def test_prints_and_inputs_do_not_touch_the_frames(worker: WorkerProcess) -> None:
    def noisy() -> str:
        print("to the output")
        return sys.stdin.read()

    assert decode(worker.call(noisy)[1]) == ""
    assert worker.end().strip() == b"to the output"


def test_it_survives_exceptions_and_exits(worker: WorkerProcess) -> None:
    kind, name, arguments, text, told = worker.call(lambda: 1 // 0)
    assert (kind, name, text) == (
        "raised",
        "ZeroDivisionError",
        "integer division or modulo by zero",
    )
    assert decode(arguments) == [text]
    assert "1 // 0" in told or "lambda" in told
    assert worker.call(lambda: sys.exit(3))[1] == "SystemExit"
    assert decode(worker.call(lambda: 1)[1]) == 1


def test_what_is_not_plain_is_named_and_not_sent(worker: WorkerProcess) -> None:
    assert worker.call(lambda: {1}) == ["not-plain", "builtins.set"]


def test_a_trusted_worker_pickles_what_is_not_plain() -> None:
    worker = WorkerProcess(is_trusted=True)
    assert worker.call(lambda: {1})[0] == "pickle"
    assert worker.call(lambda: 1)[0] == "value"
    assert worker.call(lambda: (one for one in "abc"))[:2] == ["raised", "TypeError"]
    assert worker.end() == b""


def test_what_cannot_travel_is_said_here() -> None:
    with pytest.raises(InvalidInput, match="the arguments cannot be sent"):
        pickled_arguments((threading.Lock(),), {})
    with pytest.raises(InvalidInput, match="int is no function"):
        pickled_function(3)  # type: ignore[arg-type]
