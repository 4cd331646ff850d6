"""Read what a function returned at a provider that nobody trusts: plain values, and nothing else.

`sent.values` is the half that writes, and says which values these are.
"""

from __future__ import annotations

import math
from importlib import import_module
from io import BytesIO
from typing import Any

import msgspec

from p2prc.client.sent.values import ARRAY, ARROW, BIG_NUMBER, SCALAR, TUPLE
from p2prc.errors import UntrustedResult

_DIGITS_LIMIT = 100_000
_HEADER_LIMIT_BYTES = 10_000


def decode(content: bytes) -> Any:
    """Return the value. Raises UntrustedResult for bytes that are none."""
    try:
        return _decode(content)
    except UntrustedResult:
        raise
    except RecursionError as error:
        raise UntrustedResult("a result is nested too deep") from error
    except Exception as error:
        raise UntrustedResult(f"a result is damaged: {error}") from error


def _decode(content: bytes | memoryview) -> Any:
    return msgspec.msgpack.decode(content, ext_hook=_extension)


def _extension(code: int, content: memoryview) -> Any:
    if code == TUPLE:
        items = _decode(content)
        if not isinstance(items, list):
            raise UntrustedResult("a result is damaged: a tuple holds no list")
        return tuple(items)
    if code == BIG_NUMBER and len(content) <= _DIGITS_LIMIT:
        return int(bytes(content), 16)
    if code in (ARRAY, SCALAR):
        array = _array(bytes(content))
        return array if code == ARRAY else array[()]
    if code == ARROW:
        return _module("pyarrow").ipc.open_stream(bytes(content)).read_all()
    raise UntrustedResult(f"a result holds an unknown extension ({code})")


def _array(content: bytes) -> Any:
    """Read the format `.npy` (NumPy enhancement proposal 1) without one allocation it names."""
    numpy = _module("numpy")
    source = BytesIO(content)
    version = numpy.lib.format.read_magic(source)
    readers = {
        (1, 0): numpy.lib.format.read_array_header_1_0,
        (2, 0): numpy.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise UntrustedResult(f"an array has the unknown version {version}")
    shape, is_fortran, kind = readers[version](source, max_header_size=_HEADER_LIMIT_BYTES)
    body = memoryview(content)[source.tell() :]
    if kind.hasobject or kind.itemsize * math.prod(shape) != len(body):
        raise UntrustedResult("an array's shape does not fit its bytes")
    # A copy, so that it may be written to.
    return numpy.ndarray(shape, kind, body, order="F" if is_fortran else "C").copy(order="K")


def _module(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise UntrustedResult(
            f"a result needs {name}, which is not installed here", hint=f"install {name} here too"
        ) from error
