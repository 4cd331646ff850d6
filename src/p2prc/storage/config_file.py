"""The owner's `config.toml`: one value changed at a time, everything else left as it was.

The only importer of tomlkit, which keeps comments and order.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

from p2prc.errors import SettingInvalid
from p2prc.storage.disk import write_private


def set_in_config(path: Path, key: str, text: str) -> None:
    """Write one setting; a list of ids, with commas between, becomes a list.

    Raises SettingInvalid when the file cannot be read as TOML, DiskFull.
    """
    # Settings change seldom: a node does without its four megabytes until then.
    import tomlkit  # noqa: PLC0415
    from tomlkit.exceptions import TOMLKitError  # noqa: PLC0415

    try:
        document = tomlkit.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        document = tomlkit.document()
    except (OSError, UnicodeDecodeError, TOMLKitError) as error:
        raise SettingInvalid(f"cannot change `{path}`: {error}") from error
    *tables, name = key.split(".")
    place: MutableMapping[str, Any] = document
    for table in tables:
        if not isinstance(place.get(table), MutableMapping):
            place[table] = tomlkit.table()
        place = place[table]
    place[name] = _value(text)
    try:
        write_private(path, tomlkit.dumps(document).encode())
    except OSError as error:
        raise SettingInvalid(f"cannot write `{path}`: {error.strerror}") from error


def _value(text: str) -> object:
    if "," in text:
        return [part.strip() for part in text.split(",") if part.strip()]
    return int(text) if text.isascii() and text.isdigit() and len(text) < 18 else text
