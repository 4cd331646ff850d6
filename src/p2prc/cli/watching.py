"""`--watch`: show an answer again and again until Ctrl-C."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from p2prc.cli.render.output import write, write_json_line

PERIOD_S = 1.0
_CLEAR = "\x1b[H\x1b[2J"


def watch(ask: Callable[[], Any], render: Callable[[Any], str], *, as_json: bool) -> None:
    """Ask once a second; print what changed. On a terminal the new answer replaces the old."""
    shown: object = None
    while True:
        answer = ask()
        if answer != shown:
            shown = answer
            if as_json:
                write_json_line(answer)
            else:
                write((_CLEAR if sys.stdout.isatty() else "") + render(answer))
        time.sleep(PERIOD_S)
