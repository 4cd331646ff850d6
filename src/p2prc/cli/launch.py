"""Start the daemon and wait until it is ready; wait until it has ended.

The daemon is `python -m p2prc.daemon --home DIR --ready-fd N [--set KEY=VALUE ...]
[--open] [--foreground]`.
It tells how its start goes by JSON lines on descriptor N, which it closes after the last: any
number of `{"waiting": "..."}`, then `{"ok": true}` or `{"error": {"code", "message", "hint",
"retryable"}}`. It writes its log to the file `log` in its home and, with `--foreground`, to its
standard error too. No secret is given to it as an argument: every user may read those.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

from p2prc.api.client import ControlClient
from p2prc.errors import HomeBusy, HomeUnusable, MachineCannot, NodeNotRunning, from_fields

START_TIMEOUT_S = 90.0
STOP_TIMEOUT_S = 30.0
LOG_NAME = "log"
DAEMON = ["-P", "-m", "p2prc.daemon"]
"""-P: a file `random.py` in the folder where somebody typed `up` is not ours to import."""
_LOG_LINES_SHOWN = 5
_POLL_S = 0.05


def start(
    home: str,
    settings: Mapping[str, str],
    *,
    detached: bool,
    tell: Callable[[str], None],
    extra: Sequence[str] = (),
) -> subprocess.Popen[bytes]:
    """Start the daemon; return once it is ready. Raise what it says was wrong."""
    _refuse_second(home, tell)
    _make_home(home)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as news:
        try:
            process = _spawn(home, settings, writing, detached=detached, extra=extra)
        finally:
            os.close(writing)
        with ended_on_error(process):
            _await_ready(home, news, tell)
    return process


def wait_for_answer(home: str, tell: Callable[[str], None]) -> None:
    """Wait until a node that somebody else starts answers. Raises MachineCannot."""
    ends_at = time.monotonic() + START_TIMEOUT_S
    while True:
        try:
            ControlClient(home, tell).status()
        except NodeNotRunning as error:
            if time.monotonic() > ends_at:
                raise MachineCannot(
                    f"the node was not ready within {START_TIMEOUT_S:.0f} s{_end_of_log(home)}",
                    hint=f"read its log: {Path(home) / LOG_NAME}",
                ) from error
            time.sleep(_POLL_S)
        else:
            return


def check(home: str) -> object:
    """Return what can be found out about the machine without a node, as `doctor` shows it."""
    argv = [sys.executable, *DAEMON, "--home", home, "--check"]
    try:
        found = subprocess.run(argv, capture_output=True, timeout=START_TIMEOUT_S, check=True)
        checks: list[dict[str, object]] = json.loads(found.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise MachineCannot("the machine could not be looked at") from error
    return [
        {("ok" if key == "is_ok" else key): value for key, value in one.items()} for one in checks
    ]


@contextmanager
def ended_on_error(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a daemon whose start failed: an `up` that fails leaves nothing behind."""
    try:
        yield
    except BaseException:
        process.terminate()
        try:
            process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
        raise


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


def _refuse_second(home: str, tell: Callable[[str], None]) -> None:
    try:
        status = ControlClient(home, tell).status()
    except NodeNotRunning:
        return
    raise HomeBusy(
        f"a node already runs in {home}: {status.name}, process {status.pid}",
        hint="see `p2prc status`; to start it with other options, `p2prc down` first; "
        "for a second node use another home: `p2prc --home DIR up`",
    )


def _make_home(home: str) -> None:
    try:
        Path(home).mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(f"cannot make the folder {home}: {error.strerror}") from error


def _spawn(
    home: str,
    settings: Mapping[str, str],
    ready: int,
    *,
    detached: bool,
    extra: Sequence[str],
) -> subprocess.Popen[bytes]:
    argv = [sys.executable, *DAEMON, "--home", home, "--ready-fd", str(ready), *extra]
    for key, value in settings.items():
        argv += ["--set", f"{key}={value}"]
    if not detached:
        return subprocess.Popen(
            [*argv, "--foreground"], stdin=subprocess.DEVNULL, pass_fds=(ready,)
        )
    try:
        log = (Path(home) / LOG_NAME).open("ab")
    except OSError as error:
        raise HomeUnusable(f"cannot write in {home}: {error.strerror}") from error
    with log:
        return subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            pass_fds=(ready,),
            start_new_session=True,
            cwd="/",
        )


def _await_ready(home: str, news: IO[bytes], tell: Callable[[str], None]) -> None:
    for line in _lines(home, news):
        said = json.loads(line)
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
