"""Look at this node and its machine, for `doctor`: facts only; what they mean is `diagnosis`'s."""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from p2prc.errors import P2prcError
from p2prc.model.identity import NodeId, short
from p2prc.node.node import Node
from p2prc.protocol.diagnosis import (
    Facts,
    MachineFacts,
    NetworkFacts,
    PeerFacts,
    ReachFacts,
)
from p2prc.runtime.docker.presence import candidates, strays

PEER_PATIENCE_S = 10.0
_TOOLS = {"bwrap": "bubblewrap", "setpriv": "util-linux"}
_BLENDER = {
    "libX11.so.6": "libx11-6",
    "libXfixes.so.3": "libxfixes3",
    "libXi.so.6": "libxi6",
    "libXrender.so.1": "libxrender1",
    "libxkbcommon.so.0": "libxkbcommon0",
}
"""Libraries of a desktop that the package `bpy` does not bring along, and Debian's packages."""
_LIBRARY_FOLDERS = ("/usr/lib", "/lib", "/usr/lib64", "/lib64", "/usr/local/lib")

log = logging.getLogger(__name__)


async def look(
    node: Node, home: Path, reach: ReachFacts, peer: NodeId | None, *, engine: str = ""
) -> Facts:
    """Gather everything; asks the peer when one is named, for at most `PEER_PATIENCE_S`.

    Linked peers are asked for their clocks meanwhile.
    """
    asked = None if peer is None or peer == node.id else peer
    skews, told, left_over = await asyncio.gather(
        node.clock_skews_s(),
        _peer_or_none(node, asked),
        strays(candidates(os.environ, Path.home())),
    )
    return Facts(
        reach=reach,
        machine=replace(_machine_of(node, home, engine), strays=left_over),
        network=_network_of(node, skews),
        peer=told,
    )


def machine_facts(home: Path) -> MachineFacts:
    """Return what is known of the machine without a node: its disk and missing programs."""
    nearest = home
    while not nearest.exists():
        nearest = nearest.parent
    disk = shutil.disk_usage(nearest)
    return MachineFacts(
        free_bytes=disk.free,
        total_bytes=disk.total,
        home=str(home),
        missing_packages=missing_packages(),
        missing_for_blender=missing_for_blender(_library_folders()),
    )


def machine_facts_alone(home: Path) -> MachineFacts:
    """Return `machine_facts`, and what an engine still has of nodes that are gone."""
    left_over = asyncio.run(strays(candidates(os.environ, Path.home())))
    return replace(machine_facts(home), strays=left_over)


def missing_for_blender(folders: Iterable[Path]) -> tuple[str, ...]:
    """Return Debian's names of the libraries that Blender needs and none of the folders has."""
    places = tuple(folders)
    return tuple(
        package
        for library, package in _BLENDER.items()
        if not any((folder / library).exists() for folder in places)
    )


def _library_folders() -> Iterator[Path]:
    machine = f"{platform.machine()}-linux-gnu"
    for folder in map(Path, _LIBRARY_FOLDERS):
        yield folder
        yield folder / machine


def missing_packages() -> tuple[str, ...]:
    """Return Debian's names of the packages whose programs a sandbox needs and lacks."""
    return tuple(package for tool, package in _TOOLS.items() if shutil.which(tool) is None)


def _machine_of(node: Node, home: Path, engine: str) -> MachineFacts:
    found = machine_facts(home)
    return MachineFacts(
        free_bytes=found.free_bytes,
        total_bytes=found.total_bytes,
        home=found.home,
        tiers=tuple((offer.name, offer.tier) for offer in node.runtimes),
        missing_packages=found.missing_packages,
        missing_for_blender=found.missing_for_blender,
        is_lending=node.provider.lends,
        is_paused=node.provider.is_paused,
        bridge=node.bridge_trouble,
        domains=tuple(node.domain_door.all_troubles()),
        engine=engine,
    )


def _network_of(node: Node, clock_skews_s: tuple[float, ...]) -> NetworkFacts:
    others = [view for view in node.network.nodes() if not view.is_self]
    counted = {"alive": 0, "suspect": 0, "dead": 0}
    for view in others:
        if view.state in counted:
            counted[view.state] += 1
    revoker = node.network.revocations.revoker_of(node.network.standing.member)
    return NetworkFacts(
        alive=counted["alive"],
        suspect=counted["suspect"],
        dead=counted["dead"],
        linked=len(node.links.peers()),
        clock_skews_s=clock_skews_s,
        put_out_by=short(revoker) if revoker is not None else "",
        unforeseen=node.unforeseen,
    )


async def _peer_or_none(node: Node, peer: NodeId | None) -> PeerFacts | None:
    return None if peer is None else await _peer(node, peer)


async def _peer(node: Node, peer: NodeId) -> PeerFacts:
    view = next(view for view in node.network.nodes() if view.record.node == peer)
    record = view.record
    path, latency_s, trouble = "", None, ""
    try:
        async with asyncio.timeout(PEER_PATIENCE_S):
            link = await node.links.reach(peer)
            latency_s = await link.measure_s(timeout_s=PEER_PATIENCE_S)
            path = (await link.connection.path()).kind
    except P2prcError as error:
        trouble = error.message
    except TimeoutError:
        trouble = f"no answer within {PEER_PATIENCE_S:g} s"
    return PeerFacts(
        name=record.name,
        state=view.state,
        path=path,
        latency_s=latency_s,
        trouble=trouble,
        addresses=len(record.addresses),
        relays=len(record.relays),
        is_public=record.is_public,
    )
