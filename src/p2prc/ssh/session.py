"""One session of an SSH connection: a command, a shell or a file server inside the sandbox."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import asyncssh

from p2prc.errors import P2prcError
from p2prc.runtime.port import Execution, Exit, Link, OutputChunk, Sandbox, Terminal
from p2prc.ssh.inflow import Inflow

COULD_NOT_RUN_STATUS = 125
_VARIABLES_LIMIT = 64
_VALUE_LIMIT_CHARACTERS = 4096
_LARGEST_SIDE = 1000
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,99}")
_ENDING_SIGNALS = ("HUP", "INT", "KILL", "QUIT", "TERM")
_SHELL = "command -v bash >/dev/null 2>&1 && exec bash; exec sh"
_FILE_SERVER = """\
server=
for each in /usr/lib/openssh/sftp-server /usr/lib/ssh/sftp-server /usr/libexec/sftp-server \
/usr/libexec/openssh/sftp-server; do
    [ -x "$each" ] && server=$each && break
done
# It refuses a user who has no name.
id -un >/dev/null 2>&1 && [ -n "$server" ] && exec "$server"
command -v python3 >/dev/null 2>&1 && exec python3 -IS -c "$1"
[ -n "$server" ] && exec "$server"
echo "sftp needs python3 or openssh's sftp-server in the image" >&2
exit 127
"""

_BY_PORT = """\
import os, socket, sys
door = socket.create_server(("127.0.0.1", 0), backlog=1)
print(door.getsockname()[1], flush=True)
door.settimeout(15)
peer, _ = door.accept()
door.close()
peer.settimeout(None)
os.dup2(peer.fileno(), 0)
os.dup2(peer.fileno(), 1)
os.execvp("sh", ["sh", "-c", *sys.argv[1:]])
"""
_FILES_BY_PORT = """\
command -v python3 >/dev/null 2>&1 && exec python3 -IS -c "$3" "$2" sftp "$1"
echo none
exec sh -c "$2" sftp "$1"
"""
_CONTAINER = "container"
_PORT_TIMEOUT_S = 20.0
_PORT_LINE_LIMIT_BYTES = 100

log = logging.getLogger(__name__)


Count = Callable[[Exit, float], None]
"""Told how each command ended, and how many seconds it took."""


class Session(asyncssh.SSHServerSession[bytes]):
    """Runs one command of the sandbox for one channel."""

    def __init__(
        self,
        sandbox: Sandbox,
        variables: Mapping[str, str],
        *,
        banner: str,
        ended: Callable[[], None],
        count: Count,
    ) -> None:
        self._sandbox = sandbox
        self._variables = variables
        self._banner = banner
        self._ended = ended
        self._count = count
        self._channel: asyncssh.SSHServerChannel[bytes] | None = None
        self._argv: list[str] = []
        self._is_shell = self._goes_by_port = False
        self._terminal: Terminal | None = None
        self._terminal_kind = ""
        self._inflow = Inflow()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._execution: Execution | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    # -- what the client asks for --

    def connection_made(self, chan: asyncssh.SSHServerChannel[bytes]) -> None:
        self._channel = chan
        self._inflow.attach(chan)

    def pty_requested(
        self, term_type: str, term_size: tuple[int, int, int, int], term_modes: Mapping[int, int]
    ) -> bool:
        self._terminal = _terminal(term_size[0], term_size[1])
        self._terminal_kind = term_type[:100] if term_type.isprintable() else ""
        return True

    def shell_requested(self) -> bool:
        self._argv, self._is_shell = ["sh", "-c", _SHELL], True
        return True

    def exec_requested(self, command: str) -> bool:
        self._argv = ["sh", "-c", command]
        return "\0" not in command

    def subsystem_requested(self, subsystem: str) -> bool:
        if subsystem != "sftp":
            return False
        self._argv, self._terminal = ["sh", "-c", _FILE_SERVER, "sftp", _file_server()], None
        # An engine hands what goes through a command from one process of its own to another.
        self._goes_by_port = self._sandbox.spec.tier == _CONTAINER
        if self._goes_by_port:
            files = ("sftp", _file_server(), _FILE_SERVER, _BY_PORT)
            self._argv = ["sh", "-c", _FILES_BY_PORT, *files]
        return True

    def session_started(self) -> None:
        self._start(self._run())

    def terminal_size_changed(self, width: int, height: int, pixwidth: int, pixheight: int) -> None:
        if self._terminal is None:
            return
        self._terminal = _terminal(width, height)
        if self._execution is not None:
            self._start(self._execution.resize(self._terminal))

    def data_received(self, data: bytes, datatype: int | None) -> None:
        self._inflow.put(data)

    def eof_received(self) -> bool:
        self._inflow.end()
        return True

    def signal_received(self, signal: str) -> None:
        if signal in _ENDING_SIGNALS and self._execution is not None:
            self._start(self._execution.cancel())

    def pause_writing(self) -> None:
        self._has_room.clear()

    def resume_writing(self) -> None:
        self._has_room.set()

    def connection_lost(self, exc: Exception | None) -> None:
        self._channel = None
        self._inflow.end()
        for task in self._tasks:
            task.cancel()
        self._ended()

    # -- what is done for it --

    def _start(self, work: object) -> None:
        task = asyncio.ensure_future(work)  # type: ignore[call-overload]
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            log.warning("a session of ssh failed", extra={"why": str(error)[:300]})
            self._exit(COULD_NOT_RUN_STATUS)

    async def _run(self) -> None:
        try:
            execution = self._execution = await self._sandbox.execute(
                self._argv,
                variables=self._all_variables(),
                takes_input=True,
                terminal=self._terminal,
            )
        except P2prcError as error:
            self._complain(error.message)
            self._exit(COULD_NOT_RUN_STATUS)
            return
        started = asyncio.get_running_loop().time()
        outputs = execution.output()
        if self._goes_by_port and (port := await self._port_of(outputs)):
            await self._run_by_port(execution, outputs, port, started)
            return
        feeding = asyncio.create_task(self._feed(execution), name="input of ssh")
        try:
            if self._terminal is not None and self._is_shell and self._banner:
                self._write(1, self._banner.replace("\n", "\r\n").encode())
            await self._print(outputs)
            ended = await execution.wait()
            if ended.status is None:
                self._complain(ended.reason or ended.code)
            self._exit(COULD_NOT_RUN_STATUS if ended.status is None else ended.status)
        finally:
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)
            await asyncio.shield(self._settle(execution, started))

    async def _print(self, outputs: AsyncIterator[OutputChunk]) -> None:
        async for chunk in outputs:
            self._write(chunk.channel, chunk.content)
            await self._has_room.wait()

    async def _port_of(self, outputs: AsyncIterator[OutputChunk]) -> int:
        """Return the port inside where files go, 0 where they go through the command itself."""
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_PORT_TIMEOUT_S):
                async for chunk in outputs:
                    if chunk.channel != 1:
                        self._write(chunk.channel, chunk.content)
                        continue
                    line += chunk.content
                    if b"\n" in line or len(line) > _PORT_LINE_LIMIT_BYTES:
                        break
        said = line.partition(b"\n")[0]
        return int(said) if said.isdigit() and len(said) <= len("65535") else 0

    async def _run_by_port(
        self,
        execution: Execution,
        outputs: AsyncIterator[OutputChunk],
        port: int,
        started: float,
    ) -> None:
        complaints = asyncio.create_task(self._print(outputs), name="complaints to ssh")
        tasks = [complaints]
        try:
            link = await self._sandbox.dial(port)
            try:
                tasks.append(asyncio.create_task(self._feed_link(link), name="files of ssh"))
                while content := await link.read():
                    self._write(1, content)
                    await self._has_room.wait()
            finally:
                await link.close()
            await complaints
            ended = await execution.wait()
            self._exit(COULD_NOT_RUN_STATUS if ended.status is None else ended.status)
        except (P2prcError, OSError) as error:
            self._complain(str(error))
            self._exit(COULD_NOT_RUN_STATUS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.shield(self._settle(execution, started))

    async def _feed_link(self, link: Link) -> None:
        while content := await self._inflow.read():
            await link.write(content)
        await link.end_writing()

    async def _settle(self, execution: Execution, started: float) -> None:
        # Whoever hangs up has used what it has used.
        await execution.cancel()
        self._count(await execution.wait(), asyncio.get_running_loop().time() - started)

    async def _feed(self, execution: Execution) -> None:
        while content := await self._inflow.read():
            await execution.write(content)
        await execution.end_input()

    def _all_variables(self) -> dict[str, str]:
        asked = {} if self._channel is None else self._channel.get_environment()
        wanted = {
            name: value
            for name, value in asked.items()
            if _VARIABLE.fullmatch(name)
            and len(value) <= _VALUE_LIMIT_CHARACTERS
            and "\0" not in value
        }
        found = {**self._variables, **dict(list(wanted.items())[:_VARIABLES_LIMIT])}
        if self._terminal is not None and self._terminal_kind:
            found["TERM"] = self._terminal_kind
        return found

    def _write(self, channel: int, content: bytes) -> None:
        if self._channel is None or self._channel.is_closing():
            return
        if channel == 1 or self._terminal is not None:
            self._channel.write(content)
        else:
            self._channel.write_stderr(content)

    def _complain(self, reason: str) -> None:
        end = "\r\n" if self._terminal is not None else "\n"
        self._write(2, f"error: {reason}{end}".encode())

    def _exit(self, status: int) -> None:
        if self._channel is not None and not self._channel.is_closing():
            self._channel.exit(status)


def _terminal(columns: int, rows: int) -> Terminal:
    return Terminal(
        rows if 0 < rows <= _LARGEST_SIDE else 24, columns if 0 < columns <= _LARGEST_SIDE else 80
    )


@cache
def _file_server() -> str:
    return (Path(__file__).parent / "sftp_inside.py").read_text()
