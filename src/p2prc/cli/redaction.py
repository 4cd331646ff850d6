"""Take out of a text what a stranger who reads a bug report need not know.

Addresses, tickets, names of nodes and of the home folder are replaced, each always by the same
word, so that the report can still be followed. Ids of nodes are keys and name nobody; they are
shortened.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_TICKET = re.compile(r"\b(?:p2prc|shown)[0-9][a-z2-7]{20,}", re.IGNORECASE)
_ID = re.compile(r"\b([0-9a-f]{10})[0-9a-f]{54}\b")
_IPV4 = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)


class Redaction:
    """Replaces the same thing by the same word, over all texts of one report."""

    def __init__(self, *, home: str, names: Iterable[str]) -> None:
        self._home = home
        self._words: dict[str, str] = {}
        # Longer names first: one may be a part of another.
        ordered = sorted({name for name in names if name}, key=lambda name: (-len(name), name))
        for number, name in enumerate(ordered, 1):
            self._words[name] = f"node-{number}"
        self._names = [
            (re.compile(rf"(?<![\w-]){re.escape(name)}(?![\w-])"), self._words[name])
            for name in ordered
        ]

    def of(self, text: str) -> str:
        """Return the text without what identifies people and places."""
        text = _TICKET.sub("<ticket>", text)
        text = _ID.sub(r"\1...", text)
        text = text.replace(self._home, "<home>")
        text = _IPV4.sub(self._address, text)
        text = _IPV6.sub(self._address, text)
        for pattern, word in self._names:
            text = pattern.sub(word, text)
        return text

    def _address(self, match: re.Match[str]) -> str:
        try:
            address = ipaddress.ip_address(match[0])
        except ValueError:
            return match[0]
        if address.is_loopback or address.is_unspecified:
            return match[0]
        kind = "private" if not address.is_global else "public"
        return self._words.setdefault(
            match[0], f"<{kind}-{address.version}-{len(self._words) + 1}>"
        )
