"""Bring a plugin here from a git URL or a folder. Nothing of it runs, and nobody is asked.

Whoever wrote the repository is a stranger. It is fetched as a bare repository, by git with no
settings of anybody's and no way to ask for a password, within a time and a size; then its files
are written by us, from git's own list. So there is no checkout: no hooks, no filters, no
submodules, no links, and no name that leads out of the folder.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    InvalidInput,
    LimitExceeded,
    PathInvalid,
    PeerUnreachable,
    RuntimeMissing,
    TimedOut,
)
from p2prc.plugins.folder import PluginFolder, Source, check_name, read_plugin

FILES_LIMIT = 5000
SIZE_LIMIT_BYTES = 64 << 20
CLONE_LIMIT_BYTES = 128 << 20
FETCH_TIMEOUT_S = 120.0
_LISTING_LIMIT_BYTES = 4 << 20
_POLL_S = 0.05
_TRANSPORTS = "https:http:ssh:git:file"
_URL = re.compile(r"(?:https?|ssh|git|file)://\S+|[\w.-]+@[\w.-]+:\S+")
_ENTRY = re.compile(rb"(\d{6}) (\w+) ([0-9a-f]{40,64}) +(\d+|-)\t(.+)", re.DOTALL)
_ASKS = re.compile(
    r"terminal prompts disabled|could not read (?:Username|Password)|Authentication failed"
    r"|Permission denied|error: 40[13]",
    re.IGNORECASE,
)
_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was brought here; `was` is the source that it replaced."""

    name: str
    source: Source
    was: Source | None


def pull(plugins: PluginFolder, source: str, note: Callable[[str], None]) -> Pulled:
    """Bring it here. One that came from the same place before is replaced.

    Raises InvalidInput, FileUnknown, PathInvalid, LimitExceeded, PeerUnreachable, TimedOut.
    """
    name = name_of(source)
    check_name(name)
    told = shown(source)
    was = plugins.source_of(name)
    if name in plugins.names() and (was is None or was.source != told):
        whence = f" from {was.source}" if was else ""
        raise InvalidInput(
            f"a plugin `{name}`{whence} is here already", hint=f"`p2prc plugin rm {name}` first"
        )
    with _staging(plugins.path) as room:
        folder = room / name
        commit = _bring(source, folder, room, note)
        read_plugin(folder)
        _replace(folder, plugins.path / name, room)
    made = Source(told, commit)
    plugins.note_source(name, made)
    return Pulled(name, made, was)


def name_of(source: str) -> str:
    """Return what a plugin is called: the last word of where it comes from."""
    if not _URL.fullmatch(source):
        source = str(Path(source).expanduser().resolve())
    return re.split(r"[/:\\]", source.rstrip("/\\"))[-1].removesuffix(".git")


def shown(source: str) -> str:
    """Return the source without a password in it, and paths in full."""
    if _URL.fullmatch(source):
        return _CREDENTIALS.sub("", source)
    return str(Path(source).expanduser().absolute())


def remove(plugins: PluginFolder, name: str) -> None:
    """Delete it. Raises FileUnknown."""
    folder = plugins.at(name)
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder)
    plugins.note_source(name, None)


def _bring(source: str, folder: Path, room: Path, note: Callable[[str], None]) -> str | None:
    """Fill the folder; return the commit."""
    if _URL.fullmatch(source):
        return _clone(source, folder, room, note)
    if source.startswith("-") or "://" in source:
        raise InvalidInput(
            f"`{source[:80]}` is no URL that git fetches from",
            hint="https, ssh, git, file, or a path",
        )
    path = Path(source).expanduser().absolute()
    if (path / "site.yml").is_file():
        _copy(path, folder)
        return None
    if (path / ".git").exists() or (path / "objects").is_dir():
        return _clone(f"file://{path}", folder, room, note)
    if not path.is_dir():
        raise FileUnknown(f"there is no folder `{source[:200]}`", hint="give a path or a git URL")
    raise InvalidInput(
        f"`{path.name}` is no plugin: it has no `site.yml`",
        hint="a plugin is a folder with a playbook of that name",
    )


@contextmanager
def _staging(plugins: Path) -> Iterator[Path]:
    plugins.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".incoming-", dir=plugins) as room:
        yield Path(room)


def _replace(made: Path, final: Path, room: Path) -> None:
    if final.exists():
        final.rename(room / ".old")
    made.rename(final)


