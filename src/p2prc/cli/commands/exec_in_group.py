"""`exec` in all containers of a group at once: each line says where it was printed."""

from __future__ import annotations

import json
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field

from p2prc.api.connection import JsonObject, quoted
from p2prc.api.container_schema import GroupRow
from p2prc.api.duplex_client import DuplexCall
from p2prc.cli.command_answer import read_answer
from p2prc.cli.failures import COULD_NOT_RUN_STATUS, tell
from p2prc.cli.invocation import Invocation
from p2prc.cli.render.text import plain
from p2prc.errors import InvalidInput, P2prcError, from_fields

_AT_ONCE = 32
_LINE_LIMIT_BYTES = 64 * 1024
_turns = threading.Lock()


def run_in_all(invocation: Invocation, group: GroupRow, request: JsonObject) -> int:
    """Run it everywhere; return the first status that is not 0, in the group's order."""
    if not group.containers:
        raise InvalidInput("the group is empty", hint=f"`p2prc group add {group.name} LEASE`")
    names = [
        plain(name) or lease[:10] for lease, name in zip(group.containers, group.names, strict=True)
    ]
    width = max(map(len, names))
    pool = ThreadPoolExecutor(_AT_ONCE)
    try:
        running = [
            pool.submit(_run_in_one, invocation, lease, f"{name:<{width}}", request)
            for lease, name in zip(group.containers, names, strict=True)
        ]
        statuses = [each.result() for each in running]
    finally:
        # Ctrl-C does not wait: with this process its calls end, and so the commands.
        pool.shutdown(wait=False, cancel_futures=True)
    return next((status for status in statuses if status), 0)


def _run_in_one(invocation: Invocation, lease: str, name: str, request: JsonObject) -> int:
    lines = _Lines(f"{name} | ")
    try:
        call = DuplexCall(invocation.home, f"/v1/containers/{quoted(lease)}/exec")
        try:
            with suppress(ConnectionError):
                # Refused before it was said: the answer tells why.
                call.send(json.dumps(request).encode() + b"\n")
            ended = read_answer(call, lines.add)
        finally:
            call.close()
            lines.end()
        if ended["exit"] is not None:
            return int(ended["exit"])
        raise from_fields(ended["code"] or "work-failed", ended["message"], hint=ended["hint"])
    except P2prcError as error:
        named = from_fields(error.code, f"{name.rstrip()}: {error.message}", hint=error.hint)
        with _turns:
            tell(named, as_json=invocation.as_json, home=invocation.typed_home)
        return COULD_NOT_RUN_STATUS


@dataclass(slots=True)
class _Lines:
    """What one prints, line by line, so that lines of several do not mix."""

    mark: str
    held: dict[int, bytes] = field(default_factory=lambda: {1: b"", 2: b""})

    def add(self, channel: int, content: bytes) -> None:
        *lines, rest = (self.held[channel] + content).split(b"\n")
        if len(rest) > _LINE_LIMIT_BYTES:
            lines, rest = [*lines, rest], b""
        self.held[channel] = rest
        self._show(channel, lines)

    def end(self) -> None:
        for channel, rest in self.held.items():
            self._show(channel, [rest] if rest else [])

    def _show(self, channel: int, lines: list[bytes]) -> None:
        stream = (sys.stdout if channel == 1 else sys.stderr).buffer
        with _turns:
            for line in lines:
                stream.write(self.mark.encode() + line + b"\n")
            stream.flush()
