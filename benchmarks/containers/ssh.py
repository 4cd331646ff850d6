"""SSH into leases: how long a command takes, and files by sftp beside a plain sshd's.

The rival listens on this machine for leases of the sandbox, and inside a container of the very same
image, at a published port, for leases in containers. All clients are OpenSSH's, as installed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import rivals
from benchmarks.containers.daemon import open_pair
from benchmarks.containers.part import Part, Took, median_ms, nothing_taken
from benchmarks.network import MeasuredNode
from benchmarks.report import Figure

ROUNDS = 10
FILE_ROUNDS = 5
FILE_BYTES = 200_000_000
COMMAND_MS = 150.0
RATE_AT_LEAST = 0.6
_HOST_PORT, _CONTAINER_PORT = 2297, 2298
_RIVAL = "p2prc-benchmark-sshd"
_SSHD = "/usr/sbin/sshd"
_NEEDS = ("ssh", "sftp", "ssh-keygen", _SSHD)


def measure() -> Part:
    """Have one node lend to the other, and let clients of SSH in."""
    if os.geteuid() != 0:
        return Part([], missing=["ssh: needs root, for sshd and the tenants' users"])
    if lacking := [name for name in _NEEDS if shutil.which(name) is None]:
        told = f"ssh: {', '.join(lacking)}: `apt-get install openssh-client openssh-server`"
        return Part([], missing=[told])
    took = nothing_taken()
    missing: list[str] = []
    with (
        tempfile.TemporaryDirectory(prefix="p2prc-bench-") as folder,
        open_pair(Path(folder)) as (asker, lender),
        _rival_here(Path(folder)) as rival,
    ):
        bench = _Bench(asker, Path(folder))
        box = bench.lease(lender.name, "process")
        bench.commands(box, took)
        bench.files("sandbox", box, rival, took)
        images = [row["digest"] for row in lender.json("images") if row.get("digest")]
        if shutil.which("docker") is None or not images:
            missing.append("ssh: a container engine, for leases in containers")
        else:
            inside = bench.lease(lender.name, "docker")
            with _rival_inside(Path(folder), images[0]) as other:
                bench.files("container", inside, other, took)
    return Part(_figures(took), took, missing)


@dataclass(frozen=True, slots=True)
class _Server:
    """Where a client goes, and with which options."""

    options: tuple[str, ...]
    host: str


class _Bench:
    """One asker, and files to send."""

    def __init__(self, asker: MeasuredNode, folder: Path) -> None:
        self._asker = asker
        self._folder = folder
        self._config = folder / "config"
        self._config.write_text(asker.p2prc("ssh-config"))
        self._file = folder / "file"

    def lease(self, target: str, runtime: str) -> _Server:
        """Make a lease; return how OpenSSH reaches it."""
        words = ("--runtime", runtime, "--cpus", "0.5", "--disk", "2G", "--name", runtime)
        self._asker.p2prc("create", target, *words)
        return _Server(("-F", str(self._config)), f"{runtime}.p2prc")

    def commands(self, server: _Server, took: Took) -> None:
        """Note how long `true` takes, by either way."""
        name = server.host.partition(".")[0]
        for number in range(ROUNDS + 1):
            ours = rivals.timed(self._asker.argv("ssh", name, "true"))
            plain = rivals.timed(["ssh", *server.options, server.host, "true"])
            if number:  # The first loads what later ones find.
                took["p2prc ssh"].append(ours)
                took["ssh"].append(plain)

    def files(self, where: str, ours: _Server, theirs: _Server, took: Took) -> None:
        """Note how long the file takes there and back."""
        if not self._file.exists():
            # Not before the commands were timed: the disk is busy with it for a while.
            self._file.write_bytes(os.urandom(FILE_BYTES))
        for number in range(FILE_ROUNDS + 1):
            for whose, server in (("ours", ours), ("sshd", theirs)):
                for way in (f"put {self._file} file", f"get file {self._folder}/back"):
                    taken_s = self._sftp(server, way)
                    if number:
                        took[f"{where}, {way[:3]}, {whose}"].append(taken_s)

    def _sftp(self, server: _Server, line: str) -> float:
        batch = self._folder / "batch"
        batch.write_text(line + "\n")
        return rivals.timed(["sftp", "-q", "-b", str(batch), *server.options, server.host])


@contextmanager
def _rival_here(folder: Path) -> Iterator[_Server]:
    settings = _settings(folder, _HOST_PORT)
    Path("/run/sshd").mkdir(exist_ok=True)
    with subprocess.Popen([_SSHD, "-D", "-f", str(settings)]) as sshd:
        try:
            yield _reached(folder, _HOST_PORT)
        finally:
            sshd.terminate()


@contextmanager
def _rival_inside(folder: Path, image: str) -> Iterator[_Server]:
    """An sshd in a container of the image, at a port of this machine."""
    _settings(folder, 22, seen_at="/keys")
    users = folder / "passwd"
    users.write_text(
        "root:x:0:0:root:/root:/bin/sh\nsshd:x:105:65534::/run/sshd:/usr/sbin/nologin\n"
    )
    mounts = (
        "-v",
        "/usr:/usr:ro",
        "-v",
        f"{users}:/etc/passwd:ro",
        "-v",
        f"{folder}/sshd:/keys:ro",
    )
    places = ("--tmpfs", "/run/sshd:mode=755", "--tmpfs", "/root:mode=700,size=1g,exec")
    port = ("-p", f"127.0.0.1:{_CONTAINER_PORT}:22")
    words = ["docker", "run", "-d", "--name", _RIVAL, *mounts, *places, *port, image]
    try:
        subprocess.run(
            [*words, _SSHD, "-D", "-f", "/keys/settings"], check=True, capture_output=True
        )
        yield _reached(folder, _CONTAINER_PORT)
    finally:
        subprocess.run(["docker", "rm", "-f", _RIVAL], check=False, capture_output=True)


def _settings(folder: Path, port: int, *, seen_at: str | None = None) -> Path:
    keys = folder / "sshd"
    keys.mkdir(exist_ok=True)
    for name in ("host", "own"):
        if not (keys / name).exists():
            words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(keys / name)]
            subprocess.run(words, check=True)
    at = seen_at or str(keys)
    settings = keys / "settings"
    settings.write_text(
        f"Port {port}\nHostKey {at}/host\nAuthorizedKeysFile {at}/own.pub\n"
        "PermitRootLogin prohibit-password\nStrictModes no\nUsePAM no\nPidFile none\n"
        "Subsystem sftp /usr/lib/openssh/sftp-server\n"
    )
    return settings


def _reached(folder: Path, port: int) -> _Server:
    options = [f"Port={port}", f"IdentityFile={folder}/sshd/own", "StrictHostKeyChecking=no"]
    options += ["UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "ConnectionAttempts=20"]
    words = [word for option in options for word in ("-o", option)]
    server = _Server(("-F", "none", *words), "root@127.0.0.1")
    rivals.timed(["ssh", *server.options, server.host, "true"])
    return server


def _figures(took: Took) -> Sequence[Figure]:
    figures = [
        Figure(f"`{what}` of `true`, loopback", median_ms(took[what]), "ms", at_most=COMMAND_MS)
        for what in ("ssh", "p2prc ssh")
    ]
    for where in ("sandbox", "container"):
        for way in ("put", "get"):
            ours, theirs = took[f"{where}, {way}, ours"], took[f"{where}, {way}, sshd"]
            if ours:
                ratio = median_ms(theirs) / median_ms(ours)
                figures.append(
                    Figure(
                        f"sftp {way}, {where}: rate of ours / plain sshd",
                        round(ratio, 3),
                        "x",
                        at_least=RATE_AT_LEAST,
                    )
                )
    return figures
