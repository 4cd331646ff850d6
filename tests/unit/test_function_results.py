"""What functions return from providers: plain values come back as they were, nothing else runs."""

from __future__ import annotations

import pickle
import struct
from concurrent.futures import Future
from importlib import import_module
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.client.channel import Answer
from p2prc.client.outcomes import RemoteTraceback, settle
from p2prc.client.results import decode
from p2prc.client.sent.values import ARRAY, TUPLE, NotPlain, encode
from p2prc.errors import FunctionFailed, UntrustedResult

numpy: Any = import_module("numpy")

_scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(exclude_categories=["Cs"]))
    | st.binary()
)
_keys = st.text(st.characters(exclude_categories=["Cs"])) | st.integers(0, 9)
_plain = st.recursive(
    _scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(_keys, inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_plain)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    back = decode(encode(value))
    assert back == value
    assert repr(back) == repr(value)  # 1, 1.0 and True are equal


@pytest.mark.parametrize("kind", ["int8", "float32", "complex128", "U7", "M8[s]", "?"])
def test_arrays_come_back_as_they_were(kind: str) -> None:
    for shape in ((), (0,), (3,), (2, 3), (4, 1, 2)):
        for order in ("C", "F"):
            array = numpy.ones(shape, kind if kind[0] not in "UM" else "int64").astype(kind)
            array = numpy.asarray(array, order=order)
            back = decode(encode(array))
            assert back.dtype == array.dtype
            assert back.shape == array.shape
            assert (back == array).all()
            assert back.flags.writeable
    scalar = decode(encode((numpy.float32(1.5), [numpy.int64(3)])))
    assert scalar == (1.5, [3])
    assert type(scalar[0]) is numpy.float32


@pytest.mark.parametrize(
    "value",
    [object(), {1, 2}, 1j, [len], {"a": lambda: 1}, type("Sub", (int,), {})(3)],
    ids=lambda value: type(value).__name__,
)
def test_anything_else_is_not_plain(value: object) -> None:
    with pytest.raises(NotPlain):
        encode(value)
    with pytest.raises(NotPlain):
        encode(numpy.array([value], dtype=object))


def test_a_value_that_holds_itself_is_not_plain() -> None:
    value: list[object] = []
    value.append(value)
    with pytest.raises(NotPlain):
        encode(value)


def _extension(code: int, content: bytes) -> bytes:
    return msgspec.msgpack.encode(msgspec.msgpack.Ext(code, content))


def _npy(header: str, body: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        _extension(99, b""),
        _extension(TUPLE, b"\x01"),
        _extension(2, b"zz"),
        _extension(2, b"-" * 200_000),
        _extension(ARRAY, b"nothing"),
        _extension(ARRAY, _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1<<40,)}\n")),
        _extension(
            ARRAY, _npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,)}\n")
        ),
        _extension(
            ARRAY, _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", b"x" * 8)
        ),
        _extension(ARRAY, pickle.dumps([1])),
        b"\x91" * 100_000 + b"\x01",
    ],
)
def test_hostile_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(UntrustedResult):
        decode(content)


def _settled(kind: str, *rest: Any, is_trusting: bool = False) -> Future[Any]:
    future: Future[Any] = Future()
    settle(future, Answer(1, kind, 0.1, list(rest)), is_trusting=is_trusting)
    return future


class _Bomb:
    def __reduce__(self) -> tuple[Any, ...]:
        return pytest.fail, ("it was unpickled",)


def test_nothing_is_unpickled_unless_it_was_said() -> None:
    refused = _settled("pickle", pickle.dumps(_Bomb())).exception()
    assert isinstance(refused, UntrustedResult)
    assert _settled("pickle", pickle.dumps({1, 2}), is_trusting=True).result() == {1, 2}
    broken = _settled("pickle", b"not a pickle", is_trusting=True).exception()
    assert isinstance(broken, Exception)


def test_a_result_that_is_not_plain_names_its_type() -> None:
    error = _settled("not-plain", "builtins.set\x1b[31m").exception()
    assert isinstance(error, UntrustedResult)
    assert error.message == "the result is a builtins.set\N{REPLACEMENT CHARACTER}[31m"


def test_built_in_exceptions_are_raised_as_themselves() -> None:
    error = _settled("raised", "KeyError", encode(["a"]), "'a'", "Traceback …\x07").exception()
    assert type(error) is KeyError
    assert error.args == ("a",)
    assert isinstance(error.__cause__, RemoteTraceback)
    assert "\x07" not in str(error.__cause__)


@pytest.mark.parametrize("kind", ["Mine", "SystemExit", "KeyboardInterrupt", "print", "__import__"])
def test_other_exceptions_are_described(kind: str) -> None:
    error = _settled("raised", kind, encode(["a"]), "a text", "").exception()
    assert isinstance(error, FunctionFailed)
    assert error.message == f"{kind}: a text"


@pytest.mark.parametrize("rest", [(), (1,), (b"", b""), ("text",)])
def test_a_strange_answer_is_refused(rest: tuple[Any, ...]) -> None:
    for kind in ("value", "pickle", "raised", "strange"):
        assert isinstance(_settled(kind, *rest).exception(), UntrustedResult)
