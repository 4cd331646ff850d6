"""Small pictures on a terminal: as the terminal's own images where it has them, else as letters.

Pictures come here as bare pixels, so that nothing that strangers wrote is decoded by us or by the
terminal. Kitty's protocol: https://sw.kovidgoyal.net/kitty/graphics-protocol/ ; iTerm2's:
https://iterm2.com/documentation-images.html .
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from p2prc.errors import InvalidInput

Kind = Literal["kitty", "iterm2", "blocks"]
PIXELS_LIMIT = 512
"""Of either side."""
IMAGE_PIXELS = (320, 180)
_COLUMNS = 40
_CHUNK_LETTERS = 4096
_HEAD = re.compile(rb"P6[ \n]([0-9]{1,3})[ \n]([0-9]{1,3})[ \n]255\n")
_ITERM_ALIKE = ("iTerm.app", "WezTerm", "mintty")
_UPPER_HALF = "\u2580"


@dataclass(frozen=True, slots=True)
class Picture:
    """Red, green and blue bytes, row by row."""

    width: int
    height: int
    pixels: bytes


def read_ppm(content: bytes) -> Picture:
    """Read a picture in the form PPM, as a sandbox wrote it. Raises InvalidInput."""
    head = _HEAD.match(content)
    if head is None:
        raise InvalidInput("not a small picture")
    width, height = int(head[1]), int(head[2])
    pixels = content[head.end() :]
    is_small = 1 <= width <= PIXELS_LIMIT and 1 <= height <= PIXELS_LIMIT
    if not is_small or len(pixels) != width * height * 3:
        raise InvalidInput("not a small picture, or cut off")
    return Picture(width, height, pixels)


def kind_of(variables: Mapping[str, str], *, is_asked: bool) -> Kind | None:
    """Return how this terminal shows pictures; letters only where somebody asked for pictures."""
    terminal, program = variables.get("TERM", ""), variables.get("TERM_PROGRAM", "")
    # What sits between swallows the images of the terminal around it.
    is_within = "TMUX" in variables or terminal.startswith(("screen", "tmux"))
    if not is_within:
        if "KITTY_WINDOW_ID" in variables or "kitty" in terminal or "ghostty" in terminal:
            return "kitty"
        if program in _ITERM_ALIKE:
            return "iterm2"
    has_colour = variables.get("COLORTERM") in ("truecolor", "24bit")
    return "blocks" if is_asked and has_colour and not variables.get("NO_COLOR") else None


def pixels_for(kind: Kind, columns: int) -> tuple[int, int]:
    """Return the most pixels, wide and high, that are of use on a terminal so wide."""
    if kind == "blocks":
        width = max(1, min(_COLUMNS, columns))
        return width, width
    return IMAGE_PIXELS


def drawn(picture: Picture, kind: Kind, columns: int) -> str:
    """Return what shows the picture, to be written as it is."""
    wide = max(1, min(_COLUMNS, columns))
    match kind:
        case "kitty":
            return _kitty(picture, wide)
        case "iterm2":
            content = _png(picture)
            encoded = base64.b64encode(content).decode()
            head = f"inline=1;width={wide};size={len(content)}"
            return f"\x1b]1337;File={head}:{encoded}\x07"
        case "blocks":
            return _blocks(picture)


def _kitty(picture: Picture, columns: int) -> str:
    encoded = base64.b64encode(picture.pixels).decode()
    pieces = [encoded[at : at + _CHUNK_LETTERS] for at in range(0, len(encoded), _CHUNK_LETTERS)]
    head = f"a=T,q=2,f=24,s={picture.width},v={picture.height},c={columns},"
    found = []
    for number, piece in enumerate(pieces):
        more = int(number + 1 < len(pieces))
        found.append(f"\x1b_G{head if number == 0 else ''}m={more};{piece}\x1b\\")
    return "".join(found)


def _png(picture: Picture) -> bytes:
    row_bytes = picture.width * 3
    rows = b"".join(
        b"\0" + picture.pixels[at : at + row_bytes]
        for at in range(0, len(picture.pixels), row_bytes)
    )

    def part(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    head = struct.pack(">IIBBBBB", picture.width, picture.height, 8, 2, 0, 0, 0)
    body = part(b"IHDR", head) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def _blocks(picture: Picture) -> str:
    """Two pixels a letter: the upper one is its colour, the lower one what is behind it."""
    lines = []
    for row in range(0, picture.height - 1, 2) or (0,):
        letters = []
        for column in range(picture.width):
            red, green, blue = _pixel(picture, row, column)
            below = _pixel(picture, min(row + 1, picture.height - 1), column)
            letters.append(
                f"\x1b[38;2;{red};{green};{blue}m"
                f"\x1b[48;2;{below[0]};{below[1]};{below[2]}m{_UPPER_HALF}"
            )
        lines.append("".join(letters) + "\x1b[0m")
    return "\n".join(lines)


def _pixel(picture: Picture, row: int, column: int) -> tuple[int, int, int]:
    at = (row * picture.width + column) * 3
    return picture.pixels[at], picture.pixels[at + 1], picture.pixels[at + 2]
