"""Plain values as msgpack: what a function may return without being trusted.

None, booleans, whole and floating numbers, text, bytes, lists, dicts and tuples; arrays and numbers
of NumPy as `.npy` (never with pickled objects), tables and record batches of Arrow as its stream.
This half writes; it runs at the provider and imports nothing of p2prc. `client.results` reads.
"""

from __future__ import annotations

import io
import sys
from typing import Any

from msgpack.ext import ExtType
from msgpack.fallback import Packer

TUPLE, BIG_NUMBER, ARRAY, SCALAR, ARROW = range(1, 6)
"""The codes of msgpack's extensions."""


class NotPlain(TypeError):
    """A value that cannot be told in plain values; its text is the name of its type."""


def encode(value: Any) -> bytes:
    """Return a value as msgpack. Raises NotPlain."""
    try:
        packed: bytes = _packer().pack(value)
    except RecursionError:
        raise NotPlain("something that holds itself, or is too deep") from None
    return packed


def _packer() -> Any:
    def told(value: Any) -> Any:
        if type(value) is tuple:
            return ExtType(TUPLE, encode(list(value)))
        if type(value) is int:
            return ExtType(BIG_NUMBER, b"%x" % value)
        if (array := _as_npy(value)) is not None:
            return ExtType(*array)
        if (stream := _as_arrow(value)) is not None:
            return ExtType(ARROW, stream)
        raise NotPlain(f"{type(value).__module__}.{type(value).__qualname__}")

    # Strict: a subclass is another type, and would come back as something else.
    return Packer(default=told, strict_types=True, use_bin_type=True)


def _as_npy(value: Any) -> tuple[int, bytes] | None:
    numpy = sys.modules.get("numpy")
    if numpy is None or not isinstance(value, numpy.ndarray | numpy.generic):
        return None
    if type(value) is not numpy.ndarray and not isinstance(value, numpy.generic):
        raise NotPlain(type(value).__qualname__)
    if value.dtype.hasobject:
        raise NotPlain("numpy.ndarray of Python objects")
    content = io.BytesIO()
    numpy.save(content, numpy.asarray(value), allow_pickle=False)
    return (ARRAY if type(value) is numpy.ndarray else SCALAR), content.getvalue()


def _as_arrow(value: Any) -> bytes | None:
    arrow = sys.modules.get("pyarrow")
    if arrow is None or not isinstance(value, arrow.Table | arrow.RecordBatch):
        return None
    sink = arrow.BufferOutputStream()
    with arrow.ipc.new_stream(sink, value.schema) as stream:
        stream.write(value)
    content: bytes = sink.getvalue().to_pybytes()
    return content
