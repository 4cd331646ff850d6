"""The state: whole batches or nothing, through kills, damage and full disks."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2prc.errors import DiskFull, HomeUnusable, JobUnknown
from p2prc.model.identity import AttemptId, BlobId, JobId, LeaseId, NodeId
from p2prc.storage.schema import EndedLease, HeldAttempt, PeerUsage, StoredJob, StoredRecord
from p2prc.storage.state import State, open_state
from tests.unit.storage_disks import mounted

ALICE, BOB = NodeId("a1" * 32), NodeId("b2" * 32)
JOB = JobId("0" * 20)
LEASE = LeaseId("1" * 20)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    with open_state(tmp_path / "state.db") as opened:
        yield opened


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        yield disk


def job(number: int = 0) -> StoredJob:
    return StoredJob(JobId(f"{number:020x}"), b"description", "/to", "running", 1000.0 + number)


def attempt(submitter: NodeId, number: int) -> HeldAttempt:
    name = AttemptId(f"{JOB}-0-{number}-1")
    return HeldAttempt(submitter, name, JOB, LEASE, b"outcome", BlobId("c" * 64), 5.0 + number)


def test_values_are_set_together_and_forgotten_with_none(state: State) -> None:
    state.set_values({"name": b"atlas", "paused": b"1"})
    state.set_values({"paused": None, "network": b"x"})
    assert state.values() == {"name": b"atlas", "network": b"x"}
    assert state.value("name") == b"atlas"
    assert state.value("paused") is None


def test_the_newest_record_of_a_node_replaces_the_older(state: State) -> None:
    state.save_records([StoredRecord(BOB, b"1", 1.0), StoredRecord(ALICE, b"1", 1.0)])
    state.save_records([StoredRecord(BOB, b"2", 2.0)])
    assert state.records() == [StoredRecord(ALICE, b"1", 1.0), StoredRecord(BOB, b"2", 2.0)]
    state.forget_records([ALICE])
    assert [record.node for record in state.records()] == [BOB]


def test_facts_come_back_in_the_order_they_were_appended(state: State) -> None:
    state.add_job(job(), [b"first"])
    state.append_facts(JOB, [b"second", b"third"])
    state.append_facts(JOB, [])
    state.append_facts(JOB, [b"fourth"])
    assert state.facts(JOB) == [b"first", b"second", b"third", b"fourth"]


def test_adding_a_job_twice_is_adding_it_once(state: State) -> None:
    state.add_job(job(), [b"first"])
    state.add_job(job(), [b"first"])
    assert state.facts(JOB) == [b"first"]
    assert state.jobs() == [job()]


def test_facts_of_an_unknown_job_are_refused(state: State) -> None:
    with pytest.raises(JobUnknown):
        state.append_facts(JOB, [b"fact"])


def test_a_job_ends_and_goes_with_its_facts(state: State) -> None:
    state.add_job(job(0), [b"fact"])
    state.add_job(job(1))
    state.set_job_state(JOB, "succeeded", finished_at=2000.0)
    ended = state.job(JOB)
    assert ended is not None
    assert (ended.state, ended.finished_at) == ("succeeded", 2000.0)
    state.delete_job(JOB)
    assert state.jobs() == [job(1)]
    assert state.facts(JOB) == []
    assert state.job(JOB) is None


def test_a_batch_that_fails_leaves_nothing_of_it(state: State) -> None:
    state.add_job(job())
    with pytest.raises(HomeUnusable):
        state.append_facts(JOB, [b"good", object()])  # type: ignore[list-item]
    assert state.facts(JOB) == []
    state.append_facts(JOB, [b"after"])
    assert state.facts(JOB) == [b"after"]


def test_outcomes_are_each_submitters_own(state: State) -> None:
    for submitter in (ALICE, BOB):
        state.hold_attempt(attempt(submitter, 1))
        state.hold_attempt(attempt(submitter, 1))
    state.hold_attempt(attempt(ALICE, 2))
    assert state.held_attempts(ALICE, JOB) == [attempt(ALICE, 1), attempt(ALICE, 2)]
    state.drop_attempts(ALICE, [attempt(ALICE, 1).id])
    assert state.held_attempt(ALICE, attempt(ALICE, 1).id) is None
    assert state.held_attempt(BOB, attempt(BOB, 1).id) == attempt(BOB, 1)
    assert state.held_attempts(ALICE, JobId("9" * 20)) == []
    assert state.forget_held_before(7.0) == 1
    assert state.all_held_attempts() == [attempt(ALICE, 2)]


def test_usage_adds_up_by_peer_and_day(state: State) -> None:
    state.add_usage([PeerUsage(ALICE, "2026-03-01", 1.5, 10.0, 1)])
    state.add_usage(
        [PeerUsage(ALICE, "2026-03-01", 2.0, 5.0, 2), PeerUsage(ALICE, "2026-03-02", 1.0)]
    )
    assert state.usage() == [
        PeerUsage(ALICE, "2026-03-01", 3.5, 15.0, 3),
        PeerUsage(ALICE, "2026-03-02", 1.0),
    ]
    assert len(state.usage(since_day="2026-03-02")) == 1


def test_ended_leases_are_shown_newest_first(state: State) -> None:
    old = EndedLease(LEASE, ALICE, 1.0, 2.0, "time")
    new = EndedLease(LEASE, BOB, 2.0, 3.0, "owner", "killed", 4.5)
    state.add_ended_lease(old)
    state.add_ended_lease(new)
    assert state.ended_leases() == [new, old]
    assert state.ended_leases(newest=1) == [new]


def test_what_was_committed_survives_kill_minus_9(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    script = (
        "import os, signal, sys; from pathlib import Path\n"
        "from p2prc.storage.state import open_state\n"
        "from p2prc.storage.schema import HeldAttempt, StoredJob\n"
        "with open_state(Path(sys.argv[1])) as state:\n"
        "    state.add_job(StoredJob('0' * 20, b'd', '/to', 'running', 1.0), [b'first'])\n"
        "    state.hold_attempt(HeldAttempt('a', 'b', 'c', 'd', b'outcome', None, 1.0))\n"
        "    for batch in range(50): state.append_facts('0' * 20, [b'%d' % batch] * 20)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    ended = subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    with open_state(path) as state:
        assert state.notice == ""
        assert len(state.facts(JOB)) == 1001
        assert [held.outcome for held in state.all_held_attempts()] == [b"outcome"]


@pytest.mark.parametrize("where", ["header", "middle", "all"])
def test_a_damaged_file_is_set_aside_and_told_about(tmp_path: Path, where: str) -> None:
    path = tmp_path / "state.db"
    with open_state(path) as state:
        state.add_job(job(), [b"x" * 1000] * 200)
    content = bytearray(path.read_bytes())
    spoiled = {
        "header": slice(0, 100),
        "middle": slice(4096, len(content) - 4096),
        "all": slice(0, len(content)),
    }[where]
    content[spoiled] = b"\xff" * len(content[spoiled])
    path.write_bytes(content)
    for _ in range(2):
        with open_state(path) as state:
            assert state.jobs() == []
            notice = state.notice
        (tmp_path / "seen").write_text(notice) if notice else None
    assert "damaged" in (tmp_path / "seen").read_text()
    kept = [file for file in tmp_path.iterdir() if file.name.startswith("state.damaged-")]
    assert [file.read_bytes() for file in kept] == [bytes(content)]
    assert path.stat().st_mode & 0o077 == 0


def test_a_state_of_a_newer_version_is_refused_and_not_touched(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    with open_state(path) as state:
        state.set_values({"name": b"atlas"})
    with sqlite3.connect(path) as database:
        database.execute("pragma user_version = 99")
    database.close()
    with pytest.raises(HomeUnusable, match="newer version"), open_state(path):
        pass
    assert [file.name for file in tmp_path.iterdir()] == ["state.db"]


def test_a_full_disk_is_said_and_loses_nothing_that_was_finished(small_disk: Path) -> None:
    path = small_disk / "state.db"
    with open_state(path) as state:
        state.add_job(job(), [b"first"])
        batches = 0
        with pytest.raises(DiskFull):
            for _ in range(100):
                state.append_facts(JOB, [os.urandom(1000)] * 20)
                batches += 1
        assert batches > 0
        assert len(state.facts(JOB)) == 1 + 20 * batches
    with open_state(path) as state:
        assert state.notice == ""
        assert len(state.facts(JOB)) == 1 + 20 * batches


def test_a_folder_in_the_states_place_is_said(tmp_path: Path) -> None:
    (tmp_path / "state.db").mkdir()
    with pytest.raises(HomeUnusable), open_state(tmp_path / "state.db"):
        pass


def test_how_much_one_submitter_left_is_known_without_counting_all(tmp_path: Path) -> None:
    with open_state(tmp_path / "state.db") as state:
        for number in range(3):
            state.hold_attempt(
                HeldAttempt(
                    submitter=NodeId("a" * 64),
                    id=AttemptId(f"{'1' * 20}-0-{number}-0"),
                    job=JobId("1" * 20),
                    lease=LeaseId("2" * 20),
                    outcome=b"",
                    outputs=None,
                    ended_at=1.0,
                )
            )
        assert state.holds_at_least(NodeId("a" * 64), 3)
        assert not state.holds_at_least(NodeId("a" * 64), 4)
        assert not state.holds_at_least(NodeId("b" * 64), 1)
