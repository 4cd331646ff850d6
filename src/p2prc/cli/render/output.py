"""Data goes to standard output: as JSON for programs, as text for people."""

from __future__ import annotations

import sys

import msgspec


def write_json(answer: object) -> None:
    """Print one JSON document, indented."""
    encoded = msgspec.json.format(msgspec.json.encode(answer), indent=2)
    write(encoded.decode())


def write_json_line(answer: object) -> None:
    """Print one JSON document on one line, for answers that go on."""
    write(msgspec.json.encode(answer).decode())


def write(text: str) -> None:
    """Print some lines; a letter that the terminal lacks becomes a question mark."""
    encoding = sys.stdout.encoding or "utf-8"
    print(text.encode(encoding, "replace").decode(encoding), flush=True)