# -- a folder of this machine


def _copy(source: Path, folder: Path) -> None:
    room = Room(folder)
    for at, names, files in os.walk(source, followlinks=False):
        names[:] = sorted(name for name in names if name != ".git")
        for name in sorted([*files, *names]):
            path = Path(at) / name
            mode = path.lstat().st_mode
            inner = path.relative_to(source).as_posix()
            if stat.S_ISDIR(mode):
                continue
            if not stat.S_ISREG(mode):
                raise PathInvalid(f"`{inner}` is no plain file; a plugin has no links")
            room.claim(path.lstat().st_size)
            room.write(inner, path.read_bytes(), is_program=bool(mode & stat.S_IXUSR))


@dataclass(slots=True)
class Room:
    """A folder that takes so many files and bytes, and no name that leads out of it."""

    folder: Path
    files: int = 0
    size_bytes: int = 0

    def claim(self, size_bytes: int) -> None:
        """Count a file. Raises LimitExceeded."""
        self.files += 1
        self.size_bytes += size_bytes
        if self.files > FILES_LIMIT or self.size_bytes > SIZE_LIMIT_BYTES:
            raise LimitExceeded(
                f"the plugin is larger than {SIZE_LIMIT_BYTES >> 20} MiB or {FILES_LIMIT} files"
            )

    def write(self, name: str, content: bytes, *, is_program: bool = False) -> None:
        """Write one. Raises PathInvalid."""
        path = self.folder / checked_path(name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0)
            descriptor = os.open(path, flags, 0o755 if is_program else 0o644)
        except (FileExistsError, NotADirectoryError) as error:
            raise PathInvalid(f"`{name[:80]}` is there twice") from error
        except OSError as error:
            raise DiskFull(f"cannot write `{name[:80]}`: {error.strerror}") from error
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)


def checked_path(name: str) -> PurePosixPath:
    """Return a path that stays in its folder. Raises PathInvalid."""
    parts = name.split("/")
    if (
        len(name) > 1000
        or any(part in ("", ".", "..") or part.lower() == ".git" for part in parts)
        or "\\" in name
        or not name.isprintable()
    ):
        raise PathInvalid(f"a file is called {name[:80]!r}, which no plugin's may")
    return PurePosixPath(name)


# -- git


def _clone(url: str, folder: Path, room: Path, note: Callable[[str], None]) -> str:
    program = shutil.which("git")
    if program is None:
        raise RuntimeMissing("there is no git here", hint="install git, or give a folder's path")
    git = Git(program, room / "repository", room)
    git.fetch(url)
    commit = git.commit()
    target = Room(folder)
    folder.mkdir()
    for mode, kind, blob, size, name in git.files():
        if mode == b"160000":
            note(f"left out: `{name}`, a submodule")
            continue
        if kind != b"blob" or mode == b"120000":
            raise PathInvalid(f"`{name[:80]}` is no plain file; a plugin has no links")
        checked_path(name)
        target.claim(size)
        target.write(name, git.content(blob, size), is_program=mode == b"100755")
    return commit


