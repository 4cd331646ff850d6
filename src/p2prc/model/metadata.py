"""What owners tell about their nodes in words of their own: bounded, printable, KEY=VALUE."""

from __future__ import annotations

import re
from collections.abc import Mapping

from p2prc.errors import SettingInvalid

METADATA_ENTRIES_LIMIT = 32
METADATA_LIMIT_BYTES = 2048
VALUE_LIMIT = 200
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def check_metadata(metadata: Mapping[str, str]) -> None:
    """Raise SettingInvalid, saying what is too much or malformed."""
    for key, value in metadata.items():
        if _KEY.fullmatch(key) is None:
            raise SettingInvalid(
                f"`{key[:80]}` is no key", hint="letters, digits, `.`, `_` and `-`, at most 63"
            )
        if len(value) > VALUE_LIMIT or not value.isprintable():
            raise SettingInvalid(
                f"{key}: a value is one line of at most {VALUE_LIMIT} characters",
                hint="see what is told now: `p2prc metadata`",
            )
    if len(metadata) > METADATA_ENTRIES_LIMIT:
        raise SettingInvalid(
            f"a node tells at most {METADATA_ENTRIES_LIMIT} values",
            hint="remove one: `p2prc metadata KEY=`",
        )
    size = sum(len(key.encode()) + len(value.encode()) for key, value in metadata.items())
    if size > METADATA_LIMIT_BYTES:
        raise SettingInvalid(
            f"{size} bytes of metadata, at most {METADATA_LIMIT_BYTES} are told",
            hint="remove some: `p2prc metadata KEY=`",
        )
