"""Collecting: a user's inputs are taken at their word, a stranger's outputs are not."""

import os
from pathlib import Path

import pytest

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    JobInvalid,
    LimitExceeded,
    OutputMissing,
    PathInvalid,
)
from p2prc.files.collect import OutputLimits, collect_inputs, collect_outputs
from p2prc.model.tree import Tree
from p2prc.storage.blobs import BlobStore

LIMITS = OutputLimits(size_bytes=1 << 20)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs", quota_bytes=1 << 30)


@pytest.fixture
def work(tmp_path: Path) -> Path:
    folder = tmp_path / "work"
    folder.mkdir()
    return folder


def paths(tree: Tree) -> list[str]:
    return [entry.path for entry in tree.files]


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


# -- inputs --


def test_a_file_keeps_its_name_and_a_folder_its_own(store: BlobStore, work: Path) -> None:
    write(work / "scene" / "b" / "mesh", "mesh")
    write(work / "scene" / "a")
    (work / "scene" / "hollow").mkdir()
    write(work / "tool").chmod(0o755)
    tree = collect_inputs([f"{work}/scene", f"{work}/tool"], store, owner="job")
    assert paths(tree) == ["scene/a", "scene/b/mesh", "tool"]
    assert tree.empty_folders == ("scene/hollow",)
    assert [entry.is_executable for entry in tree.files] == [False, False, True]
    assert store.read(tree.files[1].blob) == b"mesh"
    assert store.tree(tree.digest) == tree


@pytest.mark.parametrize("ending", ["/", "/.", "//"])
def test_a_trailing_slash_gives_what_is_in_the_folder(
    store: BlobStore, work: Path, ending: str
) -> None:
    write(work / "scene" / "a")
    write(work / "scene" / "b" / "c")
    assert paths(collect_inputs([f"{work}/scene{ending}"], store, owner="job")) == ["a", "b/c"]


def test_the_same_inputs_make_the_same_tree(store: BlobStore, work: Path) -> None:
    write(work / "a")
    write(work / "b")
    forward = collect_inputs([f"{work}/a", f"{work}/b"], store, owner="job")
    backward = collect_inputs([f"{work}/b", f"{work}/a"], store, owner="job")
    assert forward.digest == backward.digest


def test_inputs_stay_while_their_owner_needs_them(tmp_path: Path, work: Path) -> None:
    store = BlobStore(tmp_path / "small", quota_bytes=1000)
    write(work / "a", "a" * 500)
    tree = collect_inputs([str(work / "a")], store, owner="job")
    with pytest.raises(DiskFull):
        store.put_bytes(b"b" * 600)
    assert store.missing(tree) == []


def test_a_link_that_the_user_names_is_followed_and_one_inside_is_refused(
    store: BlobStore, work: Path
) -> None:
    write(work / "real" / "a")
    (work / "named").symlink_to(work / "real")
    assert paths(collect_inputs([str(work / "named")], store, owner="job")) == ["named/a"]
    for target in (work / "real" / "a", work / "real", Path("/etc/passwd"), work / "nowhere"):
        (work / "real" / "inner").symlink_to(target)
        for named in (work / "real", f"{work}/real/"):
            with pytest.raises(PathInvalid, match="is a link") as refusal:
                collect_inputs([str(named)], store, owner="job")
            assert refusal.value.hint
        (work / "real" / "inner").unlink()


def test_a_pipe_among_the_inputs_is_refused(store: BlobStore, work: Path) -> None:
    os.mkfifo(work / "pipe")
    for named in (work, work / "pipe"):
        with pytest.raises(PathInvalid):
            collect_inputs([str(named)], store, owner="job")


def test_an_input_that_is_not_there_is_named(store: BlobStore, work: Path) -> None:
    (work / "loop").symlink_to("loop")
    for name in ("absent", "loop"):
        with pytest.raises(FileUnknown, match=name):
            collect_inputs([str(work / name)], store, owner="job")


def test_two_inputs_that_give_one_path_are_refused_by_name(store: BlobStore, work: Path) -> None:
    write(work / "one" / "same")
    write(work / "two" / "same")
    with pytest.raises(PathInvalid, match=r"one/same` and `.*two/same` both give `same`"):
        collect_inputs([f"{work}/one/same", f"{work}/two/same"], store, owner="job")


def test_a_file_and_a_folder_of_one_name_are_refused(store: BlobStore, work: Path) -> None:
    write(work / "one" / "same")
    write(work / "two" / "same" / "file")
    with pytest.raises(PathInvalid):
        collect_inputs([f"{work}/one/same", f"{work}/two/same"], store, owner="job")


def test_an_input_whose_name_is_not_text_is_refused(store: BlobStore, work: Path) -> None:
    write(work / os.fsdecode(b"\xff"))
    with pytest.raises(PathInvalid, match="not text"):
        collect_inputs([str(work)], store, owner="job")


# -- outputs --


