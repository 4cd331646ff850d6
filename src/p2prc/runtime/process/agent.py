"""Run commands inside a sandbox: its first process, and the parent of all.

Stands alone, for it is the only file of ours in there. Output does not pass through here: each
request brings the descriptors the command writes to. One command at a time, after which everything
else in the sandbox is killed; or, in sessions, many at once, and what they leave goes on. Nobody
outside trusts a word of this: a tenant may well replace it.
"""

# ruff: noqa: PTH112, PTH113, PTH208, S108
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

# The plain modules: theirs take longer to load than the rest of the start.
import _signal  # type: ignore[import-not-found]
import _socket
import os
import select
import sys

_FDS = (1, 2)
_PACKET_BYTES = 60 * 1024
_KILL = 9
_CHILD_ENDED = 17
_NO_COMMAND = 2
_CANNOT_RUN = 13
_NO_FORMAT = 8
_RESET_SIGNALS = (2, 13, 25)
"""Interrupt, broken pipe and file too large, which Python ignores."""


def main() -> None:
    """Serve until the supervisor closes the socket."""
    os.set_inheritable(int(sys.argv[1]), False)
    channel = _socket.socket(fileno=int(sys.argv[1]))
    null = os.open("/dev/null", os.O_RDWR)
    for number in (0, *_FDS):
        os.dup2(null, number)
    if "sessions" in sys.argv:
        _serve_sessions(channel)
        return
    channel.send(b"ready")
    while True:
        request = _receive(channel)
        if request is None:
            return
        answer = _run(*request)
        # What a command leaves in memory goes with this sandbox; the next one gets a new one.
        is_leaving = bool(os.listdir("/dev/shm"))
        channel.send(b"%d %d %d %d %d" % (*answer, is_leaving))


def _serve_sessions(channel: _socket.socket) -> None:
    """Start what is asked for, end a command and its group when asked, tell of every end."""
    wake, woken = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    _signal.set_wakeup_fd(woken, warn_on_full_buffer=False)
    _signal.signal(_CHILD_ENDED, lambda *_: None)
    poll = select.poll()
    poll.register(channel.fileno(), select.POLLIN)
    poll.register(wake, select.POLLIN)
    running: dict[int, bytes] = {}
    channel.send(b"ready")
    while True:
        for descriptor, _ in poll.poll():
            if descriptor == wake:
                os.read(wake, 4096)
                _tell_of_ended(channel, running)
                continue
            request = _receive(channel)
            if request is None:
                return
            _serve_session(channel, running, *request)


def _serve_session(
    channel: _socket.socket, running: dict[int, bytes], words: list[bytes], fds: list[int]
) -> None:
    if words[0] == b"kill":
        for pid, number in running.items():
            if number == words[1]:
                _kill(-pid)
                _kill(pid)
        return
    try:
        pid = _begin(words[1:], fds)
    except OSError as error:
        channel.send(b"%b 0 %d 0 0" % (words[0], error.errno or _NO_COMMAND))
    else:
        running[pid] = words[0]


def _tell_of_ended(channel: _socket.socket, running: dict[int, bytes]) -> None:
    while True:
        try:
            pid, status, usage = os.wait4(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if pid == 0:
            return
        number = running.pop(pid, None)
        if number is not None:
            micros = int((usage.ru_utime + usage.ru_stime) * 1_000_000)
            channel.send(b"%b %d 0 %d %d" % (number, status, micros, usage.ru_maxrss))


def _receive(channel: _socket.socket) -> tuple[list[bytes], list[int]] | None:
    """Return the words of a request and its descriptors."""
    content, ancillary, _, _ = channel.recvmsg(
        _PACKET_BYTES, _socket.CMSG_SPACE(16), _socket.MSG_CMSG_CLOEXEC
    )
    if not content:
        return None
    rights = ancillary[0][2] if ancillary else b""
    fds = [int.from_bytes(rights[at : at + 4], sys.byteorder) for at in range(0, len(rights), 4)]
    if content == b"@":
        memory = fds.pop(0)
        content = os.pread(memory, os.fstat(memory).st_size, 0)
        os.close(memory)
    return content.split(b"\0"), fds


def _run(words: list[bytes], fds: list[int]) -> tuple[int, int, int, int]:
    """Run a command to its end and the end of all it started.

    Returns its exit status, the error's number when it did not start, the CPU time of all in
    microseconds and the largest process in KiB.
    """
    try:
        pid = _begin(words, fds)
    except OSError as error:
        return 0, error.errno or _NO_COMMAND, 0, 0
    return _reap(pid)


def _begin(words: list[bytes], fds: list[int]) -> int:
    """Start a command; return its pid. Raises OSError."""
    count = int(words[0].rstrip(b"t"))
    argv = words[1 : count + 1]
    variables = dict(word.split(b"=", 1) for word in words[count + 1 :])
    try:
        return _start(argv, variables, _actions(fds, is_terminal=words[0].endswith(b"t")))
    finally:
        for descriptor in fds:
            os.close(descriptor)


def _actions(fds: list[int], *, is_terminal: bool) -> list[tuple[int, ...]]:
    """Say where a command's descriptors come from."""
    if is_terminal:
        # A session without a terminal gets the first that it opens.
        found: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_OPEN, 0, b"/proc/self/fd/%d" % fds[0], os.O_RDWR, 0),  # type: ignore[list-item]
        ]
        return found + [(os.POSIX_SPAWN_DUP2, 0, number) for number in _FDS]
    found = [(os.POSIX_SPAWN_DUP2, fds[0], 1), (os.POSIX_SPAWN_DUP2, fds[1], 2)]
    if len(fds) > 2:
        found.append((os.POSIX_SPAWN_DUP2, fds[2], 0))
    return found


def _start(argv: list[bytes], variables: dict[bytes, bytes], actions: list[tuple[int, ...]]) -> int:
    path = _find(argv[0], variables.get(b"PATH", b""))
    try:
        return _spawn(path, argv, variables, actions)
    except OSError as error:
        if error.errno != _NO_FORMAT:
            raise
    # A script without a first line: the shell runs it, as everywhere.
    script = [b"sh", path, *argv[1:]]
    return _spawn(b"/bin/sh", script, variables, actions)


def _spawn(
    path: bytes,
    argv: list[bytes],
    variables: dict[bytes, bytes],
    actions: list[tuple[int, ...]],
) -> int:
    return os.posix_spawn(
        path, argv, variables, file_actions=actions, setsid=True, setsigdef=_RESET_SIGNALS
    )


def _find(name: bytes, search_path: bytes) -> bytes:
    if b"/" in name:
        return name
    is_forbidden = False
    for folder in search_path.split(b":"):
        path = folder + b"/" + name
        if os.access(path, os.X_OK) and not os.path.isdir(path):
            return path
        is_forbidden = is_forbidden or os.path.isfile(path)
    raise OSError(_CANNOT_RUN if is_forbidden else _NO_COMMAND, "no such command")


def _reap(pid: int) -> tuple[int, int, int, int]:
    status, micros, largest = 0, 0, 0
    while True:
        try:
            ended, code, usage = os.wait4(-1, 0)
        except ChildProcessError:
            return status, 0, micros, largest
        micros += int((usage.ru_utime + usage.ru_stime) * 1_000_000)
        largest = max(largest, usage.ru_maxrss)
        if ended == pid:
            status = code
            _kill_the_rest()


def _kill_the_rest() -> None:
    _kill(-1)


def _kill(target: int) -> None:
    try:  # noqa: SIM105 (contextlib would have to be loaded)
        os.kill(target, _KILL)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    main()
