"""The door to uv: it resolves and installs wheels, and never runs one.

uv gets an environment of its own, no configuration file, no leave to download interpreters or to
build packages, and a time limit. The few variables that are passed on are the owner's: the way
to the package registry, and where the cache is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import DiskFull, EnvironmentBroken, MachineCannot

Progress = Callable[[str], None]

_OWNERS_VARIABLES = (
    "HOME",
    "XDG_CACHE_HOME",
    "UV_CACHE_DIR",
    "UV_DEFAULT_INDEX",
    "UV_INDEX_URL",
    "UV_NATIVE_TLS",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "ALL_PROXY",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "all_proxy",
    "http_proxy",
    "https_proxy",
    "no_proxy",
)
_ALWAYS = ("--no-config", "--no-python-downloads", "--no-progress", "--color", "never")
_LAST_LINES = 6
_LINE_LIMIT_BYTES = 1 << 16
_OUTPUT_LIMIT_BYTES = 32 << 20
_GOODBYE_S = 5.0


@dataclass(frozen=True, slots=True)
class Registry:
    """Where packages come from. Empty values mean the owner's usual ones."""

    index: str = ""
    cache: Path | None = None


def silent(_: str) -> None:
    """Tell nobody."""


async def run_uv(
    words: Sequence[str],
    *,
    registry: Registry,
    limit_s: float,
    stdin: bytes = b"",
    progress: Progress = silent,
) -> bytes:
    """Run `uv pip …` and return what it prints; each line of its errors goes to `progress`.

    Raises EnvironmentBroken with uv's last lines, DiskFull, or MachineCannot without uv. When
    cancelled, uv is killed and reaped.
    """
    process = await _start([_find_uv(), "pip", *words, *_ALWAYS, *_options(registry)])
    said: list[str] = []
    try:
        async with asyncio.timeout(limit_s):
            async with asyncio.TaskGroup() as group:
                group.create_task(_feed(process, stdin))
                printed = group.create_task(_collect(process))
                group.create_task(_listen(process, said, progress))
            status = await process.wait()
    except TimeoutError as error:
        raise EnvironmentBroken(f"uv did not finish within {limit_s:g} s") from error
    except BaseExceptionGroup as group:
        expected, bugs = group.split(EnvironmentBroken)
        if expected is None or bugs is not None:
            raise
        raise EnvironmentBroken(str(expected.exceptions[0])) from group
    finally:
        await _put_down(process)
    if status != 0:
        raise _failure(said)
    return printed.result()


async def _start(argv: list[str]) -> asyncio.subprocess.Process:
    try:
        return await asyncio.create_subprocess_exec(
            *argv,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_variables(os.environ),
            limit=_LINE_LIMIT_BYTES,
            # Tenants may be another user than the node: they must be able to read it all.
            umask=0o022,
            start_new_session=True,
        )
    except OSError as error:
        raise MachineCannot(f"uv does not start: {error.strerror}") from error


async def _feed(process: asyncio.subprocess.Process, content: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        process.stdin.write(content)
        await process.stdin.drain()
    process.stdin.close()


async def _collect(process: asyncio.subprocess.Process) -> bytes:
    assert process.stdout is not None
    content = bytearray()
    while part := await process.stdout.read(_LINE_LIMIT_BYTES):
        content += part
        if len(content) > _OUTPUT_LIMIT_BYTES:
            raise EnvironmentBroken("uv prints more than a lock can be")
    return bytes(content)


async def _listen(process: asyncio.subprocess.Process, said: list[str], progress: Progress) -> None:
    assert process.stderr is not None
    while True:
        try:
            line = await process.stderr.readline()
        except ValueError:
            continue  # a line longer than any that is worth reading
        if not line:
            return
        text = line.decode(errors="replace").rstrip()
        if text:
            said.append(text)
            del said[:-_LAST_LINES]
            progress(text)


async def _put_down(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        async with asyncio.timeout(_GOODBYE_S):
            await process.wait()
    # The transport has no public way to close pipes that were not read to their end.
    transport = getattr(process, "_transport", None)
    if transport is not None:
        transport.close()


def _find_uv() -> str:
    """Return the uv that was installed with us, else the system's."""
    with contextlib.suppress(ImportError, FileNotFoundError):
        import uv  # noqa: PLC0415 (only nodes that build need it)

        return uv.find_uv_bin()
    if found := shutil.which("uv"):
        return found
    raise MachineCannot("uv is not installed", hint="install it: `pip install uv`")


def _options(registry: Registry) -> list[str]:
    options = ["--default-index", registry.index] if registry.index else []
    if registry.cache is not None:
        options += ["--cache-dir", str(registry.cache)]
    return options


def _variables(owners: Mapping[str, str]) -> dict[str, str]:
    kept = {name: owners[name] for name in _OWNERS_VARIABLES if name in owners}
    return {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **kept}


def _failure(said: list[str]) -> MachineCannot:
    text = "; ".join(line.strip() for line in said)[-1000:] or "uv failed without a word"
    if "No space left on device" in text:
        return DiskFull(f"the environment does not fit on the disk: {text}")
    return EnvironmentBroken(f"the environment cannot be made: {text}")
