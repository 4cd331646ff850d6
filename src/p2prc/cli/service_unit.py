"""A systemd unit of the user's own, so that the node starts with the machine: `up --install`."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from p2prc.cli.invocation import DEFAULT_HOME, absolute
from p2prc.errors import HomeUnusable, MachineCannot, RuntimeMissing

_SYSTEMCTL_TIMEOUT_S = 120.0


def unit_name(home: str) -> str:
    """Return the unit of a home: `p2prc`, or for a home elsewhere one with its mark."""
    if home == absolute(DEFAULT_HOME):
        return "p2prc.service"
    return f"p2prc-{hashlib.sha256(home.encode()).hexdigest()[:8]}.service"


def unit_text(argv: Sequence[str], home: str) -> str:
    """Return the unit that runs `argv` as the node of a home."""
    return "\n".join(
        [
            "[Unit]",
            "Description=p2prc node",
            "StartLimitIntervalSec=0",
            "",
            "[Service]",
            "Type=exec",
            f"ExecStart={' '.join(map(_quoted, argv))}",
            f"Environment={_quoted(f'P2PRC_HOME={home}')}",
            # A node tells the others that it goes, and ends what runs in it: by its own order.
            "KillSignal=SIGTERM",
            "KillMode=mixed",
            "TimeoutStopSec=60",
            # What it was told wrongly does not get better by trying again.
            "Restart=on-failure",
            "RestartSec=5",
            "RestartPreventExitStatus=2 3",
            # Leases have control groups of their own where the node may make them.
            "Delegate=yes",
            "",
            "[Install]",
            "WantedBy=default.target",
            "",
        ]
    )


def program() -> list[str]:
    """Return what starts this very p2prc again."""
    return [sys.executable, "-P", "-m", "p2prc"]


def install(home: str, options: Sequence[str], environment: Mapping[str, str]) -> Path:
    """Write the unit, enable and start it; return its file. Again with the same, nothing changes.

    Raises RuntimeMissing, MachineCannot with what systemd said; the file then stays.
    """
    systemctl = shutil.which("systemctl")
    if systemctl is None:
        raise RuntimeMissing(
            "there is no systemd here", hint="start it by hand: `p2prc up --detach`"
        )
    config = environment.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
    path = Path(config) / "systemd" / "user" / unit_name(home)
    text = unit_text([*program(), "--home", home, "up", *options], home)
    is_new = _write(path, text)
    _systemctl(systemctl, "daemon-reload", path)
    _systemctl(systemctl, "enable", path)
    # One that runs with the same unit is left alone.
    _systemctl(systemctl, "restart" if is_new else "start", path)
    if loginctl := shutil.which("loginctl"):
        # Without it the node would end when its user logs out. Some machines forbid it.
        subprocess.run([loginctl, "enable-linger"], capture_output=True, timeout=30, check=False)
    return path


def _write(path: Path, text: str) -> bool:
    """Write what is not so already; say whether it was not."""
    try:
        if path.exists() and path.read_text() == text:
            return False
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise HomeUnusable(f"cannot write `{path}`: {error.strerror}") from error
    return True


def _systemctl(program: str, word: str, unit: Path) -> None:
    words = [program, "--user", word, *([unit.name] if word != "daemon-reload" else [])]
    try:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_SYSTEMCTL_TIMEOUT_S, check=False,
            env={"XDG_RUNTIME_DIR": f"/run/user/{os.getuid()}", **os.environ},
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise MachineCannot(f"systemd did not answer: `{' '.join(words[1:])}`") from error
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).splitlines()
        raise MachineCannot(
            f"systemd refused `systemctl {' '.join(words[1:])}`: {(said or ['?'])[0][:200]}",
            hint=f"the unit is written, in {unit}; start the node by hand: `p2prc up --detach`",
        )


def _quoted(word: str) -> str:
    """Return a word as systemd reads it."""
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if any(letter in text for letter in " \"'\\;") else text
