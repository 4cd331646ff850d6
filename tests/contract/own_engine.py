"""A container engine of a test's own, that may be killed, started again, and run out of disk."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

START_S = 40.0


class OwnEngine:
    """One `dockerd` with all its folders below one; containers outlive it (`--live-restore`)."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.socket = folder / "docker.sock"
        # containerd takes no name with two marks side by side, as a folder of chance may have.
        self._namespace = folder.name.replace("_", "0")
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> bool:
        """Start it; say whether it answers."""
        words: list[str | Path] = [
            # In a network of its own: without a bridge it would remove the machine's `docker0`.
            "unshare",
            "--net",
            "dockerd",
            "--host",
            f"unix://{self.socket}",
            "--data-root",
            self.folder / "data",
        ]
        words += ["--exec-root", self.folder / "exec", "--pidfile", self.folder / "pid"]
        words += ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--live-restore"]
        words += ["--containerd-namespace", self._namespace, "--shutdown-timeout", "1"]
        # Its containerd lives with it unless one is there already: then they share that one.
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, start_new_session=True)
        give_up_at = time.monotonic() + START_S
        while time.monotonic() < give_up_at and self._process.poll() is None:
            if self._docker("info"):
                return True
            time.sleep(0.1)
        return False

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            # What says that they run: where nobody reaps the dead, they seem to.
            (self.folder / "pid").unlink(missing_ok=True)
            (self.folder / "exec/containerd/containerd.pid").unlink(missing_ok=True)

    def stop(self) -> None:
        """End it, and what it left."""
        if self._process is None:
            return
        found = subprocess.run(
            ["docker", "-H", f"unix://{self.socket}", "ps", "-aq"],
            capture_output=True,
            check=False,
        )
        for container in found.stdout.decode().split():
            self._docker("rm", "-f", container)
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(10)
        self._process.kill()
        self._process.wait()
        # One that was killed leaves mounts of its own folders.
        mounts = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines()]
        for mount in reversed([each for each in mounts if each.startswith(f"{self.folder}/")]):
            subprocess.run(["umount", "-l", mount], capture_output=True, check=False)

    def _docker(self, *words: str) -> bool:
        argv = ["docker", "-H", f"unix://{self.socket}", *words]
        return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@contextmanager
def own_engine(folder: Path) -> Iterator[OwnEngine]:
    """Run an engine below the folder; it may not start, which `start` tells."""
    engine = OwnEngine(folder)
    try:
        yield engine
    finally:
        engine.stop()
