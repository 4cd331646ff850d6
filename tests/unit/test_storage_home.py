"""The home: made private, held alone, its key never replaced in silence."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2prc.errors import HomeBusy, HomeUnusable
from p2prc.storage.home import Home, node_secret, open_home
from tests.unit.storage_disks import mounted

is_root = os.geteuid() == 0


@pytest.fixture
def read_only_disk(tmp_path: Path) -> Iterator[Path]:
    with mounted(tmp_path / "disk", "ro") as disk:
        yield disk


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_and_its_key_are_the_owners_alone(tmp_path: Path) -> None:
    with open_home(tmp_path / "deep" / "home") as home:
        secret = node_secret(home)
        assert mode_of(home.folder) == 0o700
        assert mode_of(home.key) == 0o600
        assert len(secret) == 32
        assert node_secret(home) == secret
        assert home.key.read_text() == secret.hex() + "\n"
    with open_home(home.folder) as again:
        assert node_secret(again) == secret


def test_a_home_that_others_could_enter_is_closed_to_them(tmp_path: Path) -> None:
    folder = tmp_path / "home"
    folder.mkdir()
    folder.chmod(0o755)
    with open_home(folder):
        assert mode_of(folder) == 0o700


def test_a_second_node_is_told_which_process_holds_the_home(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from p2prc.storage.home import open_home\n"
        "with open_home(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(HomeBusy, match=rf"process {holder.pid}\)"), open_home(tmp_path):
            pass
        holder.kill()
    # Killed, not closed: its process id is still in the file, and locks nobody out.
    assert (tmp_path / "lock").read_text() == f"{holder.pid}\n"
    with open_home(tmp_path) as home:
        assert home.lock.read_text() == f"{os.getpid()}\n"


@pytest.mark.parametrize("content", [b"", b"short", b"z" * 64, b"ab" * 32 + b"\nmore", b"\0" * 64])
def test_a_damaged_key_is_an_error_and_is_kept(tmp_path: Path, content: bytes) -> None:
    with open_home(tmp_path) as home:
        home.key.write_bytes(content)
        home.key.chmod(0o600)
        with pytest.raises(HomeUnusable, match="damaged"):
            node_secret(home)
        assert home.key.read_bytes() == content


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    with open_home(tmp_path) as home:
        node_secret(home)
        home.key.chmod(mode)
        with pytest.raises(HomeUnusable, match="other users") as refusal:
            node_secret(home)
        assert "chmod 600" in refusal.value.hint


def test_a_key_that_is_a_link_or_a_pipe_is_refused(tmp_path: Path) -> None:
    with open_home(tmp_path / "home") as home:
        (tmp_path / "elsewhere").write_text("ab" * 32)
        home.key.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(HomeUnusable, match="link"):
            node_secret(home)
        home.key.unlink()
        os.mkfifo(home.key, 0o600)
        with pytest.raises(HomeUnusable, match="plain file"):
            node_secret(home)


def test_a_crash_while_the_key_was_written_leaves_no_half_a_key(tmp_path: Path) -> None:
    with open_home(tmp_path) as home:
        (tmp_path / "key.new").write_text("half")
        assert len(node_secret(home)) == 32
        assert not (tmp_path / "key.new").exists()


def test_a_home_on_a_read_only_disk_says_so(read_only_disk: Path) -> None:
    for folder in (read_only_disk, read_only_disk / "home"):
        with pytest.raises(HomeUnusable, match="read-only file system"), open_home(folder):
            pass


def test_a_home_that_is_a_file_says_so(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    for folder in (tmp_path / "home", tmp_path / "home" / "below"):
        with pytest.raises(HomeUnusable, match="not a folder"), open_home(folder):
            pass


@pytest.mark.skipif(not is_root, reason="only root can give a folder away")
def test_a_home_of_another_user_is_refused(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(HomeUnusable, match="another user"), open_home(tmp_path):
        pass


def test_a_home_with_a_long_path_has_its_socket_elsewhere(tmp_path: Path) -> None:
    assert Home(Path("/home/alice/.p2prc")).socket == Path("/home/alice/.p2prc/socket")
    folder = tmp_path / ("a" * 60) / ("b" * 60)
    with open_home(folder) as home:
        assert len(os.fsencode(home.socket)) <= 107
        assert mode_of(home.socket.parent) == 0o700
        assert home.socket == Home(folder).socket
        assert home.socket != Home(folder / "other").socket
    home.socket.parent.rmdir()


def test_leftovers_of_leases_go_whatever_their_permissions_and_no_link_is_followed(
    tmp_path: Path,
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("keep")
    leases = tmp_path / "home" / "leases"
    work = leases / "one" / "work"
    (work / "inner").mkdir(parents=True)
    (work / "link").symlink_to(precious)
    (leases / "link").symlink_to(precious)
    (work / "inner" / "file").write_text("x")
    os.mkfifo(work / "pipe")
    (work / "inner").chmod(0o000)
    work.chmod(0o500)
    with open_home(tmp_path / "home") as home:
        assert list(home.leases.iterdir()) == []
    assert (precious / "file").read_text() == "keep"


def test_leftovers_deeper_than_any_path_go_too(tmp_path: Path) -> None:
    leases = tmp_path / "home" / "leases"
    leases.mkdir(parents=True)
    descriptor = os.open(leases, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("deeper", dir_fd=descriptor)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    os.close(descriptor)
    with open_home(tmp_path / "home") as home:
        assert list(home.leases.iterdir()) == []
