"""What a node remembers, in SQLite: networks, records, jobs and their facts, outcomes, usage.

A commit survives kill -9 at once; a power cut may take the last moments, never what was older.
Values are bytes and text given by the callers: this room does not know what they mean. Instants
are UTC seconds since 1970. Every call is short enough for the event loop; write many at once.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Any

from p2prc.errors import DiskFull, HomeUnusable, JobUnknown
from p2prc.model.identity import AttemptId, JobId, LeaseId, NodeId
from p2prc.storage.schema import (
    MIGRATIONS,
    EndedLease,
    HeldAttempt,
    PeerUsage,
    StoredJob,
    StoredPage,
    StoredRecord,
)

log = logging.getLogger(__name__)

_JOB = "select id, description, to_folder, state, created_at, finished_at, role from job"
_HELD = "select submitter, id, job, lease, outcome, outputs, ended_at from attempt"
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_PRIMARY_CODE = 0xFF
_NOTHING_FREE_BYTES = 64 * 1024


class State:
    """The open database. `notice` tells what a person should know about how it was opened."""

    def __init__(self, database: sqlite3.Connection, path: Path, notice: str = "") -> None:
        self._database = database
        self._path = path
        self.notice = notice

    @property
    def folder(self) -> Path:
        """Where the database lies."""
        return self._path.parent

    # -- values: network, membership, name, policy, whether lending is paused --

    def values(self) -> dict[str, bytes]:
        return dict(self._read("select key, content from value order by key"))

    def value(self, key: str) -> bytes | None:
        rows = self._read("select content from value where key = ?", key)
        return rows[0][0] if rows else None

    def set_values(self, values: Mapping[str, bytes | None]) -> None:
        """Set them all or none; None forgets one."""
        kept = [(key, content) for key, content in values.items() if content is not None]
        dropped = [(key,) for key, content in values.items() if content is None]
        with self._transaction() as write:
            write.executemany("insert or replace into value values (?, ?)", kept)
            write.executemany("delete from value where key = ?", dropped)

    # -- records: what the others say about themselves --

    def save_records(self, records: Iterable[StoredRecord]) -> None:
        rows = [(record.node, record.envelope, record.seen_at) for record in records]
        with self._transaction() as write:
            write.executemany("insert or replace into record values (?, ?, ?)", rows)

    def records(self) -> list[StoredRecord]:
        rows = self._read("select node, envelope, seen_at from record order by node")
        return [StoredRecord(*row) for row in rows]

    def forget_records(self, nodes: Iterable[NodeId]) -> None:
        with self._transaction() as write:
            write.executemany("delete from record where node = ?", [(node,) for node in nodes])

    # -- jobs and their facts --

    def add_job(self, job: StoredJob, facts: Sequence[bytes] = ()) -> None:
        """Keep a new job with its first facts; adding it again changes nothing."""
        row = (job.id, job.description, job.to_folder, job.state, job.created_at, job.finished_at)
        with self._transaction() as write:
            added = write.execute(
                "insert or ignore into job values (?, ?, ?, ?, ?, ?, ?)", (*row, job.role)
            )
            if added.rowcount:
                _append(write, job.id, facts)

    def set_job_state(self, job: JobId, state: str, *, finished_at: float | None = None) -> None:
        with self._transaction() as write:
            write.execute(
                "update job set state = ?, finished_at = ? where id = ?", (state, finished_at, job)
            )

    def jobs(self) -> list[StoredJob]:
        rows = self._read(f"{_JOB} order by created_at, id")
        return [StoredJob(*row) for row in rows]

    def job(self, job: JobId) -> StoredJob | None:
        rows = self._read(f"{_JOB} where id = ?", job)
        return StoredJob(*rows[0]) if rows else None

    def delete_job(self, job: JobId) -> None:
        with self._transaction() as write:
            write.execute("delete from job where id = ?", (job,))

    def append_facts(self, job: JobId, facts: Sequence[bytes]) -> None:
        """Append them all, in this order and at once, or none; raise `JobUnknown`."""
        with self._transaction() as write:
            try:
                _append(write, job, facts)
            except sqlite3.IntegrityError as error:
                raise JobUnknown(f"no job `{job}` is kept here") from error

    def facts(self, job: JobId) -> list[bytes]:
        return [
            row[0] for row in self._read("select content from fact where job = ? order by seq", job)
        ]

    # -- pages of ledgers: facts that were signed, ours and others' --

    def add_pages(
        self, job: JobId, pages: Sequence[StoredPage], *, hold_all_loose: bool = False
    ) -> None:
        """Keep them all at once, or none; raise `JobUnknown`. A page that is here stays.

        With `hold_all_loose` they hold every loose fact of the job, which are forgotten as such.
        """
        rows = [(job, page.author, page.life, page.number, page.envelope) for page in pages]
        with self._transaction() as write:
            try:
                # A page that were there already would not hold what is loose now: that is a bug.
                kind = "insert" if hold_all_loose else "insert or ignore"
                write.executemany(
                    f"{kind} into page (job, author, life, number, envelope)"
                    " values (?, ?, ?, ?, ?)",
                    rows,
                )
            except sqlite3.IntegrityError as error:
                raise JobUnknown(f"no job `{job}` is kept here") from error
            if hold_all_loose:
                write.execute("delete from fact where job = ?", (job,))

    def pages(self, job: JobId) -> list[bytes]:
        """Return the pages of every log, in the order in which they came here."""
        rows = self._read("select envelope from page where job = ? order by seq", job)
        return [row[0] for row in rows]

    def log_lengths(self, job: JobId) -> list[tuple[NodeId, str, int]]:
        """Return author and life of each log, and how many pages of it are here."""
        rows = self._read(
            "select author, life, count(*) from page where job = ? group by author, life", job
        )
        return [(NodeId(author), life, count) for author, life, count in rows]

    def log_pages(
        self, job: JobId, author: NodeId, life: str, *, start: int, limit: int
    ) -> list[bytes]:
        """Return some pages of one log from a number on, in order."""
        rows = self._read(
            "select envelope from page where job = ? and author = ? and life = ? and number >= ?"
            " order by number limit ?",
            job,
            author,
            life,
            start,
            limit,
        )
        return [row[0] for row in rows]

    # -- what a provider holds for submitters --

    def hold_attempt(self, attempt: HeldAttempt) -> None:
        """Keep an outcome until it is acknowledged; holding it again changes nothing."""
        row = (attempt.submitter, attempt.id, attempt.job, attempt.lease)
        rest = (attempt.outcome, attempt.outputs, attempt.ended_at)
        with self._transaction() as write:
            write.execute("insert or ignore into attempt values (?, ?, ?, ?, ?, ?, ?)", row + rest)

    def held_attempts(self, submitter: NodeId, job: JobId) -> list[HeldAttempt]:
        """Return what is held of one job of this submitter."""
        rows = self._read(f"{_HELD} where submitter = ? and job = ? order by id", submitter, job)
        return [HeldAttempt(*row) for row in rows]

    def held_attempt(self, submitter: NodeId, attempt: AttemptId) -> HeldAttempt | None:
        rows = self._read(f"{_HELD} where submitter = ? and id = ?", submitter, attempt)
        return HeldAttempt(*rows[0]) if rows else None

    def holds_at_least(self, submitter: NodeId, count: int) -> bool:
        """Whether so many outcomes of this submitter wait to be acknowledged."""
        rows = self._read(
            "select 1 from attempt where submitter = ? limit 1 offset ?", submitter, count - 1
        )
        return bool(rows)

    def all_held_attempts(self) -> list[HeldAttempt]:
        """Return what is held for everybody, oldest first."""
        return [HeldAttempt(*row) for row in self._read(f"{_HELD} order by ended_at, id")]

    def drop_attempts(self, submitter: NodeId, attempts: Iterable[AttemptId]) -> None:
        """Forget outcomes of this submitter alone; another's attempt of that name stays."""
        rows = [(submitter, attempt) for attempt in attempts]
        with self._transaction() as write:
            write.executemany("delete from attempt where submitter = ? and id = ?", rows)

    def forget_held_before(self, ended_at: float) -> int:
        """Forget outcomes that nobody came for; return how many."""
        with self._transaction() as write:
            gone = write.execute("delete from attempt where ended_at < ?", (ended_at,))
            return gone.rowcount

    # -- what the owner looks at --

    def add_usage(self, used: Iterable[PeerUsage]) -> None:
        """Add to what each peer used on each day; of the disk, the most counts."""
        rows = [astuple(one) for one in used]
        with self._transaction() as write:
            write.executemany(
                "insert into usage values (?, ?, ?, ?, ?, ?, ?, ?, ?)"
                " on conflict (peer, day) do update set"
                " cpu_s = cpu_s + excluded.cpu_s,"
                " memory_byte_s = memory_byte_s + excluded.memory_byte_s,"
                " tasks = tasks + excluded.tasks,"
                " disk_peak_bytes = max(disk_peak_bytes, excluded.disk_peak_bytes),"
                " net_rx_bytes = net_rx_bytes + excluded.net_rx_bytes,"
                " net_tx_bytes = net_tx_bytes + excluded.net_tx_bytes,"
                " leases = leases + excluded.leases",
                rows,
            )

    def usage(self, *, since_day: str = "") -> list[PeerUsage]:
        rows = self._read(
            "select peer, day, cpu_s, memory_byte_s, tasks, disk_peak_bytes, net_rx_bytes,"
            " net_tx_bytes, leases from usage where day >= ?"
            " order by day, peer",
            since_day,
        )
        return [PeerUsage(*row) for row in rows]

    def forget_usage(self, *, before_day: str, beyond: int) -> None:
        """Forget days before that one, and the oldest rows where there are more than `beyond`."""
        with self._transaction() as write:
            write.execute("delete from usage where day < ?", (before_day,))
            write.execute(
                "delete from usage where (peer, day) in (select peer, day from usage"
                " order by day desc, peer limit -1 offset ?)",
                (beyond,),
            )

    def keep_lease(self, lease: LeaseId, content: bytes) -> None:
        """Keep what the node's next life needs of a lease; a second time replaces it."""
        with self._transaction() as write:
            write.execute("insert or replace into kept_lease values (?, ?)", (lease, content))

    def kept_leases(self) -> list[tuple[LeaseId, bytes]]:
        rows = self._read("select lease, content from kept_lease order by lease")
        return [(LeaseId(lease), content) for lease, content in rows]

    def forget_kept_lease(self, lease: LeaseId) -> None:
        with self._transaction() as write:
            write.execute("delete from kept_lease where lease = ?", (lease,))

    def add_ended_lease(self, ended: EndedLease) -> None:
        row = (ended.lease, ended.peer, ended.created_at, ended.ended_at)
        rest = (ended.ended_by, ended.reason, ended.cpu_s)
        with self._transaction() as write:
            write.execute("insert into ended_lease values (?, ?, ?, ?, ?, ?, ?)", row + rest)

    def forget_leases_before(self, ended_at: float) -> None:
        """Forget leases that ended before then."""
        with self._transaction() as write:
            write.execute("delete from ended_lease where ended_at < ?", (ended_at,))

    def end_of_lease(self, peer: NodeId, lease: str) -> tuple[str, str] | None:
        """Return by whom and why a lease of this peer was ended."""
        rows = self._read(
            "select ended_by, reason from ended_lease where lease = ? and peer = ?", lease, peer
        )
        return (rows[-1][0], rows[-1][1]) if rows else None

    def ended_leases(self, *, newest: int = 100) -> list[EndedLease]:
        rows = self._read(
            "select lease, peer, created_at, ended_at, ended_by, reason, cpu_s from ended_lease"
            " order by ended_at desc limit ?",
            newest,
        )
        return [EndedLease(*row) for row in rows]

    # -- the database itself --

    def close(self) -> None:
        """Close it; calling twice is safe."""
        self._database.close()

    def _read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with _in_our_words(self._path):
            return self._database.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _in_our_words(self._path):
            self._database.execute("begin immediate")
            try:
                yield self._database
                self._database.execute("commit")
            except BaseException:
                # A full disk may have rolled it back already.
                if self._database.in_transaction:
                    self._database.execute("rollback")
                raise


