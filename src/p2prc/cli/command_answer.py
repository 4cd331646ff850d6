"""What a node answers to an exec: what the command prints, and how it ended."""

from __future__ import annotations

import json
from binascii import a2b_base64
from collections.abc import Callable

from p2prc.api.connection import JsonObject
from p2prc.api.duplex_client import DuplexCall
from p2prc.cli.failures import slow_note
from p2prc.errors import NodeNotRunning, from_fields


def read_answer(call: DuplexCall, show: Callable[[int, bytes], None]) -> JsonObject:
    """Hand on what the command prints, with its channel; return the last event.

    Raises what the node refuses with.
    """
    held = b""
    for piece in call.answer(slow_note("waiting for the container's node...")):
        *lines, held = (held + piece).split(b"\n")
        for line in filter(None, lines):
            event: JsonObject = json.loads(line)
            match event["type"]:
                case "output":
                    show(event["channel"], a2b_base64(event["content"]))
                case "error":
                    fields = event["error"]
                    raise from_fields(fields["code"], fields["message"], hint=fields["hint"])
                case "ended":
                    return event
    raise NodeNotRunning("the node stopped before the command ended")
