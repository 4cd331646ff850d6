"""A job's facts on disk: loose ones of ours, and pages, which are signed here."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from p2prc.model.identity import JobId, NodeId
from p2prc.protocol.jobs.facts import Fact, KeepersNamed, decode_fact, encode_fact
from p2prc.protocol.jobs.pages import (
    PAGE_LIMIT_BYTES,
    LogLength,
    LogName,
    Page,
    SignedPage,
    in_turn,
    read_page,
    sign_page,
)
from p2prc.protocol.messages import SYNC_BYTES_LIMIT, SYNC_PAGES_LIMIT
from p2prc.storage.schema import StoredPage
from p2prc.storage.state import State
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope

_envelope: Codec[Envelope] = Codec(Envelope, limit_bytes=PAGE_LIMIT_BYTES + 1024)


class JobPages:
    """Speaks facts and pages where the storage speaks bytes. Every write may raise DiskFull."""

    def __init__(self, state: State, job: JobId, *, own: NodeId, secret: bytes) -> None:
        self._state = state
        self._job = job
        self._own = own
        self._secret = secret

    def facts(self) -> Iterator[Fact]:
        """Yield every fact of the ledger."""
        for envelope in self._state.pages(self._job):
            yield from read_page(_envelope.decode(envelope)).page.facts
        yield from self.loose()

    def loose(self) -> list[Fact]:
        """Return those facts of ours that are on no page."""
        return [decode_fact(fact) for fact in self._state.facts(self._job)]

    def lengths(self) -> list[LogLength]:
        """Return how much of each log is here."""
        return [LogLength(*one) for one in self._state.log_lengths(self._job)]

    def append(self, facts: Sequence[Fact]) -> None:
        """Keep facts of ours."""
        self._state.append_facts(self._job, [encode_fact(fact) for fact in facts])

    def seal(self, pages: Sequence[Page]) -> None:
        """Sign pages that hold everything loose."""
        signed = [(SignedPage(self._own, page), sign_page(self._secret, page)) for page in pages]
        stored = [_stored(page, envelope) for page, envelope in signed]
        self._state.add_pages(self._job, stored, hold_all_loose=True)

    def add(self, pages: Sequence[tuple[SignedPage, Envelope]]) -> None:
        """Keep pages of others, as their authors signed them."""
        if pages:
            self._state.add_pages(self._job, [_stored(*page) for page in pages])

    def some(self, wanted: Sequence[tuple[LogName, int]]) -> tuple[Envelope, ...]:
        """Return as many pages from these places on as go into one message."""
        logs = [
            self._state.log_pages(
                self._job, log.author, log.life, start=start, limit=SYNC_PAGES_LIMIT
            )
            for log, start in wanted[:SYNC_PAGES_LIMIT]
        ]
        found: list[Envelope] = []
        size_bytes = 0
        for envelope in in_turn(logs):
            size_bytes += len(envelope)
            if found and (size_bytes > SYNC_BYTES_LIMIT or len(found) == SYNC_PAGES_LIMIT):
                break
            found.append(_envelope.decode(envelope))
        return tuple(found)

    def naming(self, keeper: NodeId, *, by: NodeId) -> Envelope | None:
        """Return a page on which that node named the keeper."""
        for stored in self._state.pages(self._job):
            envelope = _envelope.decode(stored)
            signed = read_page(envelope)
            if signed.author == by and any(
                isinstance(fact, KeepersNamed) and keeper in fact.keepers
                for fact in signed.page.facts
            ):
                return envelope
        return None


def _stored(signed: SignedPage, envelope: Envelope) -> StoredPage:
    return StoredPage(signed.author, signed.page.life, signed.page.number, encode(envelope))
