"""The blob store: named by content, within its quota, never evicting what is in use."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2prc.errors import DiskFull, FileUnknown, InvalidInput, PathInvalid, WireError
from p2prc.model.identity import BlobId
from p2prc.model.tree import FileEntry, Tree
from p2prc.storage.blobs import BlobStore
from tests.unit.storage_disks import mounted

PLENTY = 1 << 30


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=PLENTY)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        yield disk


def name_of(content: bytes) -> BlobId:
    return BlobId(blake3(content).hexdigest())


def temporary_files(store: BlobStore, tmp_path: Path) -> list[Path]:
    return list((tmp_path / "blobs" / "incoming").iterdir())


def test_a_blob_is_named_by_its_content_and_read_only(store: BlobStore, tmp_path: Path) -> None:
    blob = store.put_bytes(b"hello")
    assert blob == name_of(b"hello")
    assert store.path_of(blob) == tmp_path / "blobs" / blob[:2] / blob[2:]
    assert stat.S_IMODE(store.path_of(blob).stat().st_mode) == 0o444
    assert store.read(blob) == b"hello"
    assert store.size(blob) == 5
    assert store.used_bytes == 5
    assert store.put_bytes(b"hello") == blob
    assert store.used_bytes == 5


@pytest.mark.parametrize("size_bytes", [0, 1, (1 << 20) + 1, (9 << 20) + 3])
@pytest.mark.parametrize("move", [False, True])
def test_a_file_is_kept_whole_whatever_its_size(
    store: BlobStore, tmp_path: Path, size_bytes: int, move: bool
) -> None:
    content = os.urandom(size_bytes)
    path = tmp_path / "file"
    path.write_bytes(content)
    blob, kept_bytes = store.put_file(path, move=move)
    assert (blob, kept_bytes) == (name_of(content), size_bytes)
    assert store.read(blob) == content
    assert path.exists() is not move
    assert temporary_files(store, tmp_path) == []


def test_a_copy_does_not_change_with_the_users_file(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    blob, _ = store.put_file(path)
    path.write_bytes(b"after!")
    assert store.read(blob) == b"before"


def test_a_file_with_a_second_name_is_copied_not_moved(store: BlobStore, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"before")
    (tmp_path / "second").hardlink_to(path)
    blob, _ = store.put_file(path, move=True)
    (tmp_path / "second").write_bytes(b"after!")
    assert store.read(blob) == b"before"


def test_links_folders_and_pipes_are_no_files(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="symbolic links"):
        store.put_file(tmp_path / "link")
    for path in (tmp_path / "pipe", tmp_path, Path("/dev/zero")):
        with pytest.raises(PathInvalid):
            store.put_file(path)
    assert store.used_bytes == 0


def test_an_incoming_blob_exists_once_it_is_checked(store: BlobStore, tmp_path: Path) -> None:
    blob = name_of(b"hello")
    with store.incoming(blob, 5) as incoming:
        incoming.write(b"hel")
        assert not store.has(blob)
        incoming.write(memoryview(b"lo"))
    assert store.read(blob) == b"hello"
    assert temporary_files(store, tmp_path) == []


@pytest.mark.parametrize("content", [b"hell", b"hellO", b"hello!", b""])
def test_an_incoming_blob_that_is_not_what_it_says_leaves_nothing(
    store: BlobStore, tmp_path: Path, content: bytes
) -> None:
    with pytest.raises(WireError), store.incoming(name_of(b"hello"), 5) as incoming:
        incoming.write(content)
    assert not store.has(name_of(b"hello"))
    assert store.used_bytes == 0
    assert temporary_files(store, tmp_path) == []


def test_a_late_write_of_a_thread_reaches_no_file(store: BlobStore) -> None:
    with pytest.raises(WireError), store.incoming(name_of(b"hello"), 5) as incoming:
        incoming.write(b"he")
    incoming.write(b"llo")
    assert incoming.missing_bytes == 3


def test_a_restart_finds_the_blobs_and_drops_what_was_half_written(tmp_path: Path) -> None:
    before = BlobStore(tmp_path, quota_bytes=PLENTY)
    blob = before.put_bytes(b"hello")
    lost = before.put_bytes(b"cut off by a power cut")
    before.path_of(lost).chmod(0o644)
    before.path_of(lost).write_bytes(b"")
    (tmp_path / "incoming" / "half").write_bytes(b"hel")
    (tmp_path / "ab").mkdir(exist_ok=True)
    (tmp_path / "ab" / "stray").write_bytes(b"?")
    after = BlobStore(tmp_path, quota_bytes=PLENTY)
    assert after.has(blob)
    assert not after.has(lost)
    assert after.used_bytes == 5
    assert not (tmp_path / "incoming" / "half").exists()


def test_the_least_recently_used_goes_first_also_after_a_restart(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=30)
    blobs = [store.put_bytes(bytes([number]) * 10) for number in range(3)]
    store.path_of(blobs[0])
    store.put_bytes(b"x" * 10)
    assert [store.has(blob) for blob in blobs] == [True, False, True]
    again = BlobStore(tmp_path, quota_bytes=30)
    again.put_bytes(b"y" * 10)
    assert [again.has(blob) for blob in blobs] == [True, False, False]


def test_what_is_pinned_stays_and_a_full_quota_evicts_nothing_in_vain(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=30)
    blobs = [store.put_bytes(bytes([number]) * 10) for number in range(3)]
    store.pin("task", blobs[:2])
    with pytest.raises(DiskFull, match="in use"):
        store.put_bytes(b"x" * 11)
    assert all(store.has(blob) for blob in blobs)
    store.unpin("task")
    store.unpin("task")
    store.put_bytes(b"x" * 11)
    assert store.used_bytes <= 30


def test_a_blob_pinned_by_two_stays_until_both_let_go(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=10)
    blob = store.put_bytes(b"x" * 10)
    store.pin("one", [blob, blob])
    store.pin("two", [blob])
    store.unpin("one")
    with pytest.raises(DiskFull):
        store.put_bytes(b"y")
    store.unpin("two")
    store.put_bytes(b"y")


def test_a_kept_tree_survives_a_restart_and_a_pinned_one_does_not(tmp_path: Path) -> None:
    store = BlobStore(tmp_path, quota_bytes=PLENTY)
    trees = []
    for content, owner in ((b"kept", "attempt-1"), (b"pinned", "attempt-2")):
        tree = Tree(files=(FileEntry("f", store.put_bytes(content), len(content)),))
        store.put_tree(tree)
        store.pin_tree(owner, tree, survives=owner == "attempt-1")
        trees.append(tree)
    again = BlobStore(tmp_path, quota_bytes=1)
    assert again.missing(trees[0]) == []
    assert again.tree(trees[0].digest) == trees[0]
    assert again.missing(trees[1]) == list(trees[1].files)
    again.unpin("attempt-1")
    assert BlobStore(tmp_path, quota_bytes=1).used_bytes == 0


@pytest.mark.parametrize("owner", ["", "../x", "a/b", ".hidden", "x.new", "a" * 300])
def test_an_owner_that_is_no_name_cannot_keep(store: BlobStore, owner: str) -> None:
    with pytest.raises(InvalidInput):
        store.pin_tree(owner, Tree(), survives=True)


def test_an_executable_is_a_second_file(store: BlobStore) -> None:
    blob = store.put_bytes(b"#!/bin/true\n")
    path = store.executable_path_of(blob)
    assert stat.S_IMODE(path.stat().st_mode) == 0o555
    assert path.read_bytes() == store.read(blob)
    assert store.used_bytes == 2 * store.size(blob)
    assert store.executable_path_of(blob) == path
    store.discard(blob)
    assert not path.exists()
    assert store.used_bytes == 0


def test_a_blob_that_somebody_deleted_is_unknown_and_wanted_again(store: BlobStore) -> None:
    blob = store.put_bytes(b"hello")
    store.path_of(blob).unlink()
    with pytest.raises(FileUnknown):
        store.open(blob)
    assert not store.has(blob)
    store.put_bytes(b"hello")
    assert store.read(blob) == b"hello"


@pytest.mark.parametrize("name", ["", "..", "../../etc/passwd", "AB" * 32, "ab" * 31])
def test_a_name_that_is_no_hash_reaches_no_file(store: BlobStore, name: str) -> None:
    with pytest.raises(InvalidInput):
        store.path_of(BlobId(name))


def test_a_full_disk_is_said_and_leaves_no_half_a_blob(small_disk: Path) -> None:
    store = BlobStore(small_disk, quota_bytes=PLENTY)
    kept = store.put_bytes(b"k" * 100_000)
    big = os.urandom(2 << 20)
    with pytest.raises(DiskFull), store.incoming(name_of(big), len(big)) as incoming:
        incoming.write(big)
    with pytest.raises(DiskFull):
        store.put_bytes(big)
    assert list((small_disk / "incoming").iterdir()) == []
    assert store.used_bytes == store.size(kept)
    store.put_bytes(b"s" * 100_000)


class StoreKeepsItsQuotaAndItsPins(RuleBasedStateMachine):
    """Whatever is put, pinned and let go."""

    def __init__(self) -> None:
        super().__init__()
        import tempfile  # noqa: PLC0415 - a folder for each example

        self.folder = tempfile.TemporaryDirectory()
        self.store = BlobStore(Path(self.folder.name), quota_bytes=1000)
        self.pinned: dict[str, set[BlobId]] = {}

    @rule(content=st.binary(max_size=400))
    def put(self, content: bytes) -> None:
        try:
            assert self.store.read(self.store.put_bytes(content)) == content
        except DiskFull:
            assert any(self.pinned.values())

    @rule(content=st.binary(max_size=400), owner=st.sampled_from("ab"))
    def put_and_pin(self, content: bytes, owner: str) -> None:
        try:
            blob = self.store.put_bytes(content)
        except DiskFull:
            return
        self.store.pin(owner, [blob])
        self.pinned.setdefault(owner, set()).add(blob)

    @rule(owner=st.sampled_from("ab"))
    def unpin(self, owner: str) -> None:
        self.store.unpin(owner)
        self.pinned.pop(owner, None)

    @invariant()
    def what_is_pinned_is_here(self) -> None:
        for blobs in self.pinned.values():
            assert all(self.store.has(blob) for blob in blobs)

    @invariant()
    def the_quota_holds_and_the_books_match_the_disk(self) -> None:
        assert self.store.used_bytes <= 1000
        files = Path(self.folder.name).glob("??/*")
        assert self.store.used_bytes == sum(file.stat().st_size for file in files)

    def teardown(self) -> None:
        self.folder.cleanup()


TestStore = StoreKeepsItsQuotaAndItsPins.TestCase
TestStore.settings = settings(max_examples=30, stateful_step_count=20, deadline=None)
