"""Trees: whatever a peer sends is a tree that stays in its folder, or a refusal."""

from pathlib import PurePosixPath

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import PathInvalid, WireError
from p2prc.model.identity import BlobId
from p2prc.model.tree import FileEntry, Tree, check_path, check_tree, decode_tree
from p2prc.wire.codec import encode

BLOB = BlobId("0" * 64)
parts = st.text(st.characters(blacklist_categories=["Cs"]), max_size=8) | st.sampled_from(
    ["..", ".", "", "a", "b", "\0", "\\", "a" * 300]
)
paths = st.lists(parts, max_size=5).map("/".join)


def tree_of(*names: str, empty: tuple[str, ...] = ()) -> Tree:
    return Tree(tuple(FileEntry(name, BLOB, 1) for name in names), empty)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_tree_or_a_refusal(manifest: bytes) -> None:
    try:
        assert isinstance(decode_tree(manifest), Tree)
    except (WireError, PathInvalid):
        return


@given(st.lists(paths, max_size=6), st.lists(paths, max_size=3))
def test_a_tree_that_is_accepted_stays_in_its_folder(files: list[str], folders: list[str]) -> None:
    tree = tree_of(*files, empty=tuple(folders))
    try:
        accepted = decode_tree(encode(tree))
    except PathInvalid:
        return
    assert accepted == tree
    names = files + folders
    assert len(set(names)) == len(names)
    for name in names:
        path = PurePosixPath("/folder") / name
        assert path.is_relative_to("/folder")
        assert ".." not in path.parts
        assert str(path) == f"/folder/{name}"
        assert not any(
            str(parent) in {f"/folder/{file}" for file in files} for parent in path.parents
        )


@given(st.lists(st.from_regex(r"[a-z]{1,5}\.[a-z]", fullmatch=True), unique=True, max_size=8))
def test_ordinary_names_are_accepted_and_name_the_tree_alike_everywhere(names: list[str]) -> None:
    tree = tree_of(*sorted(names))
    check_tree(tree)
    assert decode_tree(encode(tree)).digest == tree.digest
    assert tree.size_bytes == len(names)


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/./b",
        "a//b",
        "a/",
        "",
        ".",
        "..",
        "a\0b",
        "a\\b",
        "\udcff",
        "x" * 256,
        "/".join(["abc"] * 300),
    ],
)
def test_a_path_that_could_leave_or_is_not_plain_is_refused(path: str) -> None:
    with pytest.raises(PathInvalid):
        check_path(path)


@pytest.mark.parametrize(
    "tree",
    [
        tree_of("a", "a"),
        tree_of("a", empty=("a",)),
        tree_of("a", "a/b"),
        tree_of("a", "a/b/c/d"),
        tree_of("a", empty=("a/b",)),
    ],
)
def test_a_name_used_twice_or_as_file_and_folder_is_refused(tree: Tree) -> None:
    with pytest.raises(PathInvalid):
        decode_tree(encode(tree))


@pytest.mark.parametrize(
    "manifest",
    [
        {"files": [["a", "0" * 63, 1, False]], "empty_folders": []},
        {"files": [["a", "0" * 64, -1, False]], "empty_folders": []},
        {"files": [["a", "0" * 64, 1, False, "link"]], "empty_folders": []},
        {"files": [], "empty_folders": [], "links": []},
        {"files": [[b"a", "0" * 64, 1]]},
        [[]],
        None,
    ],
)
def test_a_manifest_of_another_shape_is_refused(manifest: object) -> None:
    with pytest.raises(WireError):
        decode_tree(msgspec.msgpack.encode(manifest))


def test_deep_nesting_and_a_huge_manifest_are_refused() -> None:
    for manifest in (b"\x91" * 100_000, b"\0" * ((16 << 20) + 1)):
        with pytest.raises(WireError):
            decode_tree(manifest)
