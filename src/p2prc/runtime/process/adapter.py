"""The door to the embedded runtime: sandboxes behind the runtime port, without blocking.

Decides nothing about a lease: that is its supervisor's work. Chooses users and cores, which
only the daemon can, for it sees all leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random, SystemRandom

from p2prc.errors import MachineCannot, RuntimeMissing
from p2prc.model.identity import LeaseId
from p2prc.model.resources import Limits, RuntimeOffer
from p2prc.model.tiers import Attack, unstopped
from p2prc.runtime import volume_mounts
from p2prc.runtime.port import Feature, Sandbox, SandboxSpec, check_features
from p2prc.runtime.process import adoption, folders
from p2prc.runtime.process.assets import (
    Interpreter,
    base_interpreter,
    find_bubblewrap,
    write_assets,
)
from p2prc.runtime.process.cores import (
    CoreBook,
    Ticks,
    loads_between,
    present_ticks,
    usable_cores,
)
from p2prc.runtime.process.fence import keeps_signals_in
from p2prc.runtime.process.messages import Adopt, Start
from p2prc.runtime.process.nursery import Nursery
from p2prc.runtime.process.sandbox import ProcessSandbox
from p2prc.runtime.process.users import tenant_uid

log = logging.getLogger(__name__)

NAME = "process"
SANDBOXED = "userns"
UNSHARED = "unshare"
FENCED = "landlock"
BARE = "none"
TIERS = (SANDBOXED, UNSHARED, FENCED, BARE)
"""Best first: the first that works here is offered, and `none`."""
_LASTING = {Feature.INPUT, Feature.TERMINAL, Feature.SESSIONS, Feature.ADOPT}
_FEATURES = {
    SANDBOXED: frozenset({*_LASTING, Feature.DIAL, Feature.VOLUMES}),
    UNSHARED: frozenset({*_LASTING, Feature.DIAL, Feature.VOLUMES}),
    FENCED: frozenset(_LASTING),
    BARE: frozenset(_LASTING),
}
_PROBE_LIMITS = Limits(memory_bytes=1 << 30, disk_bytes=1 << 30, processes=64, lifetime_s=30)
_PROBE_S = 20.0
_REBALANCE_S = 2.0
_SAMPLE_S = 0.1
KEPT_S = 900.0
"""How long a lease with sessions waits for a node that died before it ends, too."""
PROXY_PORT = 3128
_GOING_S = 10.0


class ProcessRuntime:
    """Sandboxes made with bubblewrap, and bare processes for requesters the owner trusts.

    `home` is the node's; the runtime keeps a folder in it. `core_count` is a hard ceiling for all
    leases together. `bwrap` "" means that there is none.
    """

    def __init__(
        self,
        home: Path,
        *,
        core_count: int | None = None,
        interpreter: Interpreter | None = None,
        bwrap: str | None = None,
        rng: Random | None = None,
        kept_s: float = KEPT_S,
        tiers: Sequence[str] = TIERS,
    ) -> None:
        self._tiers = tuple(tiers)
        self._kept_s = kept_s
        self._home = Path(os.path.realpath(home)) / "runtime"
        self._interpreter = interpreter or base_interpreter()
        self._bwrap = find_bubblewrap() if bwrap is None else bwrap
        self._rng = rng or SystemRandom()
        usable = usable_cores()
        self._book = CoreBook(usable, min(core_count or len(usable), len(usable)), self._rng)
        self._nursery = Nursery(self._interpreter)
        self._sandboxes: set[ProcessSandbox] = set()
        self._offers: tuple[RuntimeOffer, ...] | None = None
        self._probing = asyncio.Lock()
        self._has_assets = False
        self._balancing: asyncio.Task[None] | None = None
        self._ticks: dict[int, Ticks] = {}
        self._ticks_at = float("-inf")

    @property
    def name(self) -> str:
        return NAME

    def use_cores(self, count: int) -> None:
        """Let all leases together use so many cores from now on, or all there are."""
        self._book.lent = min(max(1, count), len(self._book.usable))

    async def probe(self) -> tuple[RuntimeOffer, ...]:
        async with self._probing:
            if self._offers is None:
                self._offers = await self._try_out()
            return self._offers

    async def create(self, spec: SandboxSpec) -> Sandbox:
        if spec.tier not in self._tiers:
            raise RuntimeMissing(f"there is no tier `{spec.tier}` in the runtime `{NAME}`")
        check_features(spec, self.features(spec.tier))
        if spec.has_sessions and spec.is_isolated:
            raise RuntimeMissing("a sandbox that is isolated has no sessions")
        if spec.egress is not None and Feature.DIAL not in self.features(spec.tier):
            raise RuntimeMissing(f"the tier `{spec.tier}` has no network of its own")
        if spec.limits.gpus and spec.tier != BARE:
            raise RuntimeMissing(f"the tier `{spec.tier}` shows no graphics card: take a container")
        if spec.tier == SANDBOXED and not self._bwrap:
            raise RuntimeMissing("`bwrap` is not installed")
        volume_mounts.check(spec.volumes, hidden=self._interpreter.prefix)
        self._prepare()
        uid = tenant_uid({sandbox.uid for sandbox in self._sandboxes}, self._rng)
        sandbox = ProcessSandbox(spec, uid=uid, channel=self._nursery.new_supervisor(), host=self)
        self._sandboxes.add(sandbox)
        try:
            await volume_mounts.give(spec.volumes, uid)
            await sandbox.start(self._start(spec, uid))
        except BaseException:
            await sandbox.end()
            raise
        return sandbox

    def features(self, tier: str) -> frozenset[Feature]:
        return _FEATURES[tier] if tier in self._tiers else frozenset()

    def unstopped(self, tier: str) -> frozenset[Attack]:
        found = unstopped(tier)
        has_own_uid = os.geteuid() == 0
        # Another user's processes cannot be touched; one's own only where the kernel forbids it.
        if has_own_uid or (tier == FENCED and keeps_signals_in()):
            found -= {Attack.SIGNAL_PROCESSES}
        return found

    async def adopt(self, kept: Sequence[SandboxSpec]) -> list[Sandbox]:
        wanted = {_real(spec.folder): spec for spec in kept}
        ours = {_real(sandbox.spec.folder) for sandbox in self._sandboxes}
        left = await asyncio.to_thread(adoption.left_over, self._registry)
        adopted: list[Sandbox] = []
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(self._take_up(lease, wanted.get(lease.folder)))
                for lease in left
                if lease.folder not in ours
            ]
        for task in tasks:
            if (sandbox := task.result()) is not None:
                adopted.append(sandbox)
        return adopted

    async def let_go(self) -> None:
        async with asyncio.TaskGroup() as group:
            for sandbox in tuple(self._sandboxes):
                lasts = sandbox.spec.has_sessions
                group.create_task(sandbox.detach() if lasts else sandbox.end())
        await self._stop_balancing()
        self._nursery.let_go()

    async def close(self) -> None:
        async with asyncio.TaskGroup() as group:
            for sandbox in tuple(self._sandboxes):
                group.create_task(sandbox.end())
        await self._stop_balancing()
        await self._nursery.close()

    def cores_for(self, spec: SandboxSpec) -> list[int]:
        """Return the cores for a command that starts now."""
        now = asyncio.get_running_loop().time()
        if now - self._ticks_at >= _REBALANCE_S or not self._book.loads:
            self._sample(now)
        cores = self._book.start(spec.lease, spec.limits.cpu_millis)
        if self._balancing is None or self._balancing.done():
            self._balancing = asyncio.get_running_loop().create_task(self._balance())
        return list(cores)

    def command_ended(self, spec: SandboxSpec) -> None:
        """Give the cores back."""
        self._book.stop(spec.lease)

    def sandbox_ended(self, sandbox: ProcessSandbox) -> None:
        """Forget a sandbox that is gone."""
        self._sandboxes.discard(sandbox)
        self._book.stop(sandbox.spec.lease)

    @property
    def _registry(self) -> Path:
        return self._home / "kept"

    async def _take_up(
        self, lease: adoption.LeftOver, spec: SandboxSpec | None
    ) -> ProcessSandbox | None:
        """Take up a lease of an earlier life, or end it where it is not wanted."""
        channel = await asyncio.to_thread(adoption.call, self._registry, lease)
        if channel is None:
            # Its supervisor died, and with it all that ran.
            await asyncio.to_thread(adoption.bury, self._registry, lease)
            return None
        if spec is None:
            async with asyncio.timeout(_GOING_S):
                await asyncio.to_thread(adoption.dismiss, channel)
            await asyncio.to_thread(adoption.bury, self._registry, lease)
            return None
        number = time.time_ns()
        sandbox = ProcessSandbox(
            spec, uid=lease.uid, channel=channel, host=self, first_number=number
        )
        self._sandboxes.add(sandbox)
        try:
            await sandbox.start(Adopt())
        except RuntimeMissing as error:
            log.info("a lease cannot be taken up", extra={"reason": error.message})
            await sandbox.end()
            return None
        return sandbox

    async def _stop_balancing(self) -> None:
        if self._balancing is not None:
            self._balancing.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._balancing

    def _start(self, spec: SandboxSpec, uid: int) -> Start:
        limits = spec.limits
        environment = _real(spec.environment) if spec.environment else ""
        return Start(
            folder=_real(spec.folder),
            tier=spec.tier,
            is_isolated=spec.is_isolated,
            environment=environment,
            interpreter=self._interpreter.executable,
            prefix=self._interpreter.prefix,
            assets=str(self._home / "assets"),
            bwrap=self._bwrap,
            uid=uid,
            memory_bytes=limits.memory_bytes,
            disk_bytes=limits.disk_bytes,
            processes=limits.processes,
            gpus=limits.gpus,
            lifetime_s=limits.lasts_s,
            has_sessions=spec.has_sessions,
            registry=str(self._registry) if spec.has_sessions else "",
            name=adoption.name_of(_real(spec.folder)),
            keeps_s=self._kept_s,
            listens_at=PROXY_PORT if spec.egress is not None else 0,
            volumes=[[_real(volume.source), volume.target] for volume in spec.volumes],
        )

    def _prepare(self) -> None:
        if self._has_assets:
            return
        try:
            self._home.mkdir(parents=True, exist_ok=True)
            for leftover in self._home.glob("probe-*"):
                folders.remove(str(leftover))
            write_assets(self._home / "assets", self._interpreter)
        except OSError as error:
            raise MachineCannot(f"the runtime's folder cannot be written: {error}") from error
        self._has_assets = True

    async def _try_out(self) -> tuple[RuntimeOffer, ...]:
        if not sys.platform.startswith("linux"):
            return ()
        offers: list[RuntimeOffer] = []
        for tier in self._tiers:
            if tier == BARE or (not offers and await self._works(tier)):
                offers.append(RuntimeOffer(NAME, tier, "polled"))
        return tuple(offers)

    async def _works(self, tier: str) -> bool:
        """Run `true` in this tier, the way a lease would."""
        name = f"probe-{self._rng.getrandbits(32):08x}"
        spec = SandboxSpec(LeaseId(name), self._home / name, _PROBE_LIMITS, tier)
        try:
            async with asyncio.timeout(_PROBE_S):
                sandbox = await self.create(spec)
                try:
                    running = await sandbox.execute(["true"], variables={})
                    return (await running.wait()).status == 0
                finally:
                    await sandbox.end()
        except (MachineCannot, TimeoutError) as error:
            log.info("a tier does not work here", extra={"tier": tier, "reason": str(error)})
            return False

    def _sample(self, now: float) -> None:
        if now - self._ticks_at < _SAMPLE_S:
            return
        ticks = present_ticks()
        self._book.loads = loads_between(self._ticks, ticks)
        self._ticks, self._ticks_at = ticks, now

    async def _balance(self) -> None:
        """Move leases off cores that others have come to need, while anything runs."""
        loop = asyncio.get_running_loop()
        while not self._book.is_idle:
            await asyncio.sleep(_REBALANCE_S)
            self._sample(loop.time())
            moved = self._book.rebalance()
            for sandbox in self._sandboxes:
                if sandbox.spec.lease in moved:
                    sandbox.use_cores(list(moved[sandbox.spec.lease]))


def _real(path: Path) -> str:
    return os.path.realpath(path)
