"""What this node says of itself: its own record, signed anew whenever something of it changes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from p2prc.errors import P2prcError, SettingInvalid, WireError
from p2prc.model.identity import NodeId
from p2prc.model.metadata import METADATA_LIMIT_BYTES, check_metadata
from p2prc.model.record import NodeRecord, SignedRecord, sign_record
from p2prc.model.resources import Capacity, RuntimeOffer
from p2prc.node.machine import platform_name, python_version, read_gpus
from p2prc.node.standing import Standing
from p2prc.protocol.messages import PROTOCOL_VERSION
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode

ADDRESSES_IN_RECORD = 8
RELAYS_IN_RECORD = 4
METADATA = "metadata"

log = logging.getLogger(__name__)
_metadata: Codec[dict[str, str]] = Codec(dict[str, str], limit_bytes=2 * METADATA_LIMIT_BYTES)


@dataclass(frozen=True, slots=True)
class SelfDescription:
    """What our record says that does not change while we run."""

    name: str
    software: str
    cpus: int
    memory_bytes: int
    lent: Capacity
    runtimes: tuple[RuntimeOffer, ...]
    addresses: tuple[str, ...]
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """What our record says of how to reach us, best first; it changes as we move."""

    addresses: tuple[str, ...]
    relays: tuple[str, ...] = ()
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class Lent:
    """What our record says that changes all the time."""

    is_lending: bool
    free: Capacity


class OwnRecord:
    """What there is to tell, and the versions in which it was told."""

    def __init__(
        self,
        secret: bytes,
        own: NodeId,
        description: SelfDescription,
        *,
        state: State,
        lent: Callable[[], Lent],
    ) -> None:
        self.description = description
        self.whereabouts = Whereabouts(description.addresses, is_public=description.is_public)
        self._secret = secret
        self._own = own
        self._state = state
        self._lent = lent
        self._metadata = self._stored_metadata()
        self._gpus = tuple(reading.card for reading in read_gpus())
        self._version = 0
        self._signed: NodeRecord | None = None

    def sign(
        self, standing: Standing, *, has_left: bool = False, is_down: bool = False
    ) -> SignedRecord:
        """Return a new version of our record."""
        # Wall-clock milliseconds: a node that lost its disk still issues newer versions.
        self._version = max(self._version + 1, int(time.time() * 1000))
        self._signed = self._record(standing, has_left=has_left, is_down=is_down)
        return sign_record(self._signed, self._secret)

    def has_news(self, standing: Standing) -> bool:
        """Whether we would say anything else now than in the record that we signed last."""
        return self._signed != self._record(standing)

    def _record(
        self, standing: Standing, *, has_left: bool = False, is_down: bool = False
    ) -> NodeRecord:
        told, lent = self.description, self._lent()
        return NodeRecord(
            node=self._own,
            network=standing.network,
            version=self._version,
            name=told.name,
            membership=standing.chain,
            addresses=self.whereabouts.addresses[:ADDRESSES_IN_RECORD],
            relays=self.whereabouts.relays[:RELAYS_IN_RECORD],
            is_public=self.whereabouts.is_public,
            has_left=has_left,
            is_down=is_down,
            is_lending=lent.is_lending,
            software=told.software,
            platform=platform_name(),
            python=python_version(),
            cpus=told.cpus,
            memory_bytes=told.memory_bytes,
            lent=told.lent,
            free=lent.free,
            gpus=self._gpus,
            runtimes=told.runtimes,
            metadata=self._metadata,
            protocol=PROTOCOL_VERSION,
        )

    def outnumbered(self, version: int) -> None:
        """Others know this version of our record: the next one is newer."""
        self._version = max(self._version, version)

    @property
    def metadata(self) -> dict[str, str]:
        """What the owner tells the others in words of their own."""
        return dict(self._metadata)

    def change_metadata(self, changes: Mapping[str, str], standing: Standing) -> None:
        """Set values, and remove those that are empty. Raises SettingInvalid."""
        changed = {key: text for key, text in {**self._metadata, **changes}.items() if text}
        check_metadata(changed)
        before, self._metadata = self._metadata, changed
        try:
            # Whether it can be said at all: it is not said yet.
            sign_record(self._record(standing), self._secret)
            self._state.set_values({METADATA: encode(changed)})
        except P2prcError:
            self._metadata = before
            raise

    def _stored_metadata(self) -> dict[str, str]:
        try:
            found = _metadata.decode(self._state.value(METADATA) or b"\x80")
            check_metadata(found)
        except (WireError, SettingInvalid) as error:
            log.warning("the stored metadata is unusable", extra={"reason": error.message})
            return {}
        return found
