"""Start the daemon and wait until it is ready; wait until it has ended.

The daemon is `python -m p2prc.daemon --home DIR --ready-fd N [--foreground]`. It reads one
`StartOptions` as JSON from its standard input to the end, then tells how its start goes by JSON
lines on descriptor N, which it closes after the last: any number of `{"waiting": "..."}`, then
`{"ok": true}` or `{"error": {"code", "message", "hint", "retryable"}}`. It writes its log to the
file `log` in its home and, with `--foreground`, to its standard error too.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import msgspec

from p2prc.api.client import ControlClient
from p2prc.api.schema import StartOptions
from p2prc.errors import HomeBusy, HomeUnusable, MachineCannot, NodeNotRunning, from_fields

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
LOG_NAME = "log"
_LOG_LINES_SHOWN = 5
_POLL_S = 0.05


def start(
    home: str, options: StartOptions, *, detached: bool, tell: Callable[[str], None]
) -> subprocess.Popen[bytes]:
    """Start the daemon; return once it is ready. Raise what it says was wrong."""
    _refuse_second(home)
    _make_home(home)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as news:
        try:
            process = _spawn(home, writing, detached=detached)
        finally:
            os.close(writing)
        try:
            _hand_over(process, options)
            _await_ready(home, news, tell)
        except BaseException:
            process.terminate()
            raise
    return process


def wait_for_end(pid: int) -> None:
    """Wait until a process that is not our child is gone; raise `MachineCannot` if it stays."""
    if not _has_ended(pid, STOP_TIMEOUT_S):
        raise MachineCannot(
            f"the node (process {pid}) has not stopped within {STOP_TIMEOUT_S:.0f} s",
            hint=f"end it at once: `kill -9 {pid}`",
        )


@contextmanager
def signals_left_to(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """Inside the block Ctrl-C is the daemon's (it is in our group), and SIGTERM is passed on."""

    def pass_on(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    before = signal.signal(signal.SIGINT, signal.SIG_IGN), signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[0])
        signal.signal(signal.SIGTERM, before[1])


def _refuse_second(home: str) -> None:
    try:
        status = ControlClient(home).status()
    except NodeNotRunning:
        return
    raise HomeBusy(
        f"a node already runs in {home}: {status.name}, process {status.pid}",
        hint="see `p2prc status`; for a second node use another home: `p2prc --home DIR up`",
    )


def _make_home(home: str) -> None:
    try:
        Path(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(f"cannot make the folder {home}: {error.strerror}") from error


def _spawn(home: str, ready: int, *, detached: bool) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "p2prc.daemon", "--home", home, "--ready-fd", str(ready)]
    if not detached:
        return subprocess.Popen([*argv, "--foreground"], stdin=subprocess.PIPE, pass_fds=(ready,))
    try:
        log = (Path(home) / LOG_NAME).open("ab")
    except OSError as error:
        raise HomeUnusable(f"cannot write in {home}: {error.strerror}") from error
    with log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            pass_fds=(ready,),
            start_new_session=True,
            cwd="/",
        )


def _hand_over(process: subprocess.Popen[bytes], options: StartOptions) -> None:
    if process.stdin is None:
        return
    try:
        with process.stdin as pipe:
            pipe.write(msgspec.json.encode(options))
    except BrokenPipeError:
        # It ended already; what it said, or its silence, tells more.
        return


def _await_ready(home: str, news: IO[bytes], tell: Callable[[str], None]) -> None:
    for line in _lines(home, news):
        said = msgspec.json.decode(line)
        if "waiting" in said:
            tell(said["waiting"])
        elif "error" in said:
            fields = said["error"]
            raise from_fields(fields["code"], fields["message"], hint=fields.get("hint", ""))
        else:
            return
    raise MachineCannot(
        f"the node stopped while it started{_end_of_log(home)}",
        hint=f"read its log: {Path(home) / LOG_NAME}",
    )


def _lines(home: str, news: IO[bytes]) -> Iterator[bytes]:
    ends_at = time.monotonic() + START_TIMEOUT_S
    pending = b""
    while True:
        ready, _, _ = select.select([news], [], [], max(0.0, ends_at - time.monotonic()))
        if not ready:
            raise MachineCannot(
                f"the node was not ready within {START_TIMEOUT_S:.0f} s{_end_of_log(home)}",
                hint=f"read its log: {Path(home) / LOG_NAME}",
            )
        piece = os.read(news.fileno(), 65536)
        if not piece:
            return
        *lines, pending = (pending + piece).split(b"\n")
        yield from lines


def _end_of_log(home: str) -> str:
    try:
        lines = (Path(home) / LOG_NAME).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    shown = lines[-_LOG_LINES_SHOWN:]
    return ": " + " | ".join(shown) if shown else ""


def _has_ended(pid: int, timeout_s: float) -> bool:
    """Prefer a process descriptor: it tells at once, also of a process nobody reaped."""
    if hasattr(os, "pidfd_open"):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        except OSError:
            return _polled_end(pid, timeout_s)
        try:
            return bool(select.select([descriptor], [], [], timeout_s)[0])
        finally:
            os.close(descriptor)
    return _polled_end(pid, timeout_s)


def _polled_end(pid: int, timeout_s: float) -> bool:
    ends_at = time.monotonic() + timeout_s
    while time.monotonic() < ends_at:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(_POLL_S)
    return False
