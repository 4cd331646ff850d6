"""The tables of the state and their rows as values; no database is opened here."""

from __future__ import annotations

from dataclasses import dataclass

from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId

MIGRATIONS = (
    """
    create table value (key text primary key, content blob not null) without rowid;
    create table record (node text primary key, envelope blob not null, seen_at real not null);
    create table job (
        id text primary key,
        description blob not null,
        to_folder text not null,
        state text not null,
        created_at real not null,
        finished_at real
    );
    create table fact (
        job text not null references job (id) on delete cascade,
        seq integer not null,
        content blob not null,
        primary key (job, seq)
    ) without rowid;
    create table attempt (
        submitter text not null,
        id text not null,
        job text not null,
        lease text not null,
        outcome blob not null,
        outputs text,
        ended_at real not null,
        primary key (submitter, id)
    );
    create index attempt_by_job on attempt (submitter, job);
    create table usage (
        peer text not null,
        day text not null,
        cpu_s real not null,
        memory_byte_s real not null,
        tasks integer not null,
        primary key (peer, day)
    ) without rowid;
    create table ended_lease (
        lease text not null,
        peer text not null,
        created_at real not null,
        ended_at real not null,
        ended_by text not null,
        reason text not null,
        cpu_s real not null
    );
    create index ended_lease_by_end on ended_lease (ended_at);
    """,
    """
    alter table usage add column disk_peak_bytes integer not null default 0;
    alter table usage add column net_rx_bytes integer not null default 0;
    alter table usage add column net_tx_bytes integer not null default 0;
    alter table usage add column leases integer not null default 0;
    """,
    """
    create table kept_lease (lease text primary key, content blob not null) without rowid;
    """,
    """
    alter table job add column role text not null default 'submitter';
    create table page (
        seq integer primary key,
        job text not null references job (id) on delete cascade,
        author text not null,
        life text not null,
        number integer not null,
        envelope blob not null,
        unique (job, author, life, number)
    );
    """,
)
"""Statements that lead from one version of the schema to the next; only ever appended to."""


@dataclass(frozen=True, slots=True)
class StoredRecord:
    """A node's newest signed record, as its author signed it."""

    node: NodeId
    envelope: bytes
    seen_at: float


@dataclass(frozen=True, slots=True)
class StoredJob:
    """A job that we hold; its facts are asked for apart.

    `role`: submitter, keeper of another's, or reader.
    """

    id: JobId
    description: bytes
    to_folder: str
    state: str
    created_at: float
    finished_at: float | None = None
    role: str = "submitter"


@dataclass(frozen=True, slots=True)
class StoredPage:
    """A signed page of a job's ledger, as its author signed it."""

    author: NodeId
    life: str
    number: int
    envelope: bytes


@dataclass(frozen=True, slots=True)
class HeldAttempt:
    """A finished attempt that its submitter has not acknowledged yet."""

    submitter: NodeId
    id: AttemptId
    job: JobId
    lease: LeaseId
    outcome: bytes
    outputs: BlobId | None
    ended_at: float


@dataclass(frozen=True, slots=True)
class PeerUsage:
    """What one peer used of this node on one day (`2026-03-01`)."""

    peer: NodeId
    day: str
    cpu_s: float = 0.0
    memory_byte_s: float = 0.0
    tasks: int = 0
    disk_peak_bytes: int = 0
    net_rx_bytes: int = 0
    net_tx_bytes: int = 0
    leases: int = 0


@dataclass(frozen=True, slots=True)
class EndedLease:
    """How a lease ended: `ended_by` is owner, requester, time, limit, share or lost."""

    lease: LeaseId
    peer: NodeId
    created_at: float
    ended_at: float
    ended_by: str
    reason: str = ""
    cpu_s: float = 0.0
