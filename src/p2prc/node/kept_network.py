"""What of its network a node finds again after a restart: its place, the table, and its relays."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from p2prc.authority import verify_chain
from p2prc.errors import P2prcError, WireError
from p2prc.model.identity import NodeId
from p2prc.model.record import SignedRecord, open_record
from p2prc.model.ticket import RELAYS_IN_TICKET
from p2prc.node.spare_network import SpareNetwork
from p2prc.node.standing import Standing
from p2prc.storage.schema import StoredRecord
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope

SAVE_DELAY_S = 5.0
SAVE_NEWCOMER_DELAY_S = 1.0
SAVE_FIRST_DELAY_S = 0.1
"""Soon, unlike news of a known node: who restarts finds the network by the addresses it kept."""
SPARE_DELAY_S = 1.0
"""Writing a file waits for the disk, which somebody who joins need not: the database has it."""
FEW = 4
"""Whoever has kept no more than these takes the first delay for the next."""
RELAYS = "relays-of-ticket"

log = logging.getLogger(__name__)
_envelopes: Codec[Envelope] = Codec(Envelope, limit_bytes=16 << 10)


class KeptNetwork:
    """Writes what is worth finding again, not more often than needed."""

    def __init__(
        self, own: NodeId, state: State, signed_of: Callable[[NodeId], SignedRecord | None]
    ) -> None:
        """`signed_of` is the newest known record of a node, None when it is forgotten."""
        self._own = own
        self._state = state
        self._signed_of = signed_of
        self._spare = SpareNetwork(state.folder)
        if state.value("membership") is None:
            self._take_spare()
        self.relays_of_ticket: tuple[str, ...] = _read_relays(state)
        """Relays that no member serves, as the ticket told them by which we came."""
        self._saving: asyncio.TimerHandle | None = None
        self._sparing: asyncio.TimerHandle | None = None
        self._unsaved: set[NodeId] = set()
        self._kept: set[NodeId] = set()

    def close(self) -> None:
        """Write what is new, and nothing later."""
        self.save()
        if self._sparing is not None:
            self._sparing.cancel()
        self._write_spare()

    # -- our place --

    def standing(self) -> Standing | None:
        """Return our place in the network of the last run."""
        network, chain = self._state.value("network"), self._state.value("membership")
        if network is None or chain is None:
            return None
        try:
            name = NodeId(network.decode())
            member = verify_chain(chain, network=name)
        except (P2prcError, UnicodeDecodeError) as error:
            log.warning("the stored membership is unusable", extra={"reason": str(error)})
            return None
        if member.node != self._own:
            log.warning("the stored membership is another node's")
            return None
        self._spare.keep_place(network, chain)
        self._write_spare_soon()
        return Standing(name, chain, member)

    def _take_spare(self) -> None:
        # The database was damaged, or its damage was met by a start that did not come this far.
        if not self._spare.chain:
            return
        now = time.time()
        found = []
        for envelope in self._spare.records:
            found.append(StoredRecord(open_record(envelope).record.node, encode(envelope), now))
        self._state.save_records(found)
        self._state.set_values({"network": self._spare.network, "membership": self._spare.chain})
        log.warning("the membership is taken from its spare file", extra={"known": len(found)})

    def remember(self, standing: Standing) -> None:
        """Take up this place again after a restart. Raises MachineCannot."""
        values = {"network": standing.network.encode(), "membership": standing.chain}
        # A node whose disk is full can start again: it writes nothing that is there.
        if any(self._state.value(key) != content for key, content in values.items()):
            self._state.set_values(values)
        self._spare.keep_place(values["network"], standing.chain)
        self._write_spare_soon()

    def keep_relays(self, relays: Sequence[str]) -> None:
        """Go on using what the ticket named, after a restart too."""
        found = tuple(url for url in relays if url.startswith(("http://", "https://")))
        if found != self.relays_of_ticket:
            self.relays_of_ticket = found
            self._state.set_values({RELAYS: "\n".join(found).encode() or None})

    # -- the table --

    def has_records(self) -> bool:
        """Whether others were known when it was last written."""
        return bool(self._state.records())

    def records(self) -> list[SignedRecord]:
        """Return the table of the last run."""
        found = []
        for stored in self._state.records():
            try:
                found.append(open_record(_envelopes.decode(stored.envelope)))
            except WireError as error:
                log.info("a stored record is unusable", extra={"reason": error.message})
        return found

    def forget(self) -> None:
        """Forget the table and the relays: they are another network's."""
        if stored := self._state.records():
            self._state.forget_records([record.node for record in stored])
        self._spare.forget_records()
        self._write_spare_soon()
        self._kept.clear()
        self.keep_relays(())

    def changed(self, node: NodeId) -> None:
        """Something is new about a node: write it soon."""
        self._unsaved.add(node)
        if node in self._kept:
            self._save_within(SAVE_DELAY_S)
        else:
            is_urgent = len(self._kept) <= FEW
            self._save_within(SAVE_FIRST_DELAY_S if is_urgent else SAVE_NEWCOMER_DELAY_S)

    def _save_within(self, delay_s: float) -> None:
        loop = asyncio.get_running_loop()
        if self._saving is not None:
            if self._saving.when() <= loop.time() + delay_s:
                return
            self._saving.cancel()
        self._saving = loop.call_later(delay_s, self.save)

    def save(self) -> None:
        """Write now what is new. A full disk keeps it for later."""
        if self._saving is not None:
            self._saving.cancel()
            self._saving = None
        changed, self._unsaved = self._unsaved, set()
        kept, gone, checked = [], [], []
        for node in sorted(changed):
            signed = self._signed_of(node)
            if signed is None:
                gone.append(node)
            elif node != self._own:
                kept.append(StoredRecord(node, encode(signed.envelope), time.time()))
                checked.append(signed)
        try:
            if kept:
                self._state.save_records(kept)
            if gone:
                self._state.forget_records(gone)
        except P2prcError as error:
            self._unsaved |= changed
            log.warning("the table of nodes was not saved", extra={"reason": error.message})
        else:
            self._kept = (self._kept | changed).difference(gone)
            self._spare.keep_records(checked, gone=gone)
            self._write_spare_soon()

    def _write_spare_soon(self) -> None:
        if self._spare.is_behind and self._sparing is None:
            loop = asyncio.get_running_loop()
            self._sparing = loop.call_later(SPARE_DELAY_S, self._write_spare)

    def _write_spare(self) -> None:
        self._sparing = None
        self._spare.write()


def _read_relays(state: State) -> tuple[str, ...]:
    stored = state.value(RELAYS) or b""
    return tuple(stored.decode("ascii", "replace").split())[:RELAYS_IN_TICKET]
