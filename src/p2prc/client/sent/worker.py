"""A warm interpreter at a provider: runs one function after another until its input ends.

It runs inside the sandbox, with the modules that came along with it and the standard library, and
imports nothing of p2prc. Frames are a length (four bytes, big-endian) and a list as msgpack:

    to it:   ["function", number, pickled]   ["forget", number]
             ["call", id, number, pickled (arguments, keywords)]
    from it: ["hello", "3.11.7", "cpython"]  ["value", id, seconds, content]
             ["pickle", id, seconds, content]
             ["raised", id, seconds, type, arguments or None, text, traceback]
             ["not-plain", id, seconds, type]

What the function prints goes to standard error: standard output belongs to the frames.
"""

from __future__ import annotations

import os
import platform
import struct
import sys
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import cloudpickle
from msgpack.fallback import Packer, unpackb

# Its name at the provider is another: the archive holds this folder and no more of p2prc.
from .values import NotPlain, encode

_LENGTH = struct.Struct(">I")
_TEXT_LIMIT = 16 * 1024


def main(arguments: list[str]) -> None:
    """Serve until the input ends. `--pickle`: results may be anything."""
    # A copy of each that no function can reach by `print` or `input`.
    source = os.fdopen(os.dup(0), "rb", 1 << 16)
    sink = os.fdopen(os.dup(1), "wb", 1 << 16)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    sys.path.insert(0, str(Path.cwd()))
    Worker(sink, is_trusted="--pickle" in arguments).serve(source)


class Worker:
    """The functions that came, and how their results are told."""

    def __init__(self, sink: BinaryIO, *, is_trusted: bool) -> None:
        self._sink = sink
        self._is_trusted = is_trusted
        self._functions: dict[int, bytes | Any] = {}

    def serve(self, source: BinaryIO) -> None:
        """Answer each call in its turn."""
        self._say("hello", platform.python_version(), sys.implementation.name)
        for kind, *rest in _frames(source):
            if kind == "function":
                number, pickled = rest
                self._functions[number] = pickled
            elif kind == "forget":
                self._functions.pop(rest[0], None)
            elif kind == "call":
                self._call(*rest)

    def _call(self, call: int, number: int, pickled: bytes) -> None:
        began = time.perf_counter()
        try:
            result = self._run(number, pickled)
        except BaseException as error:  # noqa: BLE001
            # Whatever it was, `exit()` too: this interpreter goes on.
            self._tell_raised(call, time.perf_counter() - began, error)
            return
        self._tell(call, time.perf_counter() - began, result)

    def _run(self, number: int, pickled: bytes) -> Any:
        function = self._functions[number]
        if isinstance(function, bytes):
            function = self._functions[number] = cloudpickle.loads(function)
        arguments, keywords = cloudpickle.loads(pickled)
        return function(*arguments, **keywords)

    def _tell(self, call: int, took_s: float, result: Any) -> None:
        try:
            self._say("value", call, took_s, encode(result))
        except NotPlain as error:
            if not self._is_trusted:
                self._say("not-plain", call, took_s, str(error)[:_TEXT_LIMIT])
                return
            try:
                self._say("pickle", call, took_s, cloudpickle.dumps(result))
            except Exception as failure:  # noqa: BLE001 - whatever its classes raise
                self._tell_raised(call, took_s, failure)

    def _tell_raised(self, call: int, took_s: float, error: BaseException) -> None:
        try:
            arguments = encode(list(error.args))
        except NotPlain:
            arguments = None
        if arguments is not None and len(arguments) > _TEXT_LIMIT:
            arguments = None
        told = "".join(traceback.format_exception(error))[-_TEXT_LIMIT:]
        self._say(
            "raised", call, took_s, type(error).__qualname__, arguments, _text_of(error), told
        )

    def _say(self, *frame: Any) -> None:
        content = Packer(use_bin_type=True, unicode_errors="replace").pack(list(frame))
        self._sink.write(_LENGTH.pack(len(content)) + content)
        self._sink.flush()


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:_TEXT_LIMIT]
    except Exception:  # noqa: BLE001 - whatever its class raises
        return ""


def _frames(source: BinaryIO) -> Iterator[list[Any]]:
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        content = source.read(_LENGTH.unpack(head)[0])
        yield unpackb(content, raw=False, strict_map_key=False)
