"""One command in a container, for programs: its input and output as bytes; `exec` of the API."""

from __future__ import annotations

import json
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

from p2prc.api.connection import JsonObject, quoted
from p2prc.api.duplex_client import DuplexCall
from p2prc.errors import NodeNotRunning, from_fields

PIECE_BYTES = 256 * 1024
"""As much goes into one line of the request."""


class Output(NamedTuple):
    """Something the command printed: `channel` 1 is its output, 2 its errors."""

    channel: int
    content: bytes


class ExecCall:
    """A command that runs in a container until it ends or `close` hangs up."""

    def __init__(
        self,
        home: str,
        lease: str,
        argv: Sequence[str],
        *,
        variables: Mapping[str, str] | None = None,
        takes_input: bool = False,
    ) -> None:
        self.exit: int | None = None
        """The command's status once `outputs` has ended."""
        self._call = DuplexCall(home, f"/v1/containers/{quoted(lease)}/exec")
        start: JsonObject = {
            "type": "exec",
            "argv": list(argv),
            "variables": dict(variables or {}),
            "input": takes_input,
            "terminal": None,
        }
        with suppress(ConnectionError):
            # Refused before it was said: `outputs` tells why.
            self._say(start)

    def send(self, content: bytes) -> None:
        """Give it input; waits until there is room. Safe from several threads.

        Raises OSError when it is over.
        """
        view = memoryview(content)
        for begin in range(0, len(view), PIECE_BYTES):
            piece = b2a_base64(view[begin : begin + PIECE_BYTES], newline=False).decode("ascii")
            self._say({"type": "input", "content": piece})

    def end_input(self) -> None:
        """Say that no more input comes. Raises OSError when it is over."""
        self._say({"type": "end-input"})

    def outputs(self) -> Iterator[Output]:
        """Yield what it prints, to its end. Raises what kept it from running, or ended it."""
        held = b""
        for piece in self._call.answer():
            *lines, held = (held + piece).split(b"\n")
            for line in filter(None, lines):
                event: JsonObject = json.loads(line)
                if event["type"] == "output":
                    yield Output(event["channel"], a2b_base64(event["content"]))
                elif event["type"] == "error":
                    fields = event["error"]
                    raise from_fields(fields["code"], fields["message"], hint=fields["hint"])
                elif event["type"] == "ended":
                    self._note_end(event)
                    return
        raise NodeNotRunning("the node stopped before the command ended")

    def close(self) -> None:
        """Hang up: the command ends if it still runs."""
        self._call.close()

    def _note_end(self, event: JsonObject) -> None:
        self.exit = event["exit"]
        if self.exit is None:
            raise from_fields(event["code"] or "work-failed", event["message"], hint=event["hint"])

    def _say(self, line: JsonObject) -> None:
        self._call.send(json.dumps(line).encode() + b"\n")
