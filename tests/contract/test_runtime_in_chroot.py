"""A node in a chroot, as where a system is built or tried: "/" is then no mount of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import p2prc

SYSTEM = ("/usr", "/lib", "/lib64", "/bin", "/etc", "/proc", "/dev")
SCRIPT = """
set -eu
for folder in "$@"; do
    [ -e "$folder" ] || continue
    mkdir -p "$ROOT$folder"
    mount --rbind "$(readlink -f "$folder")" "$ROOT$folder"
done
exec chroot "$ROOT" "$PYTHON" -c "$CODE"
"""
CODE = """
import os
from p2prc.runtime.process import kernel, staging
os.makedirs("/closed/open")
os.chmod("/closed", 0o700)
with open("/closed/open/file", "w") as file:
    file.write("seen")
with open("/closed/secret", "w") as file:
    file.write("not seen")
staging.make_reachable(["/closed/open"])
staging.become(61234)
print(open("/closed/open/file").read(), os.path.exists("/closed/secret"))
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may chroot")
def test_a_node_of_root_reaches_its_files_in_a_chroot(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    package = Path(p2prc.__file__).parent.parent
    folders = {*SYSTEM, sys.base_prefix, str(package)}
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "slave", "sh", "-c", SCRIPT, "sh", *folders],
        env={
            "PATH": os.environ["PATH"],
            "ROOT": str(tmp_path),
            "PYTHON": os.path.realpath(sys.executable),
            "PYTHONPATH": str(package),
            "CODE": CODE,
        },
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.split() == ["seen", "False"], done.stderr
