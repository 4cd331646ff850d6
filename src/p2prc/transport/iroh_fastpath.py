"""Bytes through iroh's door at memory speed, instead of one byte at a time.

iroh's generated bindings copy every byte in a Python loop (5 MB/s) and take a turn of the event
loop even when Rust has the answer at once. For the two calls that carry content, this module
speaks to the same C symbols itself: one allocation and one `memmove` on the way in, `string_at` on
the way out, and no turn of the loop when there is nothing to wait for.

The symbols are private to iroh. They are used only with the version that they were read from, and
only while the library's own checksums of the two calls agree; else `iroh_calls` does the same
through the public bindings.

The calls release the interpreter's lock on purpose: Rust threads call back into Python while they
hold locks of their own, so holding ours across a call would deadlock.
"""

from __future__ import annotations

import asyncio
import ctypes
import importlib.metadata
import itertools
import threading
from collections.abc import Callable, Coroutine
from ctypes import POINTER, Structure, byref, c_int8, c_uint16, c_uint32, c_uint64
from pathlib import Path
from typing import Any

import iroh
from iroh import iroh_ffi

from p2prc.transport.iroh_calls import Reader
from p2prc.transport.iroh_release import free_later

IROH_VERSION = "1.2.0"
_CONTRACT_VERSION = 30
_CHECKSUMS = {"recvstream_read": 19153, "sendstream_write_all": 64390}
_LENGTH_BYTES = 4
_READY = 0
_SUCCESS = 0
_private: Any = iroh_ffi
"""The generated module, for names that have no types."""


class _RustBuffer(Structure):
    """Memory that Rust owns. The address is an int here, so no pointer object is made per call."""

    _fields_ = (("capacity", c_uint64), ("len", c_uint64), ("data", ctypes.c_void_p))


class _CallStatus(Structure):
    """Where Rust says how a call went."""

    _fields_ = (("code", c_int8), ("error", _RustBuffer))


_Continuation = ctypes.CFUNCTYPE(None, c_uint64, c_int8)
_Function = Callable[..., Any]


class _Waiting:
    """One poll of one Rust future, until Rust calls back."""

    __slots__ = ("code", "loop", "thread", "turn")

    def __init__(self, loop: asyncio.AbstractEventLoop, thread: int) -> None:
        self.loop = loop
        self.thread = thread
        self.code: int | None = None
        self.turn: asyncio.Future[None] | None = None

    def wake(self) -> None:
        if self.turn is not None and not self.turn.done():
            self.turn.set_result(None)


_waiting: dict[int, _Waiting] = {}
_handles = itertools.count(1)


def _take_call_back(handle: int, code: int) -> None:
    """Run on whichever thread Rust likes, also from inside a call of ours."""
    waiting = _waiting.pop(handle, None)
    if waiting is None:
        return
    waiting.code = code
    if threading.get_ident() == waiting.thread:
        # From inside a poll, before anybody waits, or from inside a call such as `close`.
        waiting.wake()
        return
    try:
        waiting.loop.call_soon_threadsafe(waiting.wake)
    except RuntimeError:
        # The loop was closed while Rust was still at work: nobody waits any more.
        return


_called_back = _Continuation(_take_call_back)


class FastCalls:
    """The library's C symbols for reading and writing a stream."""

    def __init__(self) -> None:
        """Raise AttributeError, OSError or ValueError when the library is not the expected one."""
        library = ctypes.CDLL(str(_library_path()))
        _check_shape(library)
        status = POINTER(_CallStatus)
        self._reserve = _bind(
            library, "ffi_iroh_ffi_rustbuffer_reserve", _RustBuffer, _RustBuffer, c_uint64, status
        )
        self._free = _bind(library, "ffi_iroh_ffi_rustbuffer_free", None, _RustBuffer, status)
        fn = "uniffi_iroh_ffi_fn_"
        self._clone_receive = _bind(library, fn + "clone_recvstream", c_uint64, c_uint64, status)
        self._clone_send = _bind(library, fn + "clone_sendstream", c_uint64, c_uint64, status)
        self._read = _bind(library, fn + "method_recvstream_read", c_uint64, c_uint64, c_uint32)
        self._write_all = _bind(
            library, fn + "method_sendstream_write_all", c_uint64, c_uint64, _RustBuffer
        )
        self._bytes_future = _Future(library, "rust_buffer", _RustBuffer)
        self._void_future = _Future(library, "void", None)

    def reader(self, stream: iroh.RecvStream) -> Reader:
        return _FastReader(self, stream)

    async def read(self, stream: iroh.RecvStream, limit_bytes: int) -> bytes:
        """Return some bytes, b"" at the end. Cancelled, it loses nothing."""
        handle = self._cloned(self._clone_receive, stream)
        buffer = await self._bytes_future.result(self._read(handle, limit_bytes))
        try:
            return ctypes.string_at(buffer.data + _LENGTH_BYTES, buffer.len - _LENGTH_BYTES)
        finally:
            self._free(buffer, byref(_CallStatus()))

    async def write_all(self, stream: iroh.SendStream, payload: bytes) -> None:
        """Hand over all bytes. Cancelled, it may have sent some of them."""
        buffer = self._lowered(payload)
        handle = self._cloned(self._clone_send, stream)
        await self._void_future.result(self._write_all(handle, buffer))

    def _cloned(self, clone: _Function, stream: Any) -> int:
        status = _CallStatus()
        handle: int = clone(stream._handle, byref(status))
        return handle

    def _lowered(self, payload: bytes) -> _RustBuffer:
        size = len(payload)
        status = _CallStatus()
        # Reserving from nothing, unlike allocating, does not fill the memory with zeros first.
        buffer: _RustBuffer = self._reserve(_RustBuffer(), _LENGTH_BYTES + size, byref(status))
        if status.code != _SUCCESS:
            raise MemoryError("iroh could not reserve memory")
        ctypes.memmove(buffer.data, size.to_bytes(_LENGTH_BYTES, "big"), _LENGTH_BYTES)
        ctypes.memmove(buffer.data + _LENGTH_BYTES, payload, size)
        buffer.len = _LENGTH_BYTES + size
        return buffer


