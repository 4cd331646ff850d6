"""Run inside a namespace: have the router open a port, tell it as JSON, close it on end of input.

`python -m tests.nat.map_port PORT METHOD...`
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from p2prc.errors import P2prcError
from p2prc.reachability.gateway import default_gateway
from p2prc.reachability.mapping import METHODS, open_mapping


async def main() -> None:
    """Map, tell, wait, close."""
    gateway = default_gateway()
    began = time.monotonic()
    assert gateway is not None
    try:
        methods = [method for method in METHODS if method in sys.argv[2:]]
        mapping = await open_mapping(gateway, int(sys.argv[1]), nonce=b"n" * 12, methods=methods)
    except P2prcError as error:
        print(json.dumps({"error": str(error), "took_s": time.monotonic() - began}), flush=True)
        return
    told = {"host": mapping.host, "port": mapping.port, "method": mapping.method}
    print(json.dumps({**told, "lifetime_s": mapping.lifetime_s}), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await mapping.close()


asyncio.run(main())
