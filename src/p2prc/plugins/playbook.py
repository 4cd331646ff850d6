"""One playbook on one container: the system's `ansible-playbook`, through our SSH.

Each container has a process of its own, because its ports are its own; several run at once. The
plugin's inventory is used as it is. Variables of the highest rank then say where its host really
is, and take away the passwords that P2PRC had to write there.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2prc.errors import RuntimeMissing
from p2prc.plugins.folder import Plugin
from p2prc.plugins.go_template import fill_in

_RECAP = re.compile(r"^(\S+)\s+: ((?:\w+=\d+\s*)+)$")
_FATAL = re.compile(r"^(?:fatal|failed): \[[^\]]*\].*?: (?:FAILED|UNREACHABLE)! => (\{.*)$")
_REASON_LIMIT = 300
_KEEPS_OPEN_S = 5
_DOMAIN = ".p2prc"


class HostResult(msgspec.Struct, frozen=True):
    """How a playbook ended on one container. `ok` is the verdict, the counts are of tasks."""

    id: str
    name: str
    ok: bool
    exit: int | None = None
    ok_tasks: int = 0
    changed: int = 0
    failed: int = 0
    unreachable: int = 0
    skipped: int = 0
    ports: tuple[int, ...] = ()
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Target:
    """A container, and the ports there that the playbook may use."""

    id: str
    name: str
    ports: tuple[int, ...] = ()


def find_ansible() -> str:
    """Return the program. Raises RuntimeMissing with how to get it."""
    program = shutil.which("ansible-playbook")
    if program is None:
        raise RuntimeMissing(
            "there is no `ansible-playbook` here", hint="install it: `pipx install ansible-core`"
        )
    if shutil.which("ssh") is None:
        raise RuntimeMissing("there is no ssh client here", hint="install OpenSSH's")
    return program


def run_playbook(
    plugin: Plugin, target: Target, ssh_config: Path, show: Callable[[str], None]
) -> HostResult:
    """Run it to its end and say how it went; `show` is given each line that it prints.

    Blocks as long as the playbook lasts. Raises InvalidInput for a template that cannot be filled.
    """
    site = fill_in(plugin.site, target.ports)
    program = find_ansible()
    # Short, because sockets of ssh lie in it.
    with tempfile.TemporaryDirectory(prefix="p2prc-") as room:
        copy = Path(room) / plugin.name
        shutil.copytree(plugin.folder, copy, symlinks=True, ignore=_no_git)
        (copy / "site.yml").write_text(site)
        lines = Recap()
        with subprocess.Popen(
            _words(program, plugin, target, copy, ssh_config),
            cwd=room,
            env=_environment(os.environ, room),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        ) as running:
            try:
                assert running.stdout is not None  # it was asked for
                for line in running.stdout:
                    lines.add(line.rstrip("\n"))
                    show(line.rstrip("\n"))
            except BaseException:
                running.terminate()
                raise
    return lines.result(target, running.returncode)


def _no_git(_folder: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if name == ".git"]


def _words(
    program: str, plugin: Plugin, target: Target, copy: Path, ssh_config: Path
) -> Sequence[str]:
    inventory = str(copy / "hosts") if plugin.has_hosts else f"{target.name or target.id[:10]},"
    ssh = f"-F {shlex.quote(str(ssh_config))} -o ControlPersist={_KEEPS_OPEN_S}s"
    variables = {
        "ansible_host": target.id + _DOMAIN,
        "ansible_port": 22,
        # Whoever enters a container is its user, by any name. Under this one `become` asks for no
        # other program: there is seldom a `sudo` inside.
        "ansible_user": "root",
        **dict.fromkeys(("ansible_password", "ansible_ssh_pass", "ansible_ssh_password"), ""),
        **dict.fromkeys(("ansible_become_password", "ansible_become_pass"), ""),
        "ansible_sudo_pass": "",
        "ansible_ssh_common_args": ssh,
        "ansible_remote_tmp": "/tmp/.ansible",  # noqa: S108 - inside the container
    }
    return [
        program, "-i", inventory, "--become", "-e", json.dumps(variables), str(copy / "site.yml"),
    ]  # fmt: skip


def _environment(mine: Mapping[str, str], room: str) -> dict[str, str]:
    """Return variables for Ansible: its words must be those that `Recap` reads."""
    kept = {name: value for name, value in mine.items() if not name.startswith("ANSIBLE_")}
    return {
        **kept,
        # Its own ten seconds are short for a busy machine on the other side of a relay.
        "ANSIBLE_TIMEOUT": "60",
        **{
            name: value
            for name, value in mine.items()
            if name in ("ANSIBLE_ROLES_PATH", "ANSIBLE_COLLECTIONS_PATH", "ANSIBLE_TIMEOUT")
        },
        "ANSIBLE_STDOUT_CALLBACK": "default",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_FORCE_COLOR": "0",
        "ANSIBLE_RETRY_FILES_ENABLED": "0",
        "ANSIBLE_LOCALHOST_WARNING": "0",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": room,
        "PYTHONUNBUFFERED": "1",
    }


class Recap:
    """What Ansible's own words say about how it went."""

    def __init__(self) -> None:
        self._counts: dict[str, int] = {}
        self._reason = ""
        self._error = ""

    def add(self, line: str) -> None:
        """Take a line that it printed."""
        if found := _FATAL.match(line):
            self._reason = self._reason or _message(found[1])
        elif line.startswith("ERROR!"):
            self._error = self._error or line.removeprefix("ERROR!").strip()
        elif found := _RECAP.match(line):
            for pair in found[2].split():
                key, _, value = pair.partition("=")
                self._counts[key] = self._counts.get(key, 0) + int(value)

    def result(self, target: Target, exit_status: int) -> HostResult:
        """Return the verdict; a playbook that met no host did nothing, whatever Ansible says."""
        counts = self._counts
        is_done = exit_status == 0 and bool(counts)
        reason = self._reason or self._error
        if not is_done and not reason:
            reason = (
                "its `hosts` and its playbook do not meet: no host was found"
                if exit_status == 0
                else f"ansible-playbook ended with {exit_status}"
            )
        return HostResult(
            id=target.id,
            name=target.name,
            ok=is_done,
            exit=exit_status,
            ok_tasks=counts.get("ok", 0),
            changed=counts.get("changed", 0),
            failed=counts.get("failed", 0),
            unreachable=counts.get("unreachable", 0),
            skipped=counts.get("skipped", 0),
            ports=target.ports,
            reason="" if is_done else reason[:_REASON_LIMIT],
        )


def _message(text: str) -> str:
    """Return the reason in a task's answer."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError):
        return text
    said = next(
        (str(fields[key]).strip() for key in ("stderr", "msg", "reason") if fields.get(key)), text
    )
    return said.splitlines()[-1] if said else text