class _FastReader:
    """Nothing to keep between two reads: a cancelled one leaves the bytes with Rust."""

    __slots__ = ("_calls", "_stream")

    def __init__(self, calls: FastCalls, stream: iroh.RecvStream) -> None:
        self._calls = calls
        self._stream = stream

    def read(self, limit_bytes: int) -> Coroutine[Any, Any, bytes]:
        return self._calls.read(self._stream, limit_bytes)

    def drop(self) -> None:
        """Do nothing: the cancelled read has already let go of the stream."""


class _Polling:
    """Whether the loop's thread is inside Rust, where the lock of a connection may be held."""

    depth = 0


class _Future:
    """Drive Rust futures of one result type."""

    def __init__(self, library: ctypes.CDLL, kind: str, result: Any) -> None:
        prefix = "ffi_iroh_ffi_rust_future_"
        self._poll = _bind(library, f"{prefix}poll_{kind}", None, c_uint64, _Continuation, c_uint64)
        self._complete = _bind(
            library, f"{prefix}complete_{kind}", result, c_uint64, POINTER(_CallStatus)
        )
        self._free = _bind(library, f"{prefix}free_{kind}", None, c_uint64)

    async def result(self, future: int) -> Any:
        """Wait for the future and free it; raise IrohError.

        A result appears only inside a poll and is taken before anything is awaited, so a
        cancelled wait never drops one.
        """
        loop = asyncio.get_running_loop()
        thread = threading.get_ident()
        handle = 0
        try:
            while True:
                # A new one for each poll: a late wake-up must not end the next wait.
                waiting = _Waiting(loop, thread)
                handle = next(_handles)
                _waiting[handle] = waiting
                _Polling.depth += 1
                try:
                    self._poll(future, _called_back, handle)
                finally:
                    _Polling.depth -= 1
                if waiting.code is None:
                    waiting.turn = loop.create_future()
                    # Rust may have called back since the line above looked.
                    if waiting.code is None:
                        await waiting.turn
                if waiting.code == _READY:
                    return self._completed(future)
        finally:
            _waiting.pop(handle, None)
            if threading.get_ident() == thread and not _Polling.depth:
                self._free(future)
            else:
                # A forgotten wait that was found to be garbage somewhere else.
                free_later(self._free, future)

    def _completed(self, future: int) -> Any:
        status = _CallStatus()
        result = self._complete(future, byref(status))
        if status.code != _SUCCESS:
            _raise(status)
        return result


def _raise(status: _CallStatus) -> None:
    """Let the bindings read the error: only they know how."""
    theirs = _private._UniffiRustCallStatus.from_buffer_copy(status)
    as_error = _private._UniffiFfiConverterTypeIrohError__as_error
    _private._uniffi_check_call_status(as_error, theirs)


def _bind(library: ctypes.CDLL, name: str, result: Any, *arguments: Any) -> _Function:
    function = getattr(library, name)
    function.restype = result
    function.argtypes = arguments
    bound: _Function = function
    return bound


def _library_path() -> Path:
    loaded: str = _private._UniffiLib._name
    return Path(loaded)


def _check_shape(library: ctypes.CDLL) -> None:
    found = importlib.metadata.version("iroh")
    if found != IROH_VERSION:
        raise ValueError(f"iroh {found} is not {IROH_VERSION}")
    _expect(library, "ffi_iroh_ffi_uniffi_contract_version", c_uint32, _CONTRACT_VERSION)
    for method, checksum in _CHECKSUMS.items():
        _expect(library, f"uniffi_iroh_ffi_checksum_method_{method}", c_uint16, checksum)
    theirs = _private._UniffiRustCallStatus
    if ctypes.sizeof(theirs) != ctypes.sizeof(_CallStatus):
        raise ValueError("iroh's call status has another size")


def _expect(library: ctypes.CDLL, name: str, kind: Any, expected: int) -> None:
    answer = _bind(library, name, kind)()
    if answer != expected:
        raise ValueError(f"{name} is {answer}, not {expected}")
