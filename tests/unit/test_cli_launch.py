"""`up` and `down` against a daemon that only keeps the contract of its start and end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from p2prc.cli import launch
from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line
from p2prc.errors import HomeBusy, HomeUnusable, MachineCannot, PortTaken
from tests.unit.api_fake import FakeNode, served

Daemon = Callable[[str], None]

PREAMBLE = """
import json, os, signal, sys
descriptor = int(sys.argv[sys.argv.index("--ready-fd") + 1])
home = sys.argv[sys.argv.index("--home") + 1]
def say(**fields):
    os.write(descriptor, json.dumps(fields).encode() + b"\\n")
open(home + "/given", "w").write(json.dumps([sys.argv[1:], os.getpid(), os.getsid(0)]))
"""
LIVE = "signal.sigwait([signal.SIGTERM])\n"
READY = 'print("a line of the log", flush=True)\nsay(ok=True)\nos.close(descriptor)\n'


@pytest.fixture
def daemon_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Daemon:
    def does(body: str) -> None:
        script = tmp_path / "daemon.py"
        script.write_text(PREAMBLE + body)
        monkeypatch.setattr(launch, "DAEMON", [str(script)])

    return does


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


def start(home: Path, *, detached: bool = True) -> tuple[subprocess.Popen[bytes], list[str]]:
    told: list[str] = []
    settings = {"name": "n", "lend.cpus": "2.0"}
    return launch.start(str(home), settings, detached=detached, tell=told.append), told


def ended(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    assert process.wait(20) is not None


def test_a_detached_daemon_gets_its_settings_and_a_session_of_its_own(
    daemon_that: Daemon, home: Path
) -> None:
    daemon_that(READY + LIVE)
    process, _ = start(home)
    try:
        arguments, pid, group = json.loads((home / "given").read_text())
        assert (pid, group) == (process.pid, process.pid)
        assert arguments[:3] == ["--home", str(home), "--ready-fd"]
        assert arguments[4:] == ["--set", "name=n", "--set", "lend.cpus=2.0"]
        assert home.stat().st_mode & 0o777 == 0o700
    finally:
        ended(process)
    assert (home / "log").read_text() == "a line of the log\n"


def test_a_foreground_daemon_stays_in_our_session(daemon_that: Daemon, home: Path) -> None:
    daemon_that(READY + LIVE)
    process, _ = start(home, detached=False)
    try:
        arguments, _, group = json.loads((home / "given").read_text())
        assert group == os.getsid(0)
        assert arguments[-1] == "--foreground"
    finally:
        ended(process)


def test_what_the_start_waits_for_is_told(daemon_that: Daemon, home: Path) -> None:
    daemon_that('say(waiting="looking for a relay")\n' + READY + LIVE)
    process, told = start(home)
    ended(process)
    assert told == ["looking for a relay"]


def test_the_daemons_error_is_raised_as_its_class_and_nothing_stays(
    daemon_that: Daemon, home: Path
) -> None:
    daemon_that(
        'say(error={"code": "port-taken", "message": "8088 is in use", "hint": "h"})\n' + LIVE
    )
    with pytest.raises(PortTaken, match="8088 is in use"):
        start(home)
    _, pid, _ = json.loads((home / "given").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_daemon_that_dies_silently_is_an_error_with_the_end_of_its_log(
    daemon_that: Daemon, home: Path
) -> None:
    daemon_that('raise SystemExit("no more luck")\n')
    with pytest.raises(MachineCannot, match="no more luck") as caught:
        start(home)
    assert str(home / "log") in caught.value.hint


def test_a_daemon_that_never_gets_ready_is_ended(
    daemon_that: Daemon, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launch, "START_TIMEOUT_S", 0.0)
    daemon_that(LIVE)
    with pytest.raises(MachineCannot, match="was not ready within"):
        start(home)


def test_a_second_node_in_one_home_is_refused(home: Path) -> None:
    home.mkdir()
    with served(FakeNode(), home), pytest.raises(HomeBusy, match="alpha, process 4711"):
        start(home)


def test_a_home_that_cannot_be_made_is_unusable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HomeUnusable):
        start(tmp_path / "file" / "home")


def test_waiting_for_the_end_sees_a_process_that_nobody_reaped() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        launch.wait_for_end(gone.pid)
        assert gone.returncode is None
    launch.wait_for_end(gone.pid)


def test_a_process_that_stays_is_named_with_the_way_to_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(launch, "STOP_TIMEOUT_S", 0.0)
    with pytest.raises(MachineCannot) as caught:
        launch.wait_for_end(os.getpid())
    assert f"kill -9 {os.getpid()}" in caught.value.hint


def test_without_process_descriptors_the_end_is_seen_too() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    assert launch._polled_end(gone.pid, 20)
    assert not launch._polled_end(os.getpid(), 0)


def test_up_and_down_through_the_command_line(
    daemon_that: Daemon, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The daemon's script serves nothing, so `up` fails after its start and ends it again."""
    daemon_that(READY + LIVE)
    home = tmp_path / "home"
    assert run_command_line(["up", "--detach", "--json"], Invocation(str(home))) == 9
    printed = capfd.readouterr()
    assert printed.out == ""
    assert json.loads(printed.err.splitlines()[-1])["error"]["code"] == "node-not-running"
    _, pid, _ = json.loads((home / "given").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, signal.SIG_DFL)
    assert run_command_line(["down"], Invocation(str(home))) == 9