@contextmanager
def open_state(path: Path) -> Iterator[State]:
    """Open the database, setting a damaged one aside, and close it with the block."""
    notice = ""
    with _in_our_words(path):
        try:
            database = _open(path)
        except sqlite3.DatabaseError as error:
            if _code(error) not in _DAMAGED:
                raise
            aside = _set_aside(path)
            notice = f"the state `{path}` was damaged ({error}); it is kept as `{aside.name}`"
            log.warning("the state was damaged", extra={"kept_as": str(aside)})
            database = _open(path)
    state = State(database, path, notice)
    try:
        yield state
    finally:
        state.close()


def _append(write: sqlite3.Connection, job: JobId, facts: Sequence[bytes]) -> None:
    newest = write.execute("select max(seq) from fact where job = ?", (job,)).fetchone()[0]
    rows = [(job, seq, fact) for seq, fact in enumerate(facts, (newest or 0) + 1)]
    write.executemany("insert into fact values (?, ?, ?)", rows)


def _open(path: Path) -> sqlite3.Connection:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
    database = sqlite3.connect(path, isolation_level=None, timeout=2.0)
    try:
        database.execute("pragma journal_mode = wal")
        database.execute("pragma synchronous = normal")
        database.execute("pragma foreign_keys = on")
        _check(database)
        _migrate(database)
    except BaseException:
        database.close()
        raise
    return database


