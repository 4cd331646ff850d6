"""`ssh`, `ssh-config` and `connect`: the system's OpenSSH client, led to the node of a container.

The provider is known by its id, which is its host key; so nobody is ever asked whether to trust
it. `connect` writes that key where the client will look, before it hands on the first byte.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import click

from p2prc.api.address import ssh_socket_path
from p2prc.api.connection import JsonObject, call, quoted
from p2prc.cli import ssh_connector
from p2prc.cli.failures import COULD_NOT_RUN_STATUS, tell
from p2prc.cli.invocation import CommandWithTail, Invocation, command
from p2prc.errors import HomeUnusable, InvalidInput, P2prcError, RuntimeMissing
from p2prc.ssh.keys import private_file, public_line

if TYPE_CHECKING:
    # Loaded when they are needed: every `p2prc ssh` waits for what this module loads.
    from p2prc.api.duplex_client import DuplexCall
    from p2prc.model.identity import NodeId

_PIECE_BYTES = 64 * 1024
_DOMAIN = ".p2prc"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
_SSH_FAILED_STATUS = 255
_CALL_TIMEOUT_S = 30.0


class _SshLike(CommandWithTail):
    positionals = 1
    is_tail_optional = True


@command("ssh", cls=_SshLike)
@click.argument("lease", metavar="LEASE")
@click.option("-t", "--tty", "on_terminal", is_flag=True, help="Run the command on a terminal.")
@click.pass_obj
def ssh_command(
    invocation: Invocation, /, *, lease: str, argv: list[str], on_terminal: bool
) -> None:
    """Work in a container with ssh.

    Opens a shell, or runs one command, with the system's OpenSSH client.
    Exits with the command's status; with 125 when it could not be run, or ssh was cut off.
    """
    try:
        status = _ssh(invocation, lease, argv, on_terminal=on_terminal)
    except P2prcError as error:
        tell(error, as_json=invocation.as_json, home=invocation.typed_home)
        status = COULD_NOT_RUN_STATUS
    raise click.exceptions.Exit(status)


def _ssh(invocation: Invocation, lease: str, argv: list[str], *, on_terminal: bool) -> int:
    program = shutil.which("ssh")
    if program is None:
        raise RuntimeMissing(
            "there is no ssh client here", hint="install OpenSSH's; or use `p2prc exec`"
        )
    config = prepare(invocation, _facts(invocation, lease)["own"])
    words = [program, "-F", str(config), *(["-t"] if on_terminal else []), lease + _DOMAIN]
    # The client joins words with spaces for a shell on the other side; one alone is for that shell.
    typed = argv if len(argv) == 1 else map(shlex.quote, argv)
    words += ["--", *typed] if argv else []
    # Loading `subprocess` takes longer than all this.
    status = os.spawnv(os.P_WAIT, program, words)  # noqa: S606
    return COULD_NOT_RUN_STATUS if status in (_SSH_FAILED_STATUS, -1) else status


@command("ssh-config")
@click.pass_obj
def ssh_config_command(invocation: Invocation, /) -> None:
    """Print what lets ssh, scp and rsync reach containers.

    The lines are for ~/.ssh/config; a container is LEASE.p2prc then.
    """
    from p2prc.model.identity import NodeId  # noqa: PLC0415

    config = prepare(invocation, NodeId(invocation.client.status().id))
    click.echo(config.read_text(), nl=False)


@command("connect")
@click.argument("lease", metavar="LEASE")
@click.pass_obj
def connect_command(invocation: Invocation, /, *, lease: str) -> None:
    """Carry ssh to a container: for ssh's ProxyCommand.

    Its bytes come from standard input and go to standard output.
    """
    import threading  # noqa: PLC0415

    from p2prc.api.duplex_client import DuplexCall  # noqa: PLC0415

    name = lease.removesuffix(_DOMAIN)
    node = _facts(invocation, name)["host"]
    known = _folder(invocation) / "known"
    known.mkdir(mode=0o700, exist_ok=True)
    for typed in (name, name + _DOMAIN):
        _write(known / typed, f"* {public_line(node)}\n".encode())
    duplex = DuplexCall(invocation.home, f"/v1/containers/{quoted(name)}/ssh")
    threading.Thread(target=_feed, args=(duplex,), daemon=True).start()
    try:
        for piece in duplex.answer():
            sys.stdout.buffer.write(piece)
            sys.stdout.buffer.flush()
    finally:
        duplex.close()


def _feed(duplex: DuplexCall) -> None:
    # The node may have hung up: the answer's end says so.
    with suppress(OSError):
        while content := os.read(0, _PIECE_BYTES):
            duplex.send(content)
        duplex.end()


def _facts(invocation: Invocation, typed: str) -> JsonObject:
    """Return the `host` and `own` node of a container. Raises LeaseUnknown, InvalidInput."""
    if _NAME.fullmatch(typed) is None:
        raise InvalidInput("a container's name for ssh has letters, digits, `.`, `_` and `-` alone")
    path = f"/v1/containers/{quoted(typed)}/ssh"
    facts: JsonObject = json.loads(call(invocation.home, "GET", path, timeout_s=_CALL_TIMEOUT_S))
    return facts


def prepare(invocation: Invocation, node: NodeId) -> Path:
    """Write the key and the settings for the client; return the file with the settings."""
    folder = _folder(invocation)
    try:
        secret = bytes.fromhex((Path(invocation.home) / "key").read_text().strip())
    except (OSError, ValueError) as error:
        raise HomeUnusable("the key of this home cannot be read") from error
    _write(folder / "id_ed25519", private_file(secret, node))
    lines = [
        f"Host *{_DOMAIN}",
        *_proxy(invocation, folder / "known"),
        f"    IdentityFile {_quoted(folder / 'id_ed25519')}",
        f'    UserKnownHostsFile {_quoted(folder / "known")[:-1]}/%n"',
        "    User p2prc",
        # The processor does AES itself; what comes first by default is made for those that do not.
        "    Ciphers ^aes128-gcm@openssh.com",
        "    IdentitiesOnly yes",
        "    IdentityAgent none",
        "    PreferredAuthentications publickey",
        "    GlobalKnownHostsFile /dev/null",
        "    StrictHostKeyChecking yes",
        "    UpdateHostKeys no",
        "    CheckHostIP no",
        "    LogLevel ERROR",
    ]
    config = folder / "config"
    _write(config, "\n".join([*lines, ""]).encode())
    return config


def _proxy(invocation: Invocation, known: Path) -> list[str]:
    """Return the lines that say how the client reaches the node."""
    hands_over = hasattr(socket, "send_fds")
    if hands_over:
        door = ssh_socket_path(invocation.home)
        words = [sys.executable, "-I", "-S", ssh_connector.__file__, door, str(known)]
        home = [shlex.quote(invocation.typed_home)] if invocation.typed_home else []
    else:
        words = [sys.executable, "-m", "p2prc", "--home", invocation.home, "connect"]
        home = []
    typed = " ".join(shlex.quote(word).replace("%", "%%") for word in words)
    hinted = "".join(f" {shlex.quote(word)}".replace("%", "%%") for word in home)
    return [
        f"    ProxyCommand {typed} '%n'{hinted}",
        *(["    ProxyUseFdpass yes"] if hands_over else []),
    ]


def _folder(invocation: Invocation) -> Path:
    folder = Path(invocation.home) / "ssh"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
    except OSError as error:
        raise HomeUnusable(f"cannot use `{folder}`: {error.strerror}") from error
    return folder


def _write(path: Path, content: bytes) -> None:
    """Write what is not so already: several clients may do so at once."""
    with suppress(OSError):
        if path.read_bytes() == content:
            return
    # Under a name of this process: nobody reads half a file, and nobody's file is taken away.
    temporary = path.with_name(f".{os.getpid()}.{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NOFOLLOW", 0)
    try:
        with os.fdopen(os.open(temporary, flags, 0o600), "wb") as file:
            file.write(content)
        temporary.replace(path)
    except OSError as error:
        raise HomeUnusable(f"cannot write `{path}`: {error.strerror}") from error


def _quoted(path: Path) -> str:
    return '"' + str(path).replace("%", "%%") + '"'
