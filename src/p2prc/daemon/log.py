"""The node's own log: lines with fields for a person, kept in the home, bounded."""

from __future__ import annotations

import logging
import sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

from p2prc.errors import HomeUnusable

LOG_LIMIT_BYTES = 4 << 20
_PLAIN = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_TAIL_BYTES = 1 << 20


class FieldFormatter(logging.Formatter):
    """A constant phrase, then its fields: `peer lost peer=3f… reason='…'`."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        line = super().format(record)
        fields = {key: value for key, value in record.__dict__.items() if key not in _PLAIN}
        return line + "".join(f" {key}={_shown(value)}" for key, value in sorted(fields.items()))


def set_up_logging(path: Path, *, is_verbose: bool, on_terminal: bool) -> None:
    """Log to the file, and to standard error where somebody looks. Raises HomeUnusable."""
    try:
        handler: logging.Handler = RotatingFileHandler(
            path, maxBytes=LOG_LIMIT_BYTES, backupCount=1, encoding="utf-8"
        )
    except OSError as error:
        raise HomeUnusable(f"cannot write the log `{path}`: {error.strerror}") from error
    handlers = [handler]
    if on_terminal:
        handlers.append(logging.StreamHandler(sys.stderr))
    form = FieldFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    for each in handlers:
        each.setFormatter(form)
    logging.basicConfig(
        level=logging.DEBUG if is_verbose else logging.INFO, handlers=handlers, force=True
    )
    for noisy in ("asyncio", "uvicorn", "iroh"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def last_lines(path: Path, count: int) -> list[str]:
    """Return the last lines of the log, oldest first."""
    try:
        with path.open("rb") as log:
            log.seek(max(0, path.stat().st_size - _TAIL_BYTES))
            text = log.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return []
    return text.splitlines()[-count:] if count > 0 else []


def _shown(value: object) -> str:
    # What a peer sent must not forge lines or move the cursor.
    text = str(value)
    return text if text.isalnum() else repr(text[:500])
