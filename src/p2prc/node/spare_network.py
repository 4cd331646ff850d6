"""The way back into our network when the database is damaged: a small file of its own.

It holds our chain and some of the others' records, which are signed: what is damaged or foreign
in it is left out by whoever reads it. It is used only where the database knows no membership.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from p2prc.errors import DiskFull, WireError
from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord, open_record
from p2prc.storage.disk import write_private
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope

FILE = "membership"
RECORDS_LIMIT = 32
"""One that still answers is enough to come back."""
LIMIT_BYTES = 1 << 20

log = logging.getLogger(__name__)


class SpareContent(msgspec.Struct, frozen=True, array_like=True):
    """The file: our network, our chain in it, and records of others."""

    network: bytes
    chain: bytes
    records: tuple[Envelope, ...] = ()


spare_codec: Codec[SpareContent] = Codec(SpareContent, limit_bytes=LIMIT_BYTES)


class SpareNetwork:
    """What the file says, and whether it should say something new."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE
        content = self._read()
        self.network = content.network
        self.chain = content.chain
        self._records: dict[NodeId, tuple[Envelope, tuple[object, ...]]] = {}
        self._is_behind = False
        self._is_place_new = False
        self._add(_readable(content.records))

    @property
    def records(self) -> list[Envelope]:
        """The records of some other members."""
        return [envelope for envelope, _ in self._records.values()]

    @property
    def is_behind(self) -> bool:
        """Whether there is something to write."""
        return self._is_behind

    def keep_place(self, network: bytes, chain: bytes) -> None:
        """Keep our membership."""
        if (network, chain) != (self.network, self.chain):
            self.network, self.chain = network, chain
            self._is_behind = self._is_place_new = True

    def keep_records(self, checked: Iterable[SignedRecord], *, gone: Iterable[NodeId] = ()) -> None:
        """Keep by which addresses others are found, as long as there is room."""
        had = [self._records.pop(node, None) for node in gone]
        if self._add(checked) or any(had):
            self._is_behind = True

    def forget_records(self) -> None:
        """They are another network's."""
        if self._records:
            self._records.clear()
            self._is_behind = True

    def _add(self, checked: Iterable[SignedRecord]) -> bool:
        is_new = False
        for signed in checked:
            record = signed.record
            known = self._records.get(record.node)
            if known is None and len(self._records) >= RECORDS_LIMIT:
                continue
            way = (record.addresses, record.relays)
            # Most news is of load: no reason to write.
            is_new = is_new or known is None or known[1] != way
            self._records[record.node] = signed.envelope, way
        return is_new

    def _read(self) -> SpareContent:
        nothing = SpareContent(b"", b"")
        try:
            with self._path.open("rb") as file:
                return spare_codec.decode(file.read(LIMIT_BYTES + 1))
        except FileNotFoundError:
            return nothing
        except (OSError, WireError) as error:
            log.warning("the spare membership is unusable", extra={"reason": str(error)})
            return nothing

    def write(self) -> None:
        """Write what is new, if anything is. Never raises."""
        if not self._is_behind:
            return
        sync, self._is_behind, self._is_place_new = self._is_place_new, False, False
        content = SpareContent(self.network, self.chain, tuple(self.records))
        try:
            write_private(self._path, encode(content), sync=sync)
        except (OSError, DiskFull) as error:
            # The database has it: this is a second place.
            log.warning("the spare membership was not written", extra={"reason": str(error)})


def _readable(envelopes: Iterable[Envelope]) -> Iterator[SignedRecord]:
    for envelope in envelopes:
        try:
            yield open_record(envelope)
        except WireError as error:
            log.info("a spare record is unusable", extra={"reason": error.message})
