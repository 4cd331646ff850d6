"""The network `bridge`: an interface for each lease, and the rules that hold it to the internet.

Theory of operation. A pair of interfaces joins the lease's own network, which had a loopback
only, to this machine; a table of our own for the packet filter lets through what goes to public
addresses and nothing else. The table is written whole, in one step, whenever a lease comes or
goes, read back, and looked at again every few seconds: where it is not what was written, the
leases' interfaces are taken down first and the table is written anew. What a lease moved is in
its interface's own counts, which outlive this process; the bound is the kernel's.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2prc.egress import bridge_trial, host_tools
from p2prc.egress.host_tools import ToolFailed
from p2prc.egress.namespaces import inside, is_ours
from p2prc.errors import MachineCannot
from p2prc.model.identity import LeaseId
from p2prc.protocol.bridge import (
    PROBE_SLOT,
    SLOTS_LIMIT,
    Bridged,
    BridgeNames,
    names_for,
    rules_text,
    tag_of,
)
from p2prc.protocol.egress import Allowance, EgressTerms, Network

log = logging.getLogger(__name__)

_LOOK_S = 2.0
_PACKET_BYTES = 64 * 1024
"""The largest packet between two interfaces of one machine."""
_FORWARDING = Path("/proc/sys/net/ipv4/ip_forward")


@dataclass(frozen=True, slots=True)
class _Lease:
    slot: int
    terms: EgressTerms
    before: tuple[int, int]


class BridgeWay:
    """One lease's way out by the bridge, as its place knows it."""

    def __init__(self, bridges: Bridges, lease: LeaseId, terms: EgressTerms) -> None:
        self._bridges = bridges
        self._lease = lease
        self._allowance = Allowance(terms, packet_bytes=_PACKET_BYTES)
        self._was_used_up = False

    @property
    def allowance(self) -> Allowance:
        """What was moved up to now, and whether that was all."""
        received, sent = self._bridges.moved(self._lease)
        known = self._allowance
        known.count(
            received=max(0, received - known.received_bytes), sent=max(0, sent - known.sent_bytes)
        )
        if known.is_used_up and not self._was_used_up:
            self._was_used_up = True
            log.warning("a lease's network is cut", extra={"reason": known.reason})
        return known

    async def close(self) -> None:
        """Take the interface away. Twice is safe."""
        await self._bridges.part(self._lease)


