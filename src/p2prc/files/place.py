"""Turn a tree of blobs into files on a disk: inputs into a lease, outputs to where the user said.

Inputs are placed once, as links to the store, and mounted read-only. Outputs are copies that the
user may edit; each appears whole or not at all, and is on the disk before this returns. All of it
blocks: call it in a thread.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from p2prc.errors import FileUnknown, MachineCannot, OutputConflict, PathInvalid
from p2prc.files.folders import below
from p2prc.model.tree import FileEntry, Tree
from p2prc.storage.blobs import BlobStore
from p2prc.storage.disk import copy_contents, sync_folder, telling_when_full
from p2prc.storage.removal import remove_tree

_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CANNOT_LINK = {errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.EACCES}


# -- inputs -----------------------------------------------------------------------------------


def place_inputs(tree: Tree, store: BlobStore, folder: Path, *, may_link: bool = True) -> None:
    """Put the tree's files into a folder of its own, below one that only we write to.

    The folder appears whole: one that is there was placed before, and nothing is done. Without
    `may_link` the files are copies: for work that is not kept from writing to them. Raises
    `FileUnknown` if a blob is missing, `DiskFull`.
    """
    with _placing(folder):
        if folder.exists():
            return
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        partial = folder.with_name(f".partial-{secrets.token_hex(8)}")
        partial.mkdir()
        partial.chmod(0o755)
        try:
            _place_all(tree, store, partial, may_link=may_link)
            _become(partial, folder)
        finally:
            remove_tree(partial)


def link_farm(tree: Tree, inputs_inside: str, work: Path) -> None:
    """Make the working folder look like the inputs: real folders, and a link for each file.

    `inputs_inside` is where the command sees the inputs. New folders belong to the owner of the
    working folder, so that the command may write beside its inputs.
    """
    with _placing(work):
        status = work.stat()
        with below(work, owner=(status.st_uid, status.st_gid)) as cursor:
            for entry in tree.files:
                *folders, name = entry.path.split("/")
                inside = cursor.enter(folders, make_mode=0o755)
                os.symlink(f"{inputs_inside}/{entry.path}", name, dir_fd=inside)
            for path in tree.empty_folders:
                cursor.enter(path.split("/"), make_mode=0o755)


def _place_all(tree: Tree, store: BlobStore, folder: Path, *, may_link: bool) -> None:
    with below(folder, owner=(os.geteuid(), os.getegid())) as cursor:
        for entry in tree.files:
            parts = entry.path.split("/")
            inside = cursor.enter(parts[:-1], make_mode=0o755)
            _place(entry, store, inside, may_link=may_link)
        for path in tree.empty_folders:
            cursor.enter(path.split("/"), make_mode=0o755)


def _become(partial: Path, folder: Path) -> None:
    try:
        partial.rename(folder)
    except OSError as error:
        # Another thread placed the same tree meanwhile.
        if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
            raise


def _place(entry: FileEntry, store: BlobStore, folder: int, *, may_link: bool) -> None:
    name = entry.path.rpartition("/")[2]
    if may_link:
        source = (
            store.executable_path_of(entry.blob)
            if entry.is_executable
            else store.path_of(entry.blob)
        )
        try:
            os.link(source, name, dst_dir_fd=folder, follow_symlinks=False)
        except OSError as error:
            # A file system may have no links, or no more for this file.
            if error.errno not in _CANNOT_LINK:
                raise
        else:
            return
    target = os.open(name, _NEW_FILE, 0o600, dir_fd=folder)
    try:
        with store.open(entry.blob) as source_file:
            copy_contents(source_file.fileno(), target)
        os.fchmod(target, 0o555 if entry.is_executable else 0o444)
    finally:
        os.close(target)


@contextmanager
def _placing(folder: Path) -> Iterator[None]:
    try:
        with telling_when_full(str(folder)):
            yield
    except FileExistsError as error:
        raise PathInvalid(f"`{error.filename2 or error.filename}` is there already") from error
    except FileNotFoundError as error:
        raise FileUnknown(f"`{error.filename}` disappeared") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MachineCannot(f"cannot write below `{folder}`: {reason}") from error


# -- outputs ----------------------------------------------------------------------------------


class OutputClaims:
    """Which task gave which path: the first one keeps it."""

    def __init__(self) -> None:
        self._files: dict[str, str] = {}
        self._folders: dict[str, str] = {}

    def claim(self, tree: Tree, task: str, *, to: str = "") -> None:
        """Take all paths for the task below `to`, or none: `OutputConflict` names both tasks.

        A task that claims again, having run again, conflicts with nobody.
        """
        files = [f"{to}/{entry.path}" for entry in tree.files]
        folders = [f"{to}/{path}" for path in tree.empty_folders]
        parents = dict.fromkeys(parent for path in files + folders for parent in _parents(path))
        for path in files:
            self._see_free(path, task, self._files.get(path) or self._folders.get(path))
        for path in (*folders, *parents):
            self._see_free(path, task, self._files.get(path))
        self._files |= dict.fromkeys(files, task)
        self._folders |= {path: task for path in (*folders, *parents) if path not in self._folders}

    def _see_free(self, path: str, task: str, holder: str | None) -> None:
        if holder is not None and holder != task:
            raise OutputConflict(
                f"the tasks {holder} and {task} both give `{path.lstrip('/')[:300]}`"
            )


def write_outputs(tree: Tree, store: BlobStore, to: Path) -> None:
    """Write the tree below the folder; a file that is there is replaced as a whole.

    A link below `to` is not followed (`PathInvalid`). On `DiskFull` the files that are finished
    stay, and calling again is safe. When this returns, the files outlive a power cut.
    """
    with _writing(to):
        to.mkdir(parents=True, exist_ok=True)
        with below(to) as cursor:
            for folders, entries in _by_folder(tree):
                inside = cursor.enter(folders, make_mode=0o777)
                for entry in entries:
                    _write(entry, store, inside)
                sync_folder(inside)
            for path in tree.empty_folders:
                cursor.enter(path.split("/"), make_mode=0o777)
        sync_folder(to)


def _by_folder(tree: Tree) -> list[tuple[tuple[str, ...], list[FileEntry]]]:
    found: dict[tuple[str, ...], list[FileEntry]] = {}
    for entry in tree.files:
        found.setdefault(tuple(entry.path.split("/")[:-1]), []).append(entry)
    return list(found.items())


def _write(entry: FileEntry, store: BlobStore, folder: int) -> None:
    name = entry.path.rpartition("/")[2]
    # Always the same name for one path: what a crash leaves is replaced by the next try.
    temporary = f".p2prc-{blake3(name.encode()).hexdigest()[:16]}"
    _unlink(temporary, folder)
    mode = 0o777 if entry.is_executable else 0o666
    target = os.open(temporary, _NEW_FILE, mode, dir_fd=folder)
    try:
        with store.open(entry.blob) as source:
            copy_contents(source.fileno(), target)
        os.fsync(target)
        os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        _unlink(temporary, folder)
        raise
    finally:
        os.close(target)


def _unlink(name: str, folder: int) -> None:
    try:
        os.unlink(name, dir_fd=folder)
    except FileNotFoundError:
        return


@contextmanager
def _writing(to: Path) -> Iterator[None]:
    try:
        with telling_when_full(f"results to `{to}`"):
            yield
    except IsADirectoryError as error:
        shown = error.filename2 or error.filename
        raise PathInvalid(f"`{shown}` below `{to}` is a folder where a file must be") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise MachineCannot(
            f"cannot write results to `{to}`: {reason}", hint="choose another folder: `--to DIR`"
        ) from error


def _parents(path: str) -> Iterator[str]:
    while path := path.rpartition("/")[0]:
        yield path
