"""The SFTP server that is handed to sandboxes, request by request."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.ssh import sftp_inside as sftp

HARMLESS = (4, 5, 6, 8, 10, 12, 99, 255)
"""Requests that touch no path: close, read, write, fstat, fsetstat, readdir, and unknown ones."""


def packet(kind: int, *fields: bytes) -> bytes:
    return bytes([kind]) + struct.pack(">I", 7) + b"".join(fields)


def code(answer: bytes) -> int:
    assert answer[0] == sftp.STATUS
    return int.from_bytes(answer[5:9], "big")


def path_text(path: Path) -> bytes:
    return sftp.text(os.fsencode(path))


def opened(server: sftp.Server, path: Path, flags: int) -> bytes:
    answer = server.answer(packet(3, path_text(path), struct.pack(">II", flags, 0)))
    assert answer[0] == sftp.HANDLE, answer
    return answer[5:]


@given(st.sampled_from(HARMLESS), st.binary(max_size=80))
def test_every_packet_is_answered(kind: int, body: bytes) -> None:
    answer = sftp.Server().answer(packet(kind, body))
    assert code(answer) in (sftp.FAILURE, sftp.BAD, sftp.UNSUPPORTED)
    assert answer[1:5] == struct.pack(">I", 7)


@given(st.binary(min_size=1, max_size=5000), st.integers(0, 100_000))
def test_what_is_written_at_a_place_is_read_there(content: bytes, offset: int) -> None:
    file = Path(f"/tmp/p2prc-sftp-{os.getpid()}")
    server = sftp.Server()
    try:
        handle = opened(server, file, sftp.READ | sftp.WRITE | sftp.CREATE | sftp.TRUNCATE)
        at = struct.pack(">Q", offset)
        assert code(server.answer(packet(6, handle, at, sftp.text(content)))) == sftp.OK
        answer = server.answer(packet(5, handle, at, struct.pack(">I", 1 << 30)))
        assert answer[5:] == sftp.text(content)
        end = struct.pack(">Q", offset + len(content))
        assert code(server.answer(packet(5, handle, end, struct.pack(">I", 10)))) == sftp.EOF
        assert code(server.answer(packet(4, handle))) == sftp.OK
        assert code(server.answer(packet(4, handle))) == sftp.FAILURE
    finally:
        file.unlink(missing_ok=True)


def test_refusals_have_their_codes(tmp_path: Path) -> None:
    server = sftp.Server()
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    both = path_text(tmp_path / "a") + path_text(tmp_path / "b")
    assert code(server.answer(packet(18, both))) == sftp.FAILURE, "a rename overwrites nothing"
    assert (tmp_path / "b").read_text() == "b"
    rename = sftp.text(b"posix-rename@openssh.com") + both
    assert code(server.answer(packet(200, rename))) == sftp.OK
    assert (tmp_path / "b").read_text() == "a"
    assert code(server.answer(packet(17, path_text(tmp_path / "none")))) == sftp.NO_SUCH_FILE
    assert code(server.answer(packet(200, sftp.text(b"copy-data")))) == sftp.UNSUPPORTED


def test_open_files_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sftp, "HANDLES_LIMIT", 2)
    server = sftp.Server()
    for _ in range(2):
        assert server.answer(packet(11, path_text(tmp_path)))[0] == sftp.HANDLE
    assert code(server.answer(packet(11, path_text(tmp_path)))) == sftp.FAILURE
