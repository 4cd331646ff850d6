"""What goes over a link: counted, and an end to links that fell silent."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from p2prc.runtime.port import Link


@dataclass(slots=True)
class Traffic:
    """Bytes both ways; `read_bytes` came from the link."""

    read_bytes: int = 0
    written_bytes: int = 0

    def note_read(self, amount: int) -> None:
        """Bytes came."""
        self.read_bytes += amount

    def note_written(self, amount: int) -> None:
        """Bytes went."""
        self.written_bytes += amount

    @property
    def total_bytes(self) -> int:
        return self.read_bytes + self.written_bytes


class CountedLink:
    """A link whose bytes are counted, in several places if need be."""

    def __init__(self, link: Link, *traffic: Traffic) -> None:
        self._link = link
        self._traffic = traffic

    async def read(self) -> bytes:
        content = await self._link.read()
        for each in self._traffic:
            each.note_read(len(content))
        return content

    async def write(self, content: bytes) -> None:
        await self._link.write(content)
        for each in self._traffic:
            each.note_written(len(content))

    async def end_writing(self) -> None:
        await self._link.end_writing()

    async def close(self) -> None:
        await self._link.close()


async def until_idle(
    carrying: Coroutine[Any, Any, None], traffic: Traffic, *, idle_s: float
) -> None:
    """Let it carry to its end, or until nothing went either way for so long."""
    task = asyncio.ensure_future(carrying)
    try:
        while not task.done():
            seen_bytes = traffic.total_bytes
            await asyncio.wait([task], timeout=idle_s)
            if not task.done() and traffic.total_bytes == seen_bytes:
                return
        await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
