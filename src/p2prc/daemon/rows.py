"""From what the node knows to the rows that the control API shows."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime

from p2prc.api import schema
from p2prc.files.filler import Bandwidth
from p2prc.model.identity import NodeId
from p2prc.model.resources import Gpu, RuntimeOffer, finite
from p2prc.node.provider import LeaseReading
from p2prc.node.relaying import Relaying
from p2prc.protocol.membership import NodeView
from p2prc.protocol.messages import Specs
from p2prc.storage.schema import PeerUsage

COMMAND_SHOWN = 500


def instant(at: float) -> str:
    """Return UTC seconds as RFC 3339."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def instant_or_none(at: float | None) -> str | None:
    """Return UTC seconds as RFC 3339; None, which is never, stays None."""
    return None if at is None else instant(at)


def runtimes_of(offers: tuple[RuntimeOffer, ...]) -> list[schema.RuntimeTier]:
    """Show ways to run work."""
    return [schema.RuntimeTier(name=o.name, tier=o.tier, limits=o.limits) for o in offers]


def card_of(card: Gpu) -> schema.GpuFacts:
    """Show a graphics card without its readings."""
    return schema.GpuFacts(name=card.name, memory_bytes=card.memory_bytes, driver=card.driver)


def node_row(
    view: NodeView, *, own: NodeId, path: str | None, latency_s: float | None
) -> schema.NodeRow:
    """Show a node as seen from here."""
    record = view.record
    is_self = record.node == own
    return schema.NodeRow(
        id=record.node,
        name=record.name,
        state=view.state,
        is_self=is_self,
        path="self" if is_self else path,
        latency_ms=None if latency_s is None else round(latency_s * 1000, 2),
        addresses=list(record.addresses),
        is_public=record.is_public,
        version=record.software,
        cpus=record.cpus,
        memory_bytes=record.memory_bytes,
        gpus=[card_of(card) for card in record.gpus],
        runtimes=runtimes_of(record.runtimes),
        free=schema.FreeCapacity(
            cpus=record.free.cpu_millis / 1000, memory_bytes=record.free.memory_bytes
        ),
        metadata=dict(record.metadata),
        is_lending=record.is_lending,
    )


def bandwidth_of(measured: Bandwidth) -> schema.Bandwidth:
    """Show what the way to a peer carries."""
    return schema.Bandwidth(
        down_bytes_s=round(measured.down_bytes_s),
        up_bytes_s=round(measured.up_bytes_s),
        measured_at=instant(measured.measured_at),
    )


def bandwidth_or_none(measured: Bandwidth | None) -> schema.Bandwidth | None:
    """Show it where it was measured."""
    return None if measured is None else bandwidth_of(measured)


def relay_of(relaying: Relaying) -> schema.RelayServing:
    """Show the relay that this node serves."""
    if relaying.server is None or not relaying.serves_relay:
        return schema.RelayServing(port=None, reason=relaying.reason or "switched off")
    stats = relaying.server.stats
    return schema.RelayServing(
        port=relaying.server.port,
        clients=stats.clients,
        forwarded_bytes=stats.forwarded_bytes,
        dropped=stats.dropped_packets,
        refusals=stats.refusals,
    )


def notices_of_bugs(count: int) -> list[str]:
    """Say that work for single peers, jobs or leases met bugs of ours, when it did."""
    return [f"unforeseen errors in single pieces of work: {count}; see `p2prc doctor`"][:count]


def specs_of(specs: Specs) -> schema.SpecsOfNode:
    """Show a machine's facts."""
    return schema.SpecsOfNode(
        hostname=specs.hostname,
        platform=specs.platform,
        cpu=specs.cpu,
        cpus=specs.cpus,
        memory_bytes=specs.memory_bytes,
        disk_bytes=specs.disk_bytes,
        gpus=[
            schema.GpuFacts(
                name=reading.card.name,
                memory_bytes=reading.card.memory_bytes,
                driver=reading.card.driver,
                utilization_percent=reading.utilization_percent,
                temperature_c=reading.temperature_c,
            )
            for reading in specs.gpus
        ],
        runtimes=runtimes_of(specs.runtimes),
    )


def usage_row(used: PeerUsage, *, peer_name: str) -> schema.UsageRow:
    """Show what one peer used, from the first day on which it used anything."""
    return schema.UsageRow(
        peer=used.peer,
        peer_name=peer_name,
        since=used.day,
        cpu_s=round(used.cpu_s, 2),
        memory_byte_s=round(used.memory_byte_s),
        disk_peak_bytes=used.disk_peak_bytes,
        net_rx_bytes=used.net_rx_bytes,
        net_tx_bytes=used.net_tx_bytes,
        leases=used.leases,
        tasks=used.tasks,
    )


def lease_row(reading: LeaseReading, *, peer_name: str, wall_offset_s: float) -> schema.LeaseRow:
    """Show a lease to its owner; `wall_offset_s` turns the machine's clock into UTC seconds."""
    lease, usage = reading.lease, reading.usage
    limits = lease.workload.limits
    return schema.LeaseRow(
        id=lease.lease,
        peer=lease.peer,
        peer_name=peer_name,
        image=lease.workload.image or f"{lease.runtime}/{lease.tier}",
        state="suspended" if lease.is_suspended else lease.state.value,
        cpu_percent=round(usage.cpu_percent, 1),
        cpu_s=round(usage.cpu_s, 2),
        memory_bytes=usage.memory_bytes,
        memory_peak_bytes=usage.memory_peak_bytes,
        disk_bytes=usage.disk_bytes,
        processes=usage.processes,
        net_rx_bytes=usage.net_rx_bytes,
        net_tx_bytes=usage.net_tx_bytes,
        command=shlex.join(reading.argv)[:COMMAND_SHOWN],
        created_at=instant(lease.created_at + wall_offset_s),
        expires_at=instant_or_none(finite(lease.expires_at + wall_offset_s)),
        network=lease.workload.network,
        cpu_limit=limits.cpu_millis / 1000,
        memory_limit_bytes=limits.memory_bytes,
        disk_limit_bytes=limits.disk_bytes,
        processes_limit=limits.processes,
        net_limit_bytes=reading.net_limit_bytes,
    )
