"""All tests of runtimes once more as an ordinary user, where they were started as root."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

USER = 61_234
PROGRAM = """
import os, sys
from p2prc.runtime.process import staging
home, *paths = sys.argv[2:sys.argv.index('--')]
os.chown(home, {user}, {user})
staging.make_reachable([home, *paths])
os.setgroups([])
os.setresgid({user}, {user}, {user})
os.setresuid({user}, {user}, {user})
os.chdir(sys.argv[1])
os.environ.update(HOME=home, TMPDIR=home, PYTHONDONTWRITEBYTECODE='1')
os.environ['HYPOTHESIS_STORAGE_DIRECTORY'] = home + '/hypothesis'
words = sys.argv[sys.argv.index('--') + 1:]
os.execv(words[0], words)
"""


@pytest.mark.timeout(620)
def test_everything_holds_for_an_ordinary_user_too(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("these tests run as an ordinary user already")
    root = Path(__file__).parents[3]
    needed = [root, os.path.realpath(sys.base_prefix), os.path.realpath(sys.prefix)]
    tests = [str(path) for path in Path(__file__).parents[1].glob("test_runtime*.py")]
    tests += [str(path) for path in (root / "tests" / "unit").glob("test_environment*.py")]
    words = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-rfE",
        "-k",
        "not fake and not docker and not (unshared and sessions)",
    ]
    words += ["--basetemp", str(tmp_path / "inner"), "-o", "asyncio_mode=auto"]
    words += ["-o", "asyncio_default_fixture_loop_scope=function", *tests]
    program = PROGRAM.format(user=USER)
    argv = [sys.executable, "-c", program, root, tmp_path, *needed, "--", *words]
    tmp_path.chmod(0o755)
    result = subprocess.run(
        [str(word) for word in argv], check=False, capture_output=True, text=True, timeout=600
    )
    if "PermissionError" in result.stderr and "unshare" in result.stderr:
        pytest.skip("this root may not make mount namespaces")
    assert result.returncode == 0, result.stdout + result.stderr
    assert " passed" in result.stdout
