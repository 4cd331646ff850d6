"""Placing: inputs are links nobody can write to, outputs appear whole and stay in their folder."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2prc.errors import DiskFull, FileUnknown, MachineCannot, OutputConflict, PathInvalid
from p2prc.files.place import OutputClaims, link_farm, place_inputs, write_outputs
from p2prc.model.identity import BlobId
from p2prc.model.tree import FileEntry, Tree
from p2prc.storage.blobs import BlobStore
from tests.unit.storage_disks import mounted


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=1 << 30)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        yield disk


def tree_of(store: BlobStore, *paths: str, content: str = "", size: int = 0) -> Tree:
    entries = []
    for path in sorted(paths):
        body = os.urandom(size) if size else (content or path).encode()
        entries.append(FileEntry(path, store.put_bytes(body), len(body), path.endswith(".sh")))
    return Tree(files=tuple(entries))


def names_in(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# -- inputs --


def test_inputs_are_links_to_the_store_and_executables_may_run(
    store: BlobStore, tmp_path: Path
) -> None:
    tree = tree_of(store, "a", "scene/b/mesh", "scene/run.sh")
    place_inputs(tree, store, tmp_path / "lease" / "inputs")
    inputs = tmp_path / "lease" / "inputs"
    assert (inputs / "scene" / "b" / "mesh").read_text() == "scene/b/mesh"
    assert (inputs / "a").samefile(store.path_of(tree.files[0].blob))
    assert mode_of(inputs / "a") == 0o444
    assert mode_of(inputs / "scene" / "run.sh") == 0o555
    assert mode_of(inputs / "scene") == 0o755


def test_inputs_are_copies_where_the_work_is_not_kept_from_them(
    store: BlobStore, tmp_path: Path
) -> None:
    tree = tree_of(store, "a", "run.sh")
    place_inputs(tree, store, tmp_path / "inputs", may_link=False)
    (tmp_path / "inputs" / "a").chmod(0o644)
    (tmp_path / "inputs" / "a").write_text("spoiled")
    assert store.read(tree.files[0].blob) == b"a"
    assert mode_of(tmp_path / "inputs" / "run.sh") == 0o555


def test_inputs_on_another_disk_are_copied(store: BlobStore, small_disk: Path) -> None:
    tree = tree_of(store, "x/a", "run.sh")
    place_inputs(tree, store, small_disk / "inputs")
    assert (small_disk / "inputs" / "x" / "a").read_text() == "x/a"
    assert mode_of(small_disk / "inputs" / "run.sh") == 0o555


def test_inputs_that_were_placed_are_not_placed_again(store: BlobStore, tmp_path: Path) -> None:
    tree = tree_of(store, "a", "x/b")
    place_inputs(tree, store, tmp_path / "inputs")
    before = (tmp_path / "inputs").stat().st_ino
    place_inputs(tree, store, tmp_path / "inputs")
    assert (tmp_path / "inputs").stat().st_ino == before
    assert not list(tmp_path.glob(".partial*"))


def test_a_working_folder_with_a_link_in_it_is_not_left(store: BlobStore, tmp_path: Path) -> None:
    work, elsewhere = tmp_path / "work", tmp_path / "elsewhere"
    work.mkdir()
    elsewhere.mkdir()
    (work / "x").symlink_to(elsewhere)
    (work / "a").symlink_to(elsewhere / "made")
    with pytest.raises(PathInvalid, match="link"):
        link_farm(tree_of(store, "x/a"), "/inputs", work)
    with pytest.raises(PathInvalid, match="there already"):
        link_farm(tree_of(store, "a"), "/inputs", work)
    assert list(elsewhere.iterdir()) == []


def test_an_input_whose_blob_is_gone_is_said(store: BlobStore, tmp_path: Path) -> None:
    tree = Tree(files=(FileEntry("a", BlobId("0" * 64), 1),))
    with pytest.raises(FileUnknown):
        place_inputs(tree, store, tmp_path / "lease" / "inputs")
    assert list((tmp_path / "lease").iterdir()) == []


def test_empty_folders_are_made(store: BlobStore, tmp_path: Path) -> None:
    tree = Tree(empty_folders=("x/y",))
    place_inputs(tree, store, tmp_path / "inputs")
    (tmp_path / "work").mkdir()
    link_farm(tree, "/inputs", tmp_path / "work")
    write_outputs(tree, store, tmp_path / "out")
    for root in ("inputs", "work", "out"):
        assert (tmp_path / root / "x" / "y").is_dir()


def test_a_working_folder_looks_like_the_inputs_and_can_be_written_to(
    store: BlobStore, tmp_path: Path
) -> None:
    inputs, work = tmp_path / "inputs", tmp_path / "work"
    work.mkdir()
    tree = tree_of(store, "a", "scene/b")
    place_inputs(tree, store, inputs)
    link_farm(tree, str(inputs), work)
    assert (work / "scene" / "b").read_text() == "scene/b"
    assert (work / "scene" / "b").readlink() == inputs / "scene" / "b"
    (work / "scene" / "new").write_text("beside")
    assert not (inputs / "scene" / "new").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_new_folders_belong_to_whoever_owns_the_working_folder(
    store: BlobStore, tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    os.chown(work, 12345, 12346)
    link_farm(tree_of(store, "x/y/a"), "/inputs", work)
    for folder in (work / "x", work / "x" / "y"):
        assert (folder.stat().st_uid, folder.stat().st_gid) == (12345, 12346)


def test_a_tree_deeper_than_the_descriptor_limit_is_placed(
    store: BlobStore, tmp_path: Path
) -> None:
    deep = "/".join(["a"] * 500)
    tree = tree_of(store, f"{deep}/one", f"{deep}/two")
    place_inputs(tree, store, tmp_path / "inputs")
    assert (tmp_path / "inputs" / deep / "two").exists()
    assert len(list(Path("/proc/self/fd").iterdir())) < 100


# -- outputs --


def test_outputs_are_copies_the_user_may_edit(store: BlobStore, tmp_path: Path) -> None:
    tree = tree_of(store, "frames/1.png", "run.sh")
    write_outputs(tree, store, tmp_path / "deep" / "out")
    frame = tmp_path / "deep" / "out" / "frames" / "1.png"
    frame.write_text("edited")
    assert store.read(tree.files[0].blob) == b"frames/1.png"
    assert mode_of(tmp_path / "deep" / "out" / "run.sh") & 0o100
    assert not mode_of(frame) & 0o111


def test_writing_again_replaces_whole_files_and_clears_what_a_crash_left(
    store: BlobStore, tmp_path: Path
) -> None:
    write_outputs(tree_of(store, "a", content="one"), store, tmp_path / "out")
    (tmp_path / "out" / "other").write_text("mine")
    descriptor = (tmp_path / "out" / "a").open()
    write_outputs(tree_of(store, "a", content="two"), store, tmp_path / "out")
    with descriptor:
        assert descriptor.read() == "one"
    assert (tmp_path / "out" / "a").read_text() == "two"
    assert names_in(tmp_path / "out") == ["a", "other"]


def test_a_link_below_the_folder_is_not_followed(store: BlobStore, tmp_path: Path) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    out.mkdir()
    elsewhere.mkdir()
    (elsewhere / "a").write_text("precious")
    (out / "x").symlink_to(elsewhere)
    (out / "a").symlink_to(elsewhere / "a")
    with pytest.raises(PathInvalid, match="link"):
        write_outputs(tree_of(store, "x/a"), store, out)
    write_outputs(tree_of(store, "a"), store, out)
    assert not (out / "a").is_symlink()
    assert (elsewhere / "a").read_text() == "precious"


def test_a_folder_that_the_user_named_may_be_a_link(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "real")
    write_outputs(tree_of(store, "a"), store, tmp_path / "out")
    assert (tmp_path / "real" / "a").exists()


def test_a_folder_where_a_file_must_be_is_said(store: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "out" / "a" / "b").mkdir(parents=True)
    with pytest.raises(PathInvalid, match="is a folder"):
        write_outputs(tree_of(store, "a"), store, tmp_path / "out")
    (tmp_path / "out" / "file").write_text("")
    with pytest.raises(MachineCannot, match="cannot write results"):
        write_outputs(tree_of(store, "a"), store, tmp_path / "out" / "file")


def test_a_full_disk_keeps_what_is_finished_and_no_half_a_file(
    store: BlobStore, small_disk: Path
) -> None:
    tree = tree_of(store, "a", "b", "c", size=400_000)
    with pytest.raises(DiskFull):
        write_outputs(tree, store, small_disk / "out")
    assert names_in(small_disk / "out") == ["a", "b"]
    assert all(file.stat().st_size == 400_000 for file in (small_disk / "out").iterdir())


def test_two_tasks_with_one_path_conflict_by_name_and_claim_nothing(store: BlobStore) -> None:
    claims = OutputClaims()
    claims.claim(tree_of(store, "a", "x/b"), "task 1")
    with pytest.raises(OutputConflict, match="tasks task 1 and task 2 both give `x/b`"):
        claims.claim(tree_of(store, "new", "x/b"), "task 2")
    claims.claim(tree_of(store, "new", "x/c"), "task 3")
    claims.claim(tree_of(store, "a", "x/b"), "task 1")


@pytest.mark.parametrize(("first", "second"), [("a", "a/b"), ("a/b", "a"), ("a", "a/b/c")])
def test_a_file_and_a_folder_of_one_name_conflict(
    store: BlobStore, first: str, second: str
) -> None:
    claims = OutputClaims()
    claims.claim(tree_of(store, first), "one")
    with pytest.raises(OutputConflict):
        claims.claim(tree_of(store, second), "two")


def test_one_path_in_two_folders_is_no_conflict(store: BlobStore) -> None:
    claims = OutputClaims()
    claims.claim(tree_of(store, "a"), "one", to="/home/alice/1")
    claims.claim(tree_of(store, "a"), "two", to="/home/alice/2")