def test_what_matches_is_collected_and_the_rest_is_not(store: BlobStore, work: Path) -> None:
    write(work / "frames" / "1.png", "one")
    write(work / "frames" / "deep" / "2.png", "two").chmod(0o755)
    write(work / "frames" / "1.log")
    write(work / "other")
    found = collect_outputs(work, ["frames/**/*.png"], store, owner="task", limits=LIMITS)
    assert paths(found.tree) == ["frames/1.png", "frames/deep/2.png"]
    assert [entry.is_executable for entry in found.tree.files] == [False, True]
    assert store.read(found.tree.files[1].blob) == b"two"
    assert store.tree(found.tree.digest) == found.tree
    assert (work / "other").exists()


def test_no_patterns_is_no_outputs(store: BlobStore, work: Path) -> None:
    write(work / "file")
    assert collect_outputs(work, [], store, owner="task", limits=LIMITS).tree == Tree()


def test_a_pattern_that_matches_nothing_is_named(store: BlobStore, work: Path) -> None:
    write(work / "a.png")
    with pytest.raises(OutputMissing, match=r"`\*\.exr`"):
        collect_outputs(work, ["*.png", "*.exr"], store, owner="task", limits=LIMITS)


@pytest.mark.parametrize("pattern", ["/etc/passwd", "../*", "a/../../b"])
def test_a_pattern_that_leaves_is_refused(store: BlobStore, work: Path, pattern: str) -> None:
    with pytest.raises(JobInvalid):
        collect_outputs(work, [pattern], store, owner="task", limits=LIMITS)


def test_links_pipes_and_sockets_are_left_out_with_a_note(
    store: BlobStore, work: Path, tmp_path: Path
) -> None:
    secret = write(tmp_path / "secret" / "key", "secret")
    (work / "out").mkdir()
    (work / "out" / "file").symlink_to(secret)
    (work / "out" / "folder").symlink_to(secret.parent)
    (work / "escape").symlink_to("/")
    os.mkfifo(work / "out" / "pipe")
    write(work / "out" / "real")
    found = collect_outputs(work, ["**"], store, owner="task", limits=LIMITS)
    assert paths(found.tree) == ["out/real"]
    assert len(found.notes) == 4
    with pytest.raises(OutputMissing) as refusal:
        collect_outputs(work, ["out/f*"], store, owner="task", limits=LIMITS)
    assert "it is a link" in refusal.value.hint
    assert secret.read_text() == "secret"


def test_a_working_folder_swapped_for_a_link_below_is_not_followed(
    store: BlobStore, work: Path, tmp_path: Path
) -> None:
    write(tmp_path / "secret" / "key.png")
    (work / "frames").symlink_to(tmp_path / "secret")
    with pytest.raises(OutputMissing):
        collect_outputs(work, ["frames/*.png"], store, owner="task", limits=LIMITS)
    assert (tmp_path / "secret" / "key.png").exists()


def test_outputs_that_nobody_may_read_are_collected_all_the_same(
    store: BlobStore, work: Path
) -> None:
    write(work / "a" / "b" / "file").chmod(0o000)
    (work / "a" / "b").chmod(0o000)
    (work / "a").chmod(0o400)
    found = collect_outputs(work, ["a"], store, owner="task", limits=LIMITS)
    assert paths(found.tree) == ["a/b/file"]


def test_too_much_and_too_many_are_refused(store: BlobStore, work: Path) -> None:
    with (work / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(LimitExceeded, match="larger than 1M"):
        collect_outputs(work, ["sparse"], store, owner="task", limits=LIMITS)
    (work / "sparse").unlink()
    for number in range(4):
        write(work / str(number))
    with pytest.raises(LimitExceeded, match="more than 3"):
        collect_outputs(work, ["*"], store, owner="t", limits=OutputLimits(1 << 20, files=3))


@pytest.mark.parametrize("name", [b"\xff", b"a\\b", b"x" * 250 + b"/" + b"y" * 250])
def test_names_that_are_not_portable_are_refused(store: BlobStore, work: Path, name: bytes) -> None:
    deep = os.fsdecode(name)
    if "/" in deep:
        for _ in range(3):
            deep = f"{'z' * 250}/{deep}"
    write(work / deep)
    with pytest.raises(PathInvalid):
        collect_outputs(work, ["**"], store, owner="task", limits=LIMITS)


def test_hard_links_to_one_file_give_one_blob_twice(store: BlobStore, work: Path) -> None:
    write(work / "a")
    (work / "b").hardlink_to(work / "a")
    found = collect_outputs(work, ["*"], store, owner="task", limits=LIMITS)
    assert paths(found.tree) == ["a", "b"]
    assert len({entry.blob for entry in found.tree.files}) == 1


def test_names_that_no_manifest_could_carry_are_refused_where_they_are(
    store: BlobStore, work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("p2prc.files.collect.TREE_LIMIT_BYTES", 400)
    for number in range(4):
        write(work / f"{number}-{'long' * 10}")
    with pytest.raises(LimitExceeded, match="the names of 4 files"):
        collect_outputs(work, ["*"], store, owner="task", limits=LIMITS)
