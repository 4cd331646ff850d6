"""OpenSSH's ProxyCommand: opens a container's SSH at the node, hands the socket over, and ends.

Run as `python -I -S ssh_connector.py SOCKET FOLDER NAME [HOME]` with the standard library alone,
because it is started for every `ssh`, `scp` and `rsync`. The host key that the node names goes into
the file NAME of the folder, where the client looks for it (`daemon/ssh_door.py` is the other side).
HOME is what hints say where it is not the usual one.
"""

# ruff: noqa: PTH100, PTH103, PTH105, PTH119, PTH120, PTH123
# Plain paths: pathlib takes as long to load as all the rest.
from __future__ import annotations

import os
import socket
import sys

_DOMAIN = ".p2prc"
_TIMEOUT_S = 30.0
_ANSWER_LIMIT_BYTES = 4096
_FAILED_STATUS = 255


def main() -> int:
    """Return ssh's status for a connection that failed, or 0."""
    path, folder, typed = sys.argv[1:4]
    name = typed.removesuffix(_DOMAIN)
    if not name or "/" in name or "\n" in name or name.startswith("."):
        return _tell("that is no container's name")
    client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    client.settimeout(_TIMEOUT_S)
    try:
        # A socket's address is short, a home's path need not be.
        os.chdir(os.path.dirname(os.path.abspath(path)))
        client.connect(os.path.basename(path))
    except OSError:
        return _tell("the node of this home is not running", "start it: `p2prc up`")
    try:
        client.sendall(name.encode() + b"\n")
        word, _, rest = _line(client).partition(" ")
        if word != "ok":
            return _tell(*rest.split("\t", 1))
        _write(folder, typed, f"* {rest}\n")
        client.settimeout(None)
        # Standard output is the client's own socket: `ProxyUseFdpass`.
        with socket.socket(fileno=os.dup(1)) as asker:
            socket.send_fds(asker, [b"\0"], [client.fileno()])
    except OSError as error:
        return _tell(f"the node did not answer: {error.strerror or error}")
    return 0


def _line(client: socket.socket) -> str:
    """Read the answer and not a byte of what follows it: that is ssh's."""
    line = b""
    while not line.endswith(b"\n") and len(line) < _ANSWER_LIMIT_BYTES:
        seen = client.recv(_ANSWER_LIMIT_BYTES, socket.MSG_PEEK)
        if not seen:
            raise ConnectionResetError("it hung up")
        line += client.recv(seen.index(b"\n") + 1 if b"\n" in seen else len(seen))
    return line.decode("utf-8", "replace").rstrip("\n")


def _write(folder: str, name: str, content: str) -> None:
    """Write what is not so already: several clients may do so at once."""
    path = f"{folder}/{name}"
    try:
        with open(path, encoding="utf-8") as file:
            if file.read() == content:
                return
    except OSError:
        pass
    os.makedirs(folder, mode=0o700, exist_ok=True)
    temporary = f"{folder}/.{os.getpid()}.{name}"
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW
    with os.fdopen(os.open(temporary, flags, 0o600), "w", encoding="utf-8") as file:
        file.write(content)
    os.replace(temporary, path)


def _tell(message: str, hint: str = "") -> int:
    if home := "".join(sys.argv[4:5]):
        hint = hint.replace("`p2prc ", f"`p2prc --home {home} ")
    lines = [f"error: {message}", *([f"hint: {hint}"] if hint else [])]
    print("\n".join(lines), file=sys.stderr)
    return _FAILED_STATUS


if __name__ == "__main__":
    # Nothing is left to tidy up, and taking the interpreter down takes a while.
    status = main()
    sys.stderr.flush()
    os._exit(status)
