"""One warm interpreter at a provider, as the executor sees it: calls go in, answers come out."""

from __future__ import annotations

import contextlib
import itertools
import queue
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import msgspec

from p2prc.api.exec_call import ExecCall
from p2prc.client import bundle
from p2prc.errors import EnvironmentBroken, PeerLost, PeerMisbehaved

_LENGTH = struct.Struct(">I")
_HEAD_LIMIT_BYTES = 128 * 1024
"""What a frame may hold beside a result."""
_HELD_PIECES = 256
_LONGEST_S = 366 * 86400.0
_FUNCTIONS_LIMIT = 64
"""So many a worker remembers; each closure over other values is another."""
_CLOSE = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a call. `kind`: value, pickle, raised or not-plain; `rest` belongs to it."""

    call: int
    kind: str
    took_s: float
    rest: list[Any]


class WorkerChannel:
    """Frames to and from one worker. `on_output` gets what functions print."""

    def __init__(
        self,
        exec_call: ExecCall,
        *,
        result_limit_bytes: int,
        on_output: Callable[[bytes], None],
    ) -> None:
        self._exec = exec_call
        self._limit = result_limit_bytes + _HEAD_LIMIT_BYTES
        self._on_output = on_output
        self._functions: dict[bytes, int] = {}
        self._numbers = itertools.count()
        self._unsent: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._sender = threading.Thread(target=self._send, name="p2prc worker input", daemon=True)

    def open(self) -> None:
        """Send the program and start. Its first answer is awaited by `answers`."""
        self._unsent.put(bundle.archive())
        self._sender.start()

    def call(self, number: int, function: bytes, arguments: bytes) -> None:
        """Ask for one call; returns at once."""
        known = self._functions.get(function)
        if known is None:
            known = self._functions[function] = next(self._numbers)
            self._unsent.put(_frame("function", known, function))
            if len(self._functions) > _FUNCTIONS_LIMIT:
                oldest = next(iter(self._functions))
                self._unsent.put(_frame("forget", self._functions.pop(oldest)))
        self._unsent.put(_frame("call", number, known, arguments))

    def answers(self, *, on_ready: Callable[[], None]) -> Iterator[Answer]:
        """Yield the answers as they come, once it is ready. Raises P2prcError when it is lost.

        Raises EnvironmentBroken when its Python is not ours: functions travel as bytecode.
        """
        frames = self._frames()
        _check_hello(next(frames, []))
        on_ready()
        for frame in frames:
            match frame:
                case [str(kind), int(call), float(took_s), *rest] if 0 <= took_s <= _LONGEST_S:
                    yield Answer(call, kind, took_s, rest)
                case _:
                    raise PeerMisbehaved("a worker answered with something else")
        raise PeerLost("the worker ended")

    def close(self) -> None:
        """End the interpreter."""
        self._unsent.put(_CLOSE)
        self._exec.close()

    def _send(self) -> None:
        with contextlib.suppress(OSError):
            while content := self._unsent.get():
                pieces = [content]
                # What waits goes along: a thousand calls are a few pieces.
                while len(pieces) < _HELD_PIECES and not self._unsent.empty():
                    pieces.append(self._unsent.get())
                self._exec.send(b"".join(pieces))
                if pieces[-1] == _CLOSE:
                    return

    def _frames(self) -> Iterator[list[Any]]:
        held = bytearray()
        said = b""
        for output in self._exec.outputs():
            if output.channel != 1:
                said = (said + output.content)[-2000:]
                self._on_output(output.content)
                continue
            held += output.content
            begin = 0
            while len(held) - begin >= _LENGTH.size:
                size = _LENGTH.unpack_from(held, begin)[0]
                if size > self._limit:
                    raise PeerMisbehaved("a result is larger than the limit for results")
                end = begin + _LENGTH.size + size
                if len(held) < end:
                    break
                yield _decoded(bytes(held[begin + _LENGTH.size : end]))
                begin = end
            del held[:begin]
        raise PeerLost(f"the worker ended{_last_line(said)}")


def _decoded(content: bytes) -> list[Any]:
    try:
        return msgspec.msgpack.decode(content, type=list[Any])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise PeerMisbehaved("a worker's answer is damaged") from error


def _check_hello(frame: list[Any]) -> None:
    match frame:
        case ["hello", str(version), str(implementation)]:
            pass
        case _:
            raise PeerMisbehaved("a worker began with something else")
    ours = f"{sys.version_info.major}.{sys.version_info.minor}"
    theirs = ".".join(version.split(".")[:2])
    if (theirs, implementation) != (ours, sys.implementation.name):
        raise EnvironmentBroken(
            f"functions travel as bytecode, and Python is {theirs[:10]} there, {ours} here",
            hint=f"use nodes or an image with Python {ours}",
        )


def _frame(*parts: Any) -> bytes:
    content = msgspec.msgpack.encode(parts)
    return _LENGTH.pack(len(content)) + content


def _last_line(said: bytes) -> str:
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return f": {lines[-1][:300]}" if lines else ""
