"""Every test, in lanes that run at once: most tests wait for other processes most of the time.

The first lane prints as it goes, the others each as one piece when all are done. All must pass.
"""

import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

LANES = (
    ("tests/system/test_[a-e]*.py",),
    ("tests/system/test_[f-z]*.py",),
    ("tests/nat", "tests/fuzz", "tests/property", "tests/simulation"),
    ("tests/contract/test_*.py",),
    ("tests/unit", "tests/contract/as_user"),
)
"""Folders, and patterns of files."""


def files_of(root: Path, lane: tuple[str, ...]) -> list[str]:
    """Return the folders and files of a lane, as pytest takes them."""
    return [str(found.relative_to(root)) for each in lane for found in sorted(root.glob(each))]


def main() -> int:
    """Run all lanes; return the worst exit status."""
    # Started in the background of a shell, we would hand on that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(__file__).parents[1]
    began = time.monotonic()
    pytest = [sys.executable, "-m", "pytest"]
    first, *others = LANES
    with ExitStack() as stack:
        running = []
        for lane in others:
            said = stack.enter_context(tempfile.TemporaryFile())
            process = subprocess.Popen(
                [*pytest, "-p", "no:cacheprovider", *files_of(root, lane)],
                cwd=root,
                stdout=said,
                stderr=subprocess.STDOUT,
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            running.append((lane, process, said))
        worst = subprocess.call([*pytest, *files_of(root, first)], cwd=root)
        for lane, process, said in running:
            print(f"-- another lane: {' '.join(lane)}", flush=True)
            worst = process.wait() or worst
            said.seek(0)
            sys.stdout.buffer.write(said.read())
            sys.stdout.flush()
    print(f"-- all lanes: {time.monotonic() - began:.0f} s", flush=True)
    return worst


if __name__ == "__main__":
    sys.exit(main())