@dataclass(frozen=True, slots=True)
class Git:
    """Git with nobody's settings, on one bare repository."""

    program: str
    repository: Path
    home: Path

    def fetch(self, url: str) -> None:
        """Fetch the newest commit alone. Raises what it cannot be fetched for."""
        words = [
            "-c", "core.hooksPath=/dev/null", "-c", "credential.helper=",
            "-c", "core.bigFileThreshold=1m", "-c", "fetch.fsckObjects=true",
            "clone", "--quiet", "--bare", "--depth=1", "--single-branch", "--no-tags",
            "--template=", "--", url, str(self.repository),
        ]  # fmt: skip
        errors = self.home / "errors"
        with errors.open("wb") as said:
            # `ulimit` counts 512 bytes in `sh`; it holds for every process that git starts.
            running = subprocess.Popen(
                ["sh", "-c", f'ulimit -f {CLONE_LIMIT_BYTES // 512}; exec "$@"', "sh",
                 self.program, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said,
                env=self._environment(os.environ), start_new_session=True, cwd=self.home,
            )  # fmt: skip
        largest = 0
        try:
            largest = self._watch(running)
        finally:
            if running.poll() is None:
                os.killpg(running.pid, 9)
                running.wait()
        if running.returncode != 0 and largest > CLONE_LIMIT_BYTES // 2:
            # A process of git's met the bound of its files, and git says less than that.
            raise _too_large()
        if running.returncode != 0:
            raise _failure(url, errors.read_text(errors="replace"))

    def commit(self) -> str:
        """Return the commit that was fetched."""
        told = self._output(["rev-parse", "--verify", "--end-of-options", "HEAD^{commit}"])
        return told.decode().strip()

    def files(self) -> Iterator[tuple[bytes, bytes, str, int, str]]:
        """Yield mode, kind, id, size in bytes and path of everything in the commit."""
        listing = self._output(["ls-tree", "-r", "-l", "-z", "--full-tree", "HEAD"])
        for entry in filter(None, listing.split(b"\0")):
            found = _ENTRY.fullmatch(entry)
            if found is None:
                raise PathInvalid("git's list of files cannot be read")
            mode, kind, blob, size, name = found.groups()
            try:
                text = name.decode()
            except UnicodeDecodeError as error:
                raise PathInvalid(
                    f"a file is called {name[:80]!r}, which no plugin's may"
                ) from error
            yield mode, kind, blob.decode(), 0 if size == b"-" else int(size), text

    def content(self, blob: str, size_bytes: int) -> bytes:
        """Return the bytes of a file."""
        return self._output(["cat-file", "blob", blob], limit_bytes=size_bytes)

    def _output(self, words: list[str], *, limit_bytes: int = _LISTING_LIMIT_BYTES) -> bytes:
        """Return what git prints. A tree can name itself many times over, so it is bounded."""
        with subprocess.Popen(
            [self.program, "--git-dir", str(self.repository), *words],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            env=self._environment(os.environ), cwd=self.home,
        ) as running:  # fmt: skip
            assert running.stdout is not None  # it was asked for
            content = running.stdout.read(limit_bytes + 1)
            if len(content) > limit_bytes:
                running.kill()
                raise LimitExceeded(f"the plugin has more than {FILES_LIMIT} files")
        if running.returncode != 0:
            raise InvalidInput("the repository is empty or damaged")
        return content

    def _watch(self, running: subprocess.Popen[bytes]) -> int:
        """Wait for its end; return the most bytes that were seen on disk."""
        ends_at = time.monotonic() + FETCH_TIMEOUT_S
        largest = 0
        while running.poll() is None:
            if time.monotonic() > ends_at:
                raise TimedOut(f"the repository did not come within {FETCH_TIMEOUT_S:.0f} s")
            largest = max(largest, _size(self.repository))
            if largest > CLONE_LIMIT_BYTES:
                raise _too_large()
            try:
                running.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                continue
        return largest

    def _environment(self, mine: Mapping[str, str]) -> dict[str, str]:
        kept = ("PATH", "HOME", "LANG", "SSH_AUTH_SOCK", "HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY",
                "https_proxy", "http_proxy", "no_proxy", "SSL_CERT_FILE", "GIT_SSL_CAINFO",
                "SYSTEMROOT")  # fmt: skip
        return {
            **{name: mine[name] for name in kept if name in mine},
            "LC_ALL": "C",
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_TERMINAL_PROMPT": "0",
            "GIT_ASKPASS": "false",
            "SSH_ASKPASS": "false",
            "GIT_SSH_COMMAND": "ssh -o BatchMode=yes -o ConnectTimeout=20",
            "GIT_ALLOW_PROTOCOL": _TRANSPORTS,
        }


def _too_large() -> LimitExceeded:
    return LimitExceeded(f"the repository is larger than {CLONE_LIMIT_BYTES >> 20} MiB")


def _failure(url: str, said: str) -> Exception:
    told = shown(url)
    lines = [line for line in said.splitlines() if line.startswith(("fatal:", "error:"))]
    last = _CREDENTIALS.sub("", lines[-1].partition(": ")[2]) if lines else "git could not fetch it"
    if _ASKS.search(said):
        return InvalidInput(
            f"{told} cannot be read without a password, and nobody is asked for one",
            hint="clone it yourself, then `p2prc plugin pull PATH`",
        )
    if "file size limit" in said.lower() or "File too large" in said:
        return _too_large()
    return PeerUnreachable(
        f"{told} cannot be fetched: {last[:200]}", hint="see whether the URL is right"
    )


def _size(folder: Path) -> int:
    found = 0
    for at, _names, files in os.walk(folder):
        for name in files:
            try:
                found += (Path(at) / name).lstat().st_size
            except OSError:
                continue
    return found
