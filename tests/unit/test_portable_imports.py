"""The pure rooms and the command line import where POSIX-only modules do not exist."""

from __future__ import annotations

import subprocess
import sys

POSIX_ONLY = ("fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog")

PROGRAM = f"""
import importlib, pkgutil, sys
for name in {POSIX_ONLY!r}:
    sys.modules[name] = None
import p2prc
for room in ("wire", "model", "protocol", "simulation", "cli", "api"):
    package = importlib.import_module(f"p2prc.{{room}}")
    for module in pkgutil.walk_packages(package.__path__, f"p2prc.{{room}}."):
        importlib.import_module(module.name)
for name in ("errors", "settings"):
    importlib.import_module(f"p2prc.{{name}}")
print("imported", len([name for name in sys.modules if name.startswith("p2prc.")]))
"""


def test_pure_rooms_and_the_command_line_import_without_posix_only_modules() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[1]) > 50
