"""The program `p2prc`, also as `python -m p2prc`."""

from __future__ import annotations

import os
import signal
from typing import NoReturn

_INTERRUPTED_STATUS = 130


def main() -> NoReturn:
    """Begin. Ctrl-C while the command line is still being loaded ends it without a word."""
    has_default = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if has_default:
        signal.signal(signal.SIGINT, lambda *_: os._exit(_INTERRUPTED_STATUS))
    from p2prc.cli.main import main as run  # noqa: PLC0415 - loading it is what takes the time

    if has_default:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    run()


if __name__ == "__main__":
    main()