def _check(database: sqlite3.Connection) -> None:
    verdict = database.execute("pragma quick_check(1)").fetchone()[0]
    if verdict != "ok":
        damage = sqlite3.DatabaseError(verdict)
        damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
        raise damage


def _migrate(database: sqlite3.Connection) -> None:
    version = database.execute("pragma user_version").fetchone()[0]
    if version > len(MIGRATIONS):
        raise HomeUnusable(
            "the state was written by a newer version of p2prc",
            hint="install that version again, or use another home",
        )
    for number, statements in enumerate(MIGRATIONS[version:], version + 1):
        database.executescript(
            f"begin immediate; {statements} pragma user_version = {number}; commit;"
        )


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    aside = path.with_name(f"{path.stem}.damaged-{stamp}")
    number = 1
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.stem}.damaged-{stamp}-{number}")
    path.rename(aside)
    # The log holds the newest commits: whoever repairs the file needs it under the same name.
    for suffix in ("-wal", "-shm"):
        extra = path.with_name(path.name + suffix)
        if extra.exists():
            extra.rename(aside.with_name(aside.name + suffix))
    return aside


@contextmanager
def _in_our_words(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = _code(error)
        if code == sqlite3.SQLITE_FULL or (code == sqlite3.SQLITE_IOERR and _is_full(path)):
            raise DiskFull(f"the disk is full: cannot write `{path}`") from error
        raise HomeUnusable(f"cannot use the state `{path}`: {error}") from error
    except OSError as error:
        raise HomeUnusable(f"cannot use the state `{path}`: {error.strerror}") from error


def _is_full(path: Path) -> bool:
    """Tell a full disk from a failing one: SQLite reports both as an input or output error."""
    status = os.statvfs(path.parent)
    return status.f_bavail * status.f_frsize < _NOTHING_FREE_BYTES


def _code(error: sqlite3.Error) -> int:
    return getattr(error, "sqlite_errorcode", 0) & _PRIMARY_CODE
