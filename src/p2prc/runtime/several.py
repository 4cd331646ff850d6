"""All the runtimes of a node as one: who asks for a tier gets the runtime that has it.

The order is that of preference: sandboxes of the first runtime, then the next one's; what
isolates nothing comes last.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from p2prc.errors import P2prcError, RuntimeMissing
from p2prc.model.resources import RuntimeOffer
from p2prc.model.tiers import Attack, unstopped
from p2prc.runtime.port import Feature, Runtime, Sandbox, SandboxSpec

_NO_ISOLATION = "none"

log = logging.getLogger(__name__)


class SeveralRuntimes:
    """Routes by tier: no two of the runtimes share one."""

    def __init__(self, runtimes: Sequence[Runtime]) -> None:
        self._runtimes = tuple(runtimes)

    @property
    def name(self) -> str:
        return ",".join(runtime.name for runtime in self._runtimes)

    def features(self, tier: str) -> frozenset[Feature]:
        return frozenset().union(*(runtime.features(tier) for runtime in self._runtimes))

    def unstopped(self, tier: str) -> frozenset[Attack]:
        for runtime in self._runtimes:
            if runtime.features(tier):
                return runtime.unstopped(tier)
        return unstopped(tier)

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        async with asyncio.TaskGroup() as group:
            probes = [group.create_task(runtime.probe()) for runtime in self._runtimes]
        offers = [offer for probe in probes for offer in probe.result()]
        return tuple(sorted(offers, key=lambda offer: offer.tier == _NO_ISOLATION))

    async def create(self, spec: SandboxSpec) -> Sandbox:
        for runtime in self._runtimes:
            if any(offer.tier == spec.tier for offer in await runtime.probe()):
                return await runtime.create(spec)
        raise RuntimeMissing(f"there is no tier `{spec.tier}` on this node")

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        async with asyncio.TaskGroup() as group:
            adoptions = [group.create_task(_adopt(each, kept)) for each in self._runtimes]
        return [sandbox for adoption in adoptions for sandbox in adoption.result()]

    async def let_go(self) -> None:
        async with asyncio.TaskGroup() as group:
            for runtime in self._runtimes:
                group.create_task(runtime.let_go())

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for runtime in self._runtimes:
                group.create_task(runtime.close())


async def _adopt(runtime: Runtime, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
    """Take up what one runtime can; one that fails must not cost the others theirs."""
    try:
        return await runtime.adopt(kept)
    except (P2prcError, OSError, TimeoutError) as error:
        log.warning(
            "a runtime takes up nothing", extra={"runtime": runtime.name, "reason": str(error)}
        )
        return []
