"""What the tasks of one lease share: entered before the first, kept for all, left at the end.

A lease with surroundings has sessions, so what an entering command leaves in the background goes
on. Between tasks everything is deleted from the working folder but what was there after entering.
"""

from __future__ import annotations

import asyncio
import io
import logging
import math
import os
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from p2prc.errors import JobInvalid, P2prcError
from p2prc.model.surroundings import WORKING_FOLDER_PLACE, Surroundings, WorkFile
from p2prc.model.tree import check_path
from p2prc.model.workload import Command, Outcome
from p2prc.protocol.jobs.status_lines import (
    FailText,
    Progress,
    SetVariable,
    StatusReader,
    StatusText,
    UnsetVariable,
)
from p2prc.runtime.port import OutputChunk, Sandbox
from p2prc.storage.removal import empty_folder

LEAVE_LIMIT_S = 30.0
"""All leaving commands of a lease together: the machine is its owner's."""
TOLD_EVERY_S = 1.0
VARIABLES_LIMIT = 1000
VARIABLES_LIMIT_BYTES = 256 * 1024

log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class StatusListener:
    """Hears what a command says to us in its output."""

    def __init__(self, tell: Tell, now: Callable[[], float]) -> None:
        self.failure = ""
        self.changes: list[SetVariable | UnsetVariable] = []
        self._tell = tell
        self._now = now
        self._told = ""
        self._told_at = -math.inf
        self._percent = ""
        self._text = ""
        self._readers = {1: StatusReader(), 2: StatusReader()}

    def take(self, chunk: OutputChunk) -> None:
        """Take a piece of output, of either stream."""
        if (reader := self._readers.get(chunk.channel)) is not None:
            for line in reader.feed(chunk.content):
                self._hear(line)
            self._say()

    def finish(self) -> None:
        """Take the end of the output."""
        for reader in self._readers.values():
            for line in reader.finish():
                self._hear(line)
        self._say()

    def _hear(self, line: Progress | StatusText | FailText | SetVariable | UnsetVariable) -> None:
        match line:
            case FailText():
                self.failure = line.text
            case SetVariable() | UnsetVariable():
                if len(self.changes) < VARIABLES_LIMIT:
                    self.changes.append(line)
            case Progress():
                self._percent = f"{line.percent:.0f} %"
            case StatusText():
                self._text = line.text

    def _say(self) -> None:
        words = " · ".join(word for word in (self._percent, self._text) if word)
        if words != self._told and self._now() - self._told_at >= TOLD_EVERY_S:
            self._told, self._told_at = words, self._now()
            self._tell(words)


@dataclass(frozen=True, slots=True)
class Played:
    """How one command in the place ended, and what it said to us."""

    outcome: Outcome
    heard: StatusListener


Play = Callable[[Sequence[str], Mapping[str, str], float | None], Awaitable[Played]]
"""Run one command in the place, to its end."""


@dataclass(slots=True)
class Entered:
    """What was entered in a place, in order; the last one may have failed with `failure`."""

    surroundings: list[Surroundings] = field(default_factory=list)
    variables: dict[str, str] = field(default_factory=dict)
    kept: frozenset[str] = frozenset()
    failure: Outcome | None = None
    leaving: asyncio.Timeout | None = None

    def cut_leaving(self) -> None:
        """End what leaves, at once: the owner wants the machine."""
        if self.leaving is not None and not self.leaving.expired():
            self.leaving.reschedule(asyncio.get_running_loop().time())


async def enter(sandbox: Sandbox, wanted: Sequence[Surroundings], play: Play) -> Entered:
    """Enter one after another; stop at the first that fails. Raises P2prcError."""
    entered = Entered()
    for each in wanted:
        entered.surroundings.append(each)
        entered.variables.update(
            {name: placed(text, sandbox) for name, text in each.variables.items()}
        )
        await put_files(sandbox, (), each.files)
        if each.enter is None:
            continue
        argv = [placed(text, sandbox) for text in each.enter.argv]
        played = await play(argv, entered.variables, each.enter.timeout_s)
        _change(entered.variables, played.heard.changes)
        if not played.outcome.is_success:
            reason = f"entering `{each.name[:100]}`: {played.outcome.reason}"[:2000]
            entered.failure = msgspec.structs.replace(played.outcome, reason=reason)
            return entered
    entered.kept = await asyncio.to_thread(_names, sandbox)
    return entered


async def leave(sandbox: Sandbox, entered: Entered, play: Play) -> None:
    """Leave in reverse order, within a limit; what fails is logged and changes nothing."""
    try:
        async with asyncio.timeout(LEAVE_LIMIT_S) as entered.leaving:
            for each in reversed(entered.surroundings):
                if each.leave is None:
                    continue
                argv = [placed(text, sandbox) for text in each.leave.argv]
                played = await play(argv, entered.variables, each.leave.timeout_s)
                if not played.outcome.is_success:
                    log.info("leaving failed", extra={"reason": played.outcome.reason})
    except TimeoutError:
        log.info("leaving took too long", extra={"limit_s": LEAVE_LIMIT_S})
    except P2prcError as error:
        log.info("leaving failed", extra={"reason": error.message})
    finally:
        entered.leaving = None


async def clear(sandbox: Sandbox, entered: Entered | None) -> None:
    """Delete what the last task left in the working folder; what was entered stays."""
    kept = frozenset[str]() if entered is None else entered.kept
    work = sandbox.spec.folder / "work"
    for problem in await asyncio.to_thread(empty_folder, work, kept=kept):
        log.warning("a task's leftover stays", extra={"reason": problem})


def with_surroundings(command: Command, entered: Entered | None, sandbox: Sandbox) -> Command:
    """Return the command as it runs here: the working folder's name and all variables in it."""
    if not command.tells_status:
        return command
    around = {} if entered is None else entered.variables
    own = {name: placed(text, sandbox) for name, text in command.variables.items()}
    return msgspec.structs.replace(
        command,
        argv=tuple([placed(text, sandbox) for text in command.argv]),
        variables={**around, **own},
    )


async def put_files(
    sandbox: Sandbox, new_folders: Sequence[str], files: Sequence[WorkFile]
) -> None:
    """Make folders and write files in the working folder. Raises PathInvalid, DiskFull."""
    if not new_folders and not files:
        return
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for folder in new_folders:
            check_path(folder)
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        for file in files:
            check_path(file.path)
            content = placed(file.content, sandbox).encode()
            entry = tarfile.TarInfo(file.path)
            entry.size, entry.mode = len(content), 0o755 if file.is_executable else 0o644
            tar.addfile(entry, io.BytesIO(content))
    await sandbox.put_files(_whole(packed.getvalue()))


def placed(text: str, sandbox: Sandbox) -> str:
    """Return the text with the working folder's name where its place is."""
    return text.replace(WORKING_FOLDER_PLACE, sandbox.work_path)


async def _whole(content: bytes) -> AsyncIterator[bytes]:
    yield content


def _names(sandbox: Sandbox) -> frozenset[str]:
    return frozenset(os.listdir(sandbox.spec.folder / "work"))  # noqa: PTH208


def _change(variables: dict[str, str], changes: Sequence[SetVariable | UnsetVariable]) -> None:
    for change in changes:
        if isinstance(change, SetVariable):
            variables[change.name] = change.value
        else:
            variables.pop(change.name, None)
    size_bytes = sum(len(name) + len(value) for name, value in variables.items())
    if len(variables) > VARIABLES_LIMIT or size_bytes > VARIABLES_LIMIT_BYTES:
        raise JobInvalid("the surroundings set too many variables, or too long ones")
