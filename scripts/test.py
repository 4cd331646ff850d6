"""Every test, in two lanes at once: one mostly waits, the other mostly works.

The lane that waits (routers, relays, whole systems) prints as it goes, the other one as one piece
when both are done. Both must pass.
"""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path

WAITING = ("tests/nat", "tests/system")
WORKING = ("tests/contract", "tests/fuzz", "tests/property", "tests/simulation", "tests/unit")


def main() -> int:
    """Run both lanes; return the worse exit status."""
    # Started in the background of a shell, we would hand on that interrupts are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    root = Path(__file__).parents[1]
    pytest = [sys.executable, "-m", "pytest"]
    with tempfile.TemporaryFile() as said:
        working = subprocess.Popen(
            [*pytest, "-p", "no:cacheprovider", *WORKING],
            cwd=root,
            stdout=said,
            stderr=subprocess.STDOUT,
        )
        try:
            status = subprocess.call([*pytest, *WAITING], cwd=root)
            print(f"-- the other lane: {' '.join(WORKING)}", flush=True)
            status = working.wait() or status
        finally:
            working.kill()
            working.wait()
        said.seek(0)
        sys.stdout.buffer.write(said.read())
        sys.stdout.flush()
    return status


if __name__ == "__main__":
    sys.exit(main())
