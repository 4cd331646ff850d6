"""What became of a call at a provider, told to the future that waits for it."""

from __future__ import annotations

import builtins
import pickle
from concurrent.futures import Future
from contextlib import suppress
from typing import Any

from p2prc.client.channel import Answer
from p2prc.client.printed import printable
from p2prc.client.results import decode
from p2prc.errors import FunctionFailed, UntrustedResult


class RemoteTraceback(Exception):
    """Where a function failed at its provider: the cause of what is raised here."""

    def __str__(self) -> str:
        return f"\n{self.args[0]}"


def settle(future: Future[Any], answer: Answer, *, is_trusting: bool) -> None:
    """Give a future its result or its exception, whatever the answer is."""
    try:
        result = _result(answer, is_trusting=is_trusting)
    except BaseException as error:  # noqa: BLE001
        # Unpickling what is trusted may raise anything; nobody may wait for ever.
        future.set_exception(error)
    else:
        future.set_result(result)


def _result(answer: Answer, *, is_trusting: bool) -> Any:
    match answer.kind, answer.rest:
        case "value", [bytes(content)]:
            return decode(content)
        case "pickle", [bytes(content)] if is_trusting:
            return pickle.loads(content)  # noqa: S301 - the caller trusts its providers, and said so
        case "not-plain", [str(kind)]:
            raise UntrustedResult(f"the result is a {printable(kind)[:200]}")
        case "raised", [str(kind), arguments, str(text), str(told)]:
            raise _raised(kind, arguments, text) from RemoteTraceback(printable(told))
        case _:
            raise UntrustedResult("the answer is not one that a worker of ours gives")


def _raised(kind: str, arguments: object, text: str) -> Exception:
    """Return a built-in exception as itself, every other one as a description."""
    known = getattr(builtins, kind, None)
    if isinstance(known, type) and issubclass(known, Exception) and isinstance(arguments, bytes):
        # Not with these arguments: then it is described.
        with suppress(Exception):
            return known(*decode(arguments))
    described = f"{printable(kind)[:200]}: {printable(text)}".removesuffix(": ")
    return FunctionFailed(described)
