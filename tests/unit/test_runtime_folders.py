"""Folders that a stranger filled are measured and deleted without following a link."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from p2prc.runtime.process import folders

MEBIBYTE = 1 << 20


def deep(folder: Path, depth: int) -> None:
    """Nest folders deeper than any path can name."""
    here = os.open(folder, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d" * 100, dir_fd=here)
        below = os.open("d" * 100, os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)


def test_folders_deeper_than_a_path_can_be_are_deleted(tmp_path: Path) -> None:
    deep(tmp_path, 2000)
    folders.empty(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_folders_that_forbid_everything_are_deleted(tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b" / "c"
    inner.mkdir(parents=True)
    (inner / "file").touch()
    for folder in (inner, inner.parent, inner.parent.parent):
        folder.chmod(0)
    folders.remove(str(tmp_path / "a"))
    assert list(tmp_path.iterdir()) == []


def test_links_are_deleted_and_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    doomed = tmp_path / "doomed"
    (doomed / "inner").mkdir(parents=True)
    for place in (doomed, doomed / "inner"):
        (place / "link").symlink_to(outside)
        (place / "file-link").symlink_to(outside / "kept")
        (place / "broken").symlink_to("/no/such/thing")
    folders.remove(str(doomed))
    assert not doomed.exists()
    assert (outside / "kept").exists()


def test_a_folder_that_became_a_link_is_not_entered(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").touch()
    (tmp_path / "work").symlink_to(outside)
    with pytest.raises(OSError, match="work"):
        folders.empty(str(tmp_path / "work"))
    assert (outside / "kept").exists()


def test_pipes_and_sockets_are_deleted(tmp_path: Path) -> None:
    doomed = tmp_path / "doomed"
    doomed.mkdir()
    os.mkfifo(doomed / "pipe")
    folders.remove(str(doomed))
    assert not doomed.exists()


def test_deleting_what_is_gone_is_fine(tmp_path: Path) -> None:
    folders.remove(str(tmp_path / "never" / "was"))


def test_the_size_is_what_the_disk_gives(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x" * MEBIBYTE)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(100 * MEBIBYTE)
    assert MEBIBYTE <= folders.used_bytes(str(tmp_path)) < 1.2 * MEBIBYTE


def test_two_names_of_one_file_count_once_and_links_not_at_all(tmp_path: Path) -> None:
    content = tmp_path / "content"
    content.write_bytes(b"x" * MEBIBYTE)
    os.link(content, tmp_path / "again")
    (tmp_path / "link").symlink_to("/usr")
    assert folders.used_bytes(str(tmp_path)) < 1.2 * MEBIBYTE


def test_a_locked_folder_hides_nothing(tmp_path: Path) -> None:
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "file").write_bytes(b"x" * MEBIBYTE)
    locked.chmod(0)
    assert folders.used_bytes(str(tmp_path)) >= MEBIBYTE


def test_absurd_depth_is_an_error_and_not_a_crash(tmp_path: Path) -> None:
    deep(tmp_path, 400)
    with pytest.raises(folders.TooDeep):
        folders.used_bytes(str(tmp_path))
    folders.empty(str(tmp_path))