class Bridges:
    """All bridges of one node. `home` tells them from those of other nodes on the machine."""

    def __init__(self, home: Path, own: Callable[[], Sequence[Network]]) -> None:
        self._tag = tag_of(os.path.realpath(home))
        self._marker = home / "bridge"
        self._own = own
        self._names: BridgeNames | None = None
        self._leases: dict[LeaseId, _Lease] = {}
        self._earlier: dict[str, tuple[int, int, int]] = {}
        self._expected = ""
        self._busy = asyncio.Lock()
        self._watching: asyncio.Task[None] | None = None

    async def trouble(self) -> str:
        """Set the rules up and try them; return why there can be no bridge here, "" if there can.

        What was tried well is not tried again.
        """
        async with self._busy:
            if self._names is not None:
                return ""
            return await asyncio.to_thread(self._set_up)

    async def join(
        self, lease: LeaseId, network: int, terms: EgressTerms, moved: tuple[int, int] = (0, 0)
    ) -> BridgeWay:
        """Give a lease's network, a handle of it, its interface. Raises MachineCannot.

        `moved` is what went through already, to the lease and from it.
        """
        if reason := await self.trouble():
            raise MachineCannot(f"the network `bridge` cannot be had here: {reason}")
        async with self._busy:
            try:
                await asyncio.to_thread(self._join, lease, network, terms, moved)
            except OSError as error:
                reason = str(error.strerror or error)
                raise MachineCannot(f"the lease's network cannot be made: {reason}") from error
            if self._watching is None or self._watching.done():
                self._watching = asyncio.get_running_loop().create_task(
                    self._watch(), name="look at the bridges' rules"
                )
        return BridgeWay(self, lease, terms)

    async def part(self, lease: LeaseId) -> None:
        """Take a lease's interface away; nothing happens where it has none."""
        async with self._busy:
            if lease in self._leases:
                await asyncio.to_thread(self._part, lease)
            if not self._leases and self._watching is not None:
                self._watching.cancel()
                self._watching = None

    def moved(self, lease: LeaseId) -> tuple[int, int]:
        """Return the bytes that came to a lease, and those it sent."""
        if (known := self._leases.get(lease)) is None or self._names is None:
            return 0, 0
        now = host_tools.moved_bytes(self._names.interface(known.slot)) or (0, 0)
        return known.before[0] + now[0], known.before[1] + now[1]

    def is_joined(self, lease: LeaseId) -> bool:
        """Whether the lease's interface is there: it goes with the network it was made for."""
        known = self._leases.get(lease)
        if known is None or self._names is None:
            return False
        return host_tools.is_there(self._names.interface(known.slot))

    async def sweep(self) -> None:
        """Remove what an earlier life of this node left. To be called before `join`."""
        if self._marker.exists() and os.geteuid() == 0:
            async with self._busy:
                await asyncio.to_thread(self._remove_all)

    async def close(self) -> None:
        """Leave nothing behind."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
            self._watching = None
        await self.sweep()

    # -- in a thread --------------------------------------------------------------------------

    def _set_up(self) -> str:
        if os.geteuid() != 0:
            return "the node would have to be root"
        if missing := host_tools.missing_tools():
            return f"`{missing[0]}` is not installed"
        try:
            if _FORWARDING.read_text(encoding="ascii").strip() != "1":
                return "this machine forwards nothing: `sysctl -w net.ipv4.ip_forward=1`"
        except OSError:
            return "whether this machine forwards cannot be read"
        own = tuple(self._own())
        names = names_for(self._tag, own)
        if names is None:
            return "every range of private addresses is taken"
        try:
            self._marker.touch()
            self._write(names, [Bridged(PROBE_SLOT)], own)
            host_tools.let_docker_forward(names.prefix, is_wanted=True)
            reason = bridge_trial.trouble_with(names, own)
            if not reason:
                self._names = names
                self._write_leases()
        except OSError as error:
            reason = str(error.strerror or error)
        if reason:
            self._remove_all()
        return reason

    def _write(self, names: BridgeNames, leases: Sequence[Bridged], own: Sequence[Network]) -> None:
        text = rules_text(names, leases, own)
        host_tools.set_rules(text)
        self._expected = host_tools.read_table(names.table)
        # Each chain that decides anything must be there, and be asked by the kernel.
        for needed in ("hook forward", "hook input", "hook postrouting", "10.0.0.0/8"):
            if needed not in self._expected:
                raise ToolFailed("the packet filter did not take the rules")

    def _write_leases(self) -> None:
        if self._names is None:
            return
        bridged = []
        for lease, known in self._leases.items():
            terms, left = known.terms, None
            if terms.total_bytes is not None:
                left = max(0, terms.total_bytes - sum(self.moved(lease)))
            bridged.append(Bridged(known.slot, left, terms.rate_bytes_s))
        self._write(self._names, bridged, tuple(self._own()))

    def _join(
        self, lease: LeaseId, network: int, terms: EgressTerms, moved: tuple[int, int]
    ) -> None:
        assert self._names is not None
        names = self._names
        if is_ours(network):
            # The sandbox is gone, and its number is another's.
            raise ToolFailed("it has no network of its own any more")
        taken = {known.slot for known in self._leases.values()} | {PROBE_SLOT}
        known = self._leases.get(lease)
        slot = next((n for n in range(SLOTS_LIMIT) if n not in taken), 0)
        if (earlier := self._earlier.pop(lease, None)) is not None:
            # As it was: then what the lease has open goes on.
            slot = earlier[0] if earlier[0] not in taken else slot
            moved = max(moved[0], earlier[1]), max(moved[1], earlier[2])
        if known is not None:
            slot, moved = known.slot, max(known.before, moved)
        elif slot == 0:
            raise ToolFailed("no more bridges are to be had")
        name, near, far = names.interface(slot), str(names.near(slot)), str(names.far(slot))
        host_tools.remove_interface(name)
        self._leases[lease] = _Lease(slot, terms, moved)
        try:
            # First the rules, then what they are for.
            self._write_leases()
            alias = f"{lease} {moved[0]} {moved[1]}"
            host_tools.make_pair(name, network, near=near, alias=alias)
            inside(network, lambda: host_tools.configure_far(near=near, far=far))
        except BaseException:
            self._part(lease)
            raise

    def _part(self, lease: LeaseId) -> None:
        known = self._leases.pop(lease)
        assert self._names is not None
        try:
            host_tools.remove_interface(self._names.interface(known.slot))
            self._write_leases()
        except ToolFailed as error:
            log.warning("a lease's interface is left over", extra={"reason": str(error)})

    def _look(self) -> None:
        """Cut everything off where the rules are not what was written; write them anew."""
        if self._names is None or host_tools.read_table(self._names.table) == self._expected:
            return
        log.warning("somebody changed the rules of the leases' network: they are written anew")
        names = self._names
        present = [names.interface(known.slot) for known in self._leases.values()]
        present = [name for name in present if host_tools.is_there(name)]
        for name in present:
            host_tools.run("ip", "link", "set", "dev", name, "down")
        self._write_leases()
        for name in present:
            host_tools.run("ip", "link", "set", "dev", name, "up")

    def _remove_all(self) -> None:
        prefix = f"p2b{self._tag}-"
        try:
            found = host_tools.interfaces_like(prefix)
            self._earlier = _read_earlier(found)
            for name in [*found, *host_tools.interfaces_like(f"p2o{self._tag}")]:
                host_tools.remove_interface(name)
            table = f"p2prc_{self._tag}"
            host_tools.set_rules(f"table inet {table} {{}}\ndelete table inet {table}\n")
            host_tools.let_docker_forward(prefix, is_wanted=False)
            self._names = None
            self._leases.clear()
            self._marker.unlink(missing_ok=True)
        except OSError as error:
            log.warning("something of the leases' network is left", extra={"reason": str(error)})

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            async with self._busy:
                with contextlib.suppress(OSError):
                    await asyncio.to_thread(self._look)


def _read_earlier(interfaces: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return the slot of each lease of an earlier life, and what it received and sent."""
    found = {}
    for name in interfaces:
        lease, *before = host_tools.alias_of(name).split()[:3] or [""]
        slot, now = name.rpartition("-")[2], host_tools.moved_bytes(name)
        if now is None or not slot.isdecimal() or int(slot) >= SLOTS_LIMIT:
            continue
        if [each.isdecimal() for each in before] == [True, True]:
            found[lease] = (int(slot), int(before[0]) + now[0], int(before[1]) + now[1])
    return found
