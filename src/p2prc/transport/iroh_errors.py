"""iroh's errors in our words, translated once, at the door; the original stays the cause."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from iroh import IrohError, IrohErrorKind

from p2prc.errors import (
    MachineCannot,
    P2prcError,
    PeerError,
    PeerLost,
    PeerUnreachable,
    PortTaken,
    SettingInvalid,
)
from p2prc.model.identity import NodeId, short

_SOURCE_LINE = re.compile(r"\s*\(/\S+\.rs:\d+:\d+\)")
_LIVE = {
    IrohErrorKind.CONNECTION: PeerLost,
    IrohErrorKind.STREAM: PeerLost,
    IrohErrorKind.CLOSED: PeerLost,
    IrohErrorKind.TIMEOUT: PeerLost,
}
_SENTENCES = (
    (re.compile(r"Reset\(\d+\)"), "it aborted the stream"),
    (re.compile(r"Stopped\(\d+\)"), "it reads this stream no more"),
    (re.compile(r"ConnectionLost\(LocallyClosed\)|LocallyClosed"), "this side closed"),
    (re.compile(r"ConnectionLost\(TimedOut\)|TimedOut"), "it did not answer"),
    (re.compile(r".*ApplicationClosed.*reason: b\"(.*)\".*"), r"it closed: \1"),
)


def text_of(error: IrohError) -> str:
    """Return the last cause in one line, without paths of the library's source.

    str(IrohError) is empty in iroh 1.2: the text is in message().
    """
    lines = _SOURCE_LINE.sub("", error.message()).strip().splitlines()
    text = lines[-1].strip() if lines else str(error.kind())
    for pattern, sentence in _SENTENCES:
        if pattern.fullmatch(text):
            return pattern.sub(sentence, text).removesuffix(": ")
    return text


def lost(peer: NodeId, error: IrohError) -> PeerError:
    """Say what ended a connection or a stream that was alive."""
    return _LIVE.get(error.kind(), PeerError)(f"lost {short(peer)}: {text_of(error)}")


@contextmanager
def errors_of(peer: NodeId) -> Iterator[None]:
    """Translate what goes wrong on a live connection."""
    try:
        yield
    except IrohError as error:
        raise lost(peer, error) from error


@contextmanager
def errors_of_dialling(peer: NodeId) -> Iterator[None]:
    """Translate what goes wrong while dialling: whatever it is, nobody was reached."""
    try:
        yield
    except IrohError as error:
        raise PeerUnreachable(f"cannot reach {short(peer)}: {text_of(error)}") from error


@contextmanager
def errors_of_binding(bind_address: str) -> Iterator[None]:
    """Translate what goes wrong while opening our own socket."""
    try:
        yield
    except IrohError as error:
        raise _binding_error(bind_address, error) from error


def _binding_error(bind_address: str, error: IrohError) -> P2prcError:
    text = text_of(error)
    if "in use" in text:
        return PortTaken(f"`{bind_address}` is in use")
    if error.kind() is IrohErrorKind.BIND:
        return MachineCannot(f"cannot listen on `{bind_address}`: {text}")
    return SettingInvalid(f"cannot listen on `{bind_address}`: {text}")
