"""A plugin as it lies on disk: `site.yml`, and maybe `hosts`, `ports.json`, `description.txt`."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import msgspec

from p2prc.errors import FileUnknown, InvalidInput
from p2prc.plugins.go_template import ports_needed

PORTS_LIMIT = 64
_FILE_LIMIT_BYTES = 1 << 20
_DESCRIPTION_LIMIT = 2000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", re.ASCII)


class Source(msgspec.Struct, frozen=True):
    """Where a plugin came from: a URL or a path, and the commit where it has one."""

    source: str
    commit: str | None = None


@dataclass(frozen=True, slots=True)
class Plugin:
    """A plugin that can be run; `site` is its playbook before ports are filled in."""

    name: str
    folder: Path
    description: str
    ports: int
    site: str

    @property
    def has_hosts(self) -> bool:
        """Whether it brings an inventory of its own."""
        return (self.folder / "hosts").is_file()


@dataclass(frozen=True, slots=True)
class PluginFolder:
    """All plugins of a home: a folder each, under its name."""

    path: Path

    def names(self) -> list[str]:
        """Return what is here, also what is broken."""
        try:
            entries = sorted(entry.name for entry in self.path.iterdir())
        except FileNotFoundError:
            return []
        return [name for name in entries if _NAME.fullmatch(name) and (self.path / name).is_dir()]

    def at(self, name: str) -> Path:
        """Return the folder of one. Raises InvalidInput, FileUnknown."""
        check_name(name)
        folder = self.path / name
        if not folder.is_dir():
            raise FileUnknown(f"no plugin is called `{name}`", hint="see `p2prc plugin list`")
        return folder

    def source_of(self, name: str) -> Source | None:
        """Return where it came from; None for one that somebody put here by hand."""
        try:
            return msgspec.json.decode((self._sources / f"{name}.json").read_bytes(), type=Source)
        except (OSError, msgspec.DecodeError):
            return None

    def note_source(self, name: str, source: Source | None) -> None:
        """Remember, or with None forget, where it came from."""
        path = self._sources / f"{name}.json"
        if source is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, exist_ok=True)
        path.write_bytes(msgspec.json.encode(source))

    @property
    def _sources(self) -> Path:
        return self.path / ".sources"


def check_name(name: str) -> None:
    """Raise InvalidInput for what is no name of a folder."""
    if _NAME.fullmatch(name) is None:
        raise InvalidInput(
            f"`{name[:80]}` is no plugin's name: letters, digits, `.`, `_` and `-` alone",
            hint="see `p2prc plugin list`",
        )


def read_plugin(folder: Path) -> Plugin:
    """Read it. Raises InvalidInput with the file that is missing or broken."""
    site = _text(folder, "site.yml")
    if site is None:
        raise InvalidInput(
            f"`{folder.name}` is no plugin: it has no `site.yml`",
            hint="a plugin is a folder with a playbook of that name",
        )
    ports = _ports(folder)
    if (needed := ports_needed(site)) > ports:
        raise InvalidInput(
            f"`{folder.name}`: `site.yml` uses {needed} ports, and `ports.json` asks for {ports}",
            hint=f'write `{{"NumOfPorts": {needed}}}` into `ports.json`',
        )
    description = (_text(folder, "description.txt") or "").strip()
    return Plugin(folder.name, folder, description[:_DESCRIPTION_LIMIT], ports, site)


def _ports(folder: Path) -> int:
    text = _text(folder, "ports.json")
    if text is None:
        return 0
    wrong = InvalidInput(
        f"`{folder.name}`: `ports.json` is broken", hint='write `{"NumOfPorts": 1}`, for one port'
    )
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise wrong from error
    count = fields.get("NumOfPorts", 0) if isinstance(fields, dict) else None
    if not isinstance(count, int) or isinstance(count, bool) or not 0 <= count <= PORTS_LIMIT:
        raise wrong
    return count


def _text(folder: Path, name: str) -> str | None:
    """Return a file's text; None where there is none. Links are not followed."""
    path = folder / name
    if not path.is_symlink() and not path.exists():
        return None
    broken = InvalidInput(f"`{folder.name}`: `{name}` cannot be read as a file of text")
    if path.is_symlink() or not path.is_file():
        raise broken
    try:
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
        if len(content) > _FILE_LIMIT_BYTES:
            raise broken
        return content.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise broken from error
