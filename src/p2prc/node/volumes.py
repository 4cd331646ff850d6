"""Folders that stay on this node between leases: each peer's own, by name.

A volume belongs to who first asked for it and is used by one lease at a time. What it holds counts
against the disk of the lease that uses it; all of a peer's together have a bound too.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from p2prc.errors import DiskFull, MachineCannot, NotFound, P2prcError, PeerBusy
from p2prc.model.identity import LeaseId, NodeId
from p2prc.model.workload import Volume
from p2prc.node.link import Answer
from p2prc.protocol.lending import size_text
from p2prc.protocol.messages import (
    AskVolumes,
    Done,
    EraseVolume,
    Refused,
    VolumeKept,
    Volumes,
)
from p2prc.runtime.port import VolumeMount
from p2prc.runtime.process.folders import TooDeep, remove, used_bytes

VOLUMES_LIMIT = 64
_PEER = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class KeptVolume:
    """A volume as it is now."""

    peer: NodeId
    name: str
    size_bytes: int
    is_used: bool


async def answer_about(
    store: VolumeStore, peer: NodeId, body: AskVolumes | EraseVolume, answer: Answer
) -> None:
    """Answer a peer about its own volumes: it cannot name another's."""
    try:
        match body:
            case AskVolumes():
                kept = await store.kept(peer)
                told = [VolumeKept(each.name, each.size_bytes, each.is_used) for each in kept]
                answer(Volumes(tuple(told[:VOLUMES_LIMIT])))
            case EraseVolume():
                await store.erase(peer, body.name)
                answer(Done())
    except P2prcError as error:
        answer(Refused(error.code, error.message, error.hint))


class VolumeStore:
    """The volumes of all peers below one folder. `quota_bytes` says what one peer may keep."""

    def __init__(self, folder: Path, quota_bytes: Callable[[], int]) -> None:
        self._folder = folder
        self._quota_bytes = quota_bytes
        self._users: dict[tuple[NodeId, str], LeaseId] = {}

    async def hold(
        self, peer: NodeId, lease: LeaseId, volumes: Sequence[Volume], *, disk_bytes: int
    ) -> tuple[VolumeMount, ...]:
        """Make what is missing and keep all for one lease, which may have so much of the disk.

        Raises PeerBusy, DiskFull.
        """
        if not volumes:
            return ()
        for volume in volumes:
            if self._users.get((peer, volume.name), lease) != lease:
                raise PeerBusy(f"the volume `{volume.name}` is used by another lease of yours")
        for volume in volumes:
            self._users[peer, volume.name] = lease
        try:
            return await asyncio.to_thread(self._made, peer, volumes, disk_bytes)
        except BaseException:
            self.release(peer, lease)
            raise

    def release(self, peer: NodeId, lease: LeaseId) -> None:
        """Let other leases have what this one held; the content stays."""
        for key in [key for key, user in self._users.items() if (key[0], user) == (peer, lease)]:
            del self._users[key]

    async def kept(self, peer: NodeId | None = None) -> list[KeptVolume]:
        """Return the volumes of a peer, or of all, sorted by peer and name."""
        return await asyncio.to_thread(self._kept, peer)

    async def erase(self, peer: NodeId, name: str) -> None:
        """Delete a volume with all that it holds. Raises NotFound, PeerBusy, MachineCannot."""
        if (peer, name) in self._users:
            raise PeerBusy(f"the volume `{name}` is used by a lease", hint="end the lease first")
        if name not in self._names(peer):
            raise NotFound(f"there is no volume `{name[:70]}`", hint="see `p2prc volumes`")
        # Nobody may begin to use it meanwhile.
        self._users[peer, name] = LeaseId("0" * 20)
        try:
            await asyncio.to_thread(remove, str(self._folder / peer / name))
        except OSError as error:
            raise MachineCannot(f"the volume cannot be erased: {error.strerror}") from error
        finally:
            del self._users[peer, name]

    def _made(
        self, peer: NodeId, volumes: Sequence[Volume], disk_bytes: int
    ) -> tuple[VolumeMount, ...]:
        folder = self._folder / peer
        names = set(self._names(peer)) | {volume.name for volume in volumes}
        if len(names) > VOLUMES_LIMIT:
            raise DiskFull(f"this node keeps at most {VOLUMES_LIMIT} volumes of one peer")
        used = sum(_size(folder / name) for name in self._names(peer))
        if used > self._quota_bytes():
            raise DiskFull(
                "your volumes on this node are full", hint="see `p2prc volumes NODE --erase NAME`"
            )
        held = sum(_size(folder / volume.name) for volume in volumes)
        if held > disk_bytes:
            raise DiskFull(
                f"what is in the volumes, {size_text(held)}, is more than the container's disk",
                hint="ask for more: `--disk SIZE`",
            )
        try:
            for volume in volumes:
                self._folder.mkdir(mode=0o700, exist_ok=True)
                folder.mkdir(mode=0o700, exist_ok=True)
                (folder / volume.name).mkdir(mode=0o755, exist_ok=True)
        except OSError as error:
            raise MachineCannot(f"a volume cannot be made: {error.strerror}") from error
        return tuple(VolumeMount(folder / volume.name, volume.path) for volume in volumes)

    def _kept(self, peer: NodeId | None) -> list[KeptVolume]:
        peers = [peer] if peer is not None else self._peers()
        return [
            KeptVolume(each, name, _size(self._folder / each / name), (each, name) in self._users)
            for each in peers
            for name in self._names(each)
        ]

    def _peers(self) -> list[NodeId]:
        try:
            found = sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return []
        return [NodeId(name) for name in found if _PEER.fullmatch(name)]

    def _names(self, peer: NodeId) -> list[str]:
        try:
            return sorted(path.name for path in (self._folder / peer).iterdir())
        except OSError:
            return []


def _size(folder: Path) -> int:
    try:
        return used_bytes(str(folder))
    except (OSError, TooDeep):
        return 0
