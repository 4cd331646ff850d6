"""Pages: facts as they are signed and handed on, many at a time.

Facts are loose until they are about to be sent; then they are sealed on a page, with one signature.
Every life of a node writes pages of its own about a job, numbered from 0: a log. A ledger is a set
of logs, and two ledgers are merged by sending each other what the other lacks. A page counts only
if whoever signed it holds the job, and may say what it says: the submitter alone cancels, tries
again and has results collected.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, TypeVar

import msgspec
from msgspec import Meta

from p2prc.errors import WireError
from p2prc.model.identity import JobIdField, NodeId, NodeIdField
from p2prc.protocol.jobs.facts import (
    CoordinatorTook,
    Fact,
    JobCancelled,
    KeepersNamed,
    TasksRetried,
    TaskSucceeded,
    encode_fact,
)
from p2prc.protocol.jobs.ledger import Ledger
from p2prc.wire.codec import Codec, encode
from p2prc.wire.signed import Envelope, sign, verify

PAGE_LIMIT_BYTES = 256 * 1024
FACTS_LIMIT = 1000
LOGS_LIMIT = 4000
PAGES_LIMIT = 100_000_000
_FULL_BYTES = 128 * 1024
_PURPOSE = "p2prc job page 1"

Item = TypeVar("Item")
Life = Annotated[str, Meta(pattern=r"^[0-9a-f]{20}$(?!\n)")]
PageNumber = Annotated[int, Meta(ge=0, le=PAGES_LIMIT)]


class Page(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Some facts about one job: the page `number` of this life of its author."""

    job: JobIdField
    life: Life
    number: PageNumber
    facts: Annotated[tuple[Fact, ...], Meta(min_length=1, max_length=FACTS_LIMIT)]


class LogLength(msgspec.Struct, frozen=True, forbid_unknown_fields=True, array_like=True):
    """So many pages of one life of one author."""

    author: NodeIdField
    life: Life
    count: PageNumber


class LogName(NamedTuple):
    """Whose pages, and of which of its lives."""

    author: NodeId
    life: str


@dataclass(frozen=True, slots=True)
class SignedPage:
    """A page, and who is known to have signed it."""

    author: NodeId
    page: Page

    @property
    def log(self) -> LogName:
        """The log that it belongs to."""
        return LogName(self.author, self.page.life)


_codec: Codec[Page] = Codec(Page, limit_bytes=PAGE_LIMIT_BYTES)


def sign_page(secret: bytes, page: Page) -> Envelope:
    """Sign our own page with the node's 32-byte seed."""
    return sign(secret, _PURPOSE, encode(page))


def open_page(envelope: Envelope) -> SignedPage:
    """Return the page if its author signed it; raise `WireError`."""
    return SignedPage(NodeId(envelope.author.hex()), _codec.decode(verify(envelope, _PURPOSE)))


def read_page(envelope: Envelope) -> SignedPage:
    """Return a page of our own store, which was verified before it came there."""
    return SignedPage(NodeId(envelope.author.hex()), _codec.decode(envelope.payload))


def in_pages(facts: Sequence[Fact]) -> Iterator[tuple[Fact, ...]]:
    """Cut facts into as many as fit on one page."""
    some: list[Fact] = []
    size_bytes = 0
    for fact in facts:
        fact_bytes = len(encode_fact(fact))
        if some and (size_bytes + fact_bytes > _FULL_BYTES or len(some) == FACTS_LIMIT):
            yield tuple(some)
            some, size_bytes = [], 0
        some.append(fact)
        size_bytes += fact_bytes
    if some:
        yield tuple(some)


def in_turn(logs: Sequence[Sequence[Item]]) -> Iterator[Item]:
    """Yield the first of each log, then the second of each: what names an author comes soon."""
    for number in range(max(map(len, logs), default=0)):
        for log in logs:
            if number < len(log):
                yield log[number]


class Logs:
    """How much of which log is here; the pages themselves are the driver's."""

    def __init__(self, lengths: Iterable[LogLength] = ()) -> None:
        self._counts = {LogName(one.author, one.life): one.count for one in lengths}

    def count(self, log: LogName) -> int:
        """Return how many pages of the log are here."""
        return self._counts.get(log, 0)

    def add(self, signed: SignedPage) -> None:
        """Count a page as here."""
        self._counts[signed.log] = signed.page.number + 1

    def lengths(self) -> tuple[LogLength, ...]:
        """Return what is here, to be told to others."""
        return tuple(LogLength(*log, count) for log, count in sorted(self._counts.items()))

    def lacking(self, theirs: Logs) -> list[tuple[LogName, int]]:
        """Return which logs are longer here, and from which page on the other lacks them."""
        return [
            (log, theirs.count(log))
            for log, count in sorted(self._counts.items())
            if count > theirs.count(log)
        ]

    def sift(
        self, ledger: Ledger, pages: Sequence[SignedPage]
    ) -> tuple[list[SignedPage], list[str]]:
        """Return the pages that are new and count, in order, and why others do not.

        A page may name the keeper that wrote the one before it: so it is looked again until
        nothing more is found. Changes nothing.
        """
        holders = dict.fromkeys(ledger.holders)
        counts: dict[LogName, int] = {}
        found: list[SignedPage] = []
        waiting = list(pages)
        while waiting:
            later = []
            for signed in waiting:
                count = counts.get(signed.log, self.count(signed.log))
                if signed.page.number < count:
                    continue
                if signed.page.number > count or _fault(ledger, signed, holders) is not None:
                    later.append(signed)
                    continue
                is_new_log = count == 0 and signed.log not in counts
                if is_new_log and len(self._counts) + len(counts) >= LOGS_LIMIT:
                    continue
                counts[signed.log] = count + 1
                found.append(signed)
                for fact in signed.page.facts:
                    if isinstance(fact, KeepersNamed):
                        holders.update(dict.fromkeys(fact.keepers))
            if len(later) == len(waiting):
                faults = [
                    _fault(ledger, one, holders) or "a page before it is lacking" for one in later
                ]
                return found, faults
            waiting = later
        return found, []


def _fault(ledger: Ledger, signed: SignedPage, holders: dict[NodeId, None]) -> str | None:
    """Return why a page does not count, None if it does."""
    page, author = signed.page, signed.author
    if page.job != ledger.job_id:
        return "a page about another job"
    if author not in holders:
        return "a page of a node that does not hold the job"
    for fact in page.facts:
        try:
            ledger.check(fact)
        except WireError as error:
            return error.message
        match fact:
            case JobCancelled() | TasksRetried() if author != ledger.job.submitter:
                return "only the submitter cancels and tries again"
            case TaskSucceeded() if fact.is_collected and author != ledger.job.submitter:
                return "only the submitter knows what it has collected"
            case CoordinatorTook() if fact.node != author:
                return "a node that speaks for another"
            case _:
                pass
    return None
