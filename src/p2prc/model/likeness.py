"""Names like the one that was typed: what to say when nothing is called so."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

_SHOWN = 2
_COMPARED = 1000
"""More names than this are not compared: each costs some microseconds, and peers choose them."""
_LONGEST = 80


def guess(typed: str, names: Iterable[str], hint: str) -> str:
    """Return the hint with the names before it that may have been meant, where there are any."""
    known = sorted({name for name in names if 0 < len(name) <= _LONGEST})[:_COMPARED]
    plain = {name.lower(): name for name in known}
    near = difflib.get_close_matches(typed[:_LONGEST].lower(), plain, n=_SHOWN, cutoff=0.6)
    if not near:
        return hint
    return f"did you mean {' or '.join(f'`{plain[name]}`' for name in near)}? {hint}".strip()
