"""A machine that is reached by the system's ssh, or is this one: scripts in, what they say out."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from dataclasses import dataclass

from p2prc.cli.deploying.plan import LOCAL
from p2prc.errors import NotAllowed, PeerUnreachable, RuntimeMissing, TimedOut, WorkFailed

STEP_TIMEOUT_S = 120.0
INSTALL_TIMEOUT_S = 900.0
_SSH_FAILED = 255
_WORDS = 300


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a node is or will be. Nobody is asked for a password."""

    ssh: str

    def run(self, script: str, content: bytes = b"", *, timeout_s: float = STEP_TIMEOUT_S) -> str:
        """Run a script of `sh` there; return what it printed.

        Raises PeerUnreachable, NotAllowed, TimedOut, WorkFailed with what it said.
        """
        try:
            done = subprocess.run(
                self._words(script),
                input=content,
                capture_output=True,
                timeout=timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimedOut(f"{self.ssh} did not answer within {timeout_s:.0f} s") from error
        out = done.stdout.decode("utf-8", "replace")
        said = done.stderr.decode("utf-8", "replace").strip()
        if done.returncode == _SSH_FAILED and self.ssh != LOCAL:
            raise self._not_reached(said)
        if done.returncode != 0:
            raise WorkFailed(_sentence(said or out.strip()) or f"status {done.returncode}")
        return out

    def _words(self, script: str) -> list[str]:
        if self.ssh == LOCAL:
            return ["sh", "-c", script]
        program = shutil.which("ssh")
        if program is None:
            raise RuntimeMissing("there is no ssh client here", hint="install OpenSSH's")
        host, colon, port = self.ssh.rpartition(":")
        has_port = bool(colon) and not self.ssh.endswith("]")
        return [
            program, "-o", "BatchMode=yes", "-o", "ConnectTimeout=15",
            "-o", "ServerAliveInterval=15", *(["-p", port] if has_port else []),
            (host if has_port else self.ssh).replace("[", "").replace("]", ""),
            "--", f"sh -c {shlex.quote(script)}",
        ]  # fmt: skip

    def _not_reached(self, said: str) -> Exception:
        if "Permission denied" in said or "Host key verification failed" in said:
            return NotAllowed(
                f"{self.ssh} does not let us in: {_sentence(said)}",
                hint=f"see that `ssh {self.ssh.replace(':', ' -p ')}` asks for nothing",
            )
        return PeerUnreachable(f"{self.ssh} cannot be reached: {_sentence(said)}")


def _sentence(said: str) -> str:
    """Return the line that says why: an error of ours where there is one, else the last."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (own or lines or [""])[-1][:_WORDS]
