"""A node that refuses at once and hangs up before the whole request was said, or never answers."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from p2prc.api.address import short_address, socket_path
from p2prc.api.duplex_client import DuplexCall
from p2prc.cli.commands import exec as exec_module
from p2prc.cli.invocation import Invocation
from p2prc.cli.main import run_command_line

REFUSAL = json.dumps(
    {
        "error": {
            "code": "lease-unknown",
            "message": "no lease here is `box`",
            "hint": "see `p2prc ps`",
        }
    }
).encode()


def _refuse(listener: socket.socket) -> None:
    asking, _ = listener.accept()
    with asking:
        while b"\r\n\r\n" not in asking.recv(1 << 16):
            pass
        head = f"HTTP/1.1 404 Not Found\r\ncontent-length: {len(REFUSAL)}\r\n\r\n"
        asking.sendall(head.encode() + REFUSAL)


def test_exec_that_is_refused_at_once_says_why_and_names_the_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        with short_address(socket_path(tmp_path)) as address:
            listener.bind(address)
        listener.listen()
        refusing = threading.Thread(target=_refuse, args=(listener,))
        refusing.start()

        class LateCall(DuplexCall):
            def __init__(self, home: str, path: str) -> None:
                super().__init__(home, path)
                refusing.join(10)

        monkeypatch.setattr(exec_module, "DuplexCall", LateCall)
        arguments = ["--home", str(tmp_path), "exec", "box", "--", "true"]
        assert run_command_line(arguments, Invocation("/nowhere")) == 125
    assert capfd.readouterr().err.splitlines() == [
        "error: no lease here is `box`",
        f"hint: see `p2prc --home {tmp_path} ps`",
    ]


def test_ctrl_c_twice_ends_without_a_traceback(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        with short_address(socket_path(tmp_path)) as address:
            listener.bind(address)
        listener.listen()
        listener.settimeout(20)
        waiting = subprocess.Popen(
            [sys.executable, "-m", "p2prc", "--home", str(tmp_path), "ps"],
            stderr=subprocess.PIPE,
            text=True,
        )
        asking, _ = listener.accept()
        with asking:
            asking.recv(1)
            for _ in range(2):
                waiting.send_signal(signal.SIGINT)
            _, said = waiting.communicate(timeout=20)
    assert waiting.returncode == 130
    assert said in ("interrupted\n", "")
