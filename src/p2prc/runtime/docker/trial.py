"""Try what the container engine can do, in a process of its own, and end what is left of old.

Run as `python -m p2prc.runtime.docker.trial HOME SOCKET [--spare]`; prints what came of it as JSON.
What it loads to do so is gone with it: a node that lends no container stays as small as without
an engine.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import msgspec

from p2prc.errors import P2prcError
from p2prc.runtime.docker.adapter import DockerRuntime
from p2prc.runtime.docker.late import SPARE, Trial


async def try_out(home: Path, socket: Path, *, spares: bool = False) -> Trial:
    """Return what works, or why nothing does.

    Before that every container of an earlier life of this home is ended, unless they are spared.
    """
    runtime = DockerRuntime(home, socket)
    try:
        if not spares:
            await runtime.adopt(())
        return Trial(await runtime.probe(), runtime.trouble)
    except P2prcError as error:
        return Trial((), error.message)
    finally:
        await runtime.close()


if __name__ == "__main__":
    found = try_out(Path(sys.argv[1]), Path(sys.argv[2]), spares=SPARE in sys.argv[3:])
    print(msgspec.json.encode(asyncio.run(found)).decode())
