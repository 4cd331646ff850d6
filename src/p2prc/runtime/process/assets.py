"""The files that every sandbox sees and no host file may stand in for: /etc and /run.

Written when a runtime starts, so that the copies (linker cache, alternatives, time zone) are of
the machine as it is.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path
from typing import NamedTuple

from p2prc.runtime.process import folders
from p2prc.runtime.resolvers import public_resolvers

_FILES = {
    "passwd": "root:x:0:0:root:/:/usr/sbin/nologin\ntenant:x:1000:1000:tenant:/work:/bin/sh\n",
    "group": "root:x:0:\ntenant:x:1000:\n",
    "hosts": "127.0.0.1 localhost sandbox\n::1 localhost\n",
    "nsswitch.conf": "passwd: files\ngroup: files\nhosts: files dns\n",
}


class Interpreter(NamedTuple):
    """The node's own Python: what agents run on, and what tenants get as `python`.

    `prefix` is the folder to show in a sandbox; it is never one that holds people's files.
    """

    executable: str
    prefix: str


def base_interpreter() -> Interpreter:
    """Return the interpreter below our virtual environment, by its real path."""
    executable: str = getattr(sys, "_base_executable", "") or sys.executable
    return Interpreter(os.path.realpath(executable), os.path.realpath(sys.base_prefix))


def write_assets(folder: Path, interpreter: Interpreter) -> None:
    """Write the folder anew, readable for everyone."""
    folders.remove(str(folder))
    etc, program_folder = folder / "etc", folder / "run" / "p2prc" / "bin"
    for made in (folder, etc, folder / "run", program_folder.parent, program_folder):
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o755)
    for name, content in _FILES.items():
        _write(etc / name, content.encode())
    # Where there is no network, nobody answers: at once, for nothing leads there.
    lines = "".join(f"nameserver {each}\n" for each in public_resolvers())
    _write(etc / "resolv.conf", lines.encode())
    for name in ("ld.so.cache", "localtime"):
        original = Path("/etc", name)
        if original.is_file():
            _write(etc / name, original.read_bytes())
    _copy_links(Path("/etc/alternatives"), etc / "alternatives")
    _write(program_folder.parent / "agent.py", Path(__file__).with_name("agent.py").read_bytes())
    for name in ("python", "python3", Path(interpreter.executable).name):
        link = program_folder / name
        if not link.is_symlink():
            link.symlink_to(interpreter.executable)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o644)


def _copy_links(source: Path, target: Path) -> None:
    target.mkdir()
    target.chmod(0o755)
    if source.is_dir():
        for link in source.iterdir():
            if link.is_symlink():
                (target / link.name).symlink_to(link.readlink())


def find_bubblewrap() -> str:
    """Return the real path of the system's `bwrap`, or nothing."""
    found = shutil.which("bwrap")
    return os.path.realpath(found) if found else ""
