"""An SFTP server (version 3) on its standard input and output, for sandboxes that have none.

Runs inside the sandbox as the tenant, so what may be read and written is the kernel's business.
It must stand alone: its text is handed to the sandbox's own interpreter, of Python 3.8 or newer.
Protocol: draft-ietf-secsh-filexfer-02, and OpenSSH's `posix-rename`, `hardlink`, `fsync`,
`statvfs`, `limits` and `expand-path`.
"""

# Paths are the client's bytes, and they go to the kernel as they came.
from __future__ import annotations

import errno
import os
import stat
import struct
import sys
import time
from collections.abc import Callable
from typing import Any

PACKET_LIMIT = 256 * 1024
DATA_LIMIT = PACKET_LIMIT - 1024
HANDLES_LIMIT = 256
NAMES_PER_ANSWER = 100
OK, EOF, NO_SUCH_FILE, DENIED, FAILURE, BAD, UNSUPPORTED = 0, 1, 2, 3, 4, 5, 8
STATUS, HANDLE, DATA, NAME, ATTRS, EXTENDED_REPLY = 101, 102, 103, 104, 105, 201
READ, WRITE, APPEND, CREATE, TRUNCATE, EXCLUSIVE = 1, 2, 4, 8, 16, 32
SIZE, OWNER, MODE, TIMES = 1, 2, 4, 8
EXTENSIONS = (
    (b"posix-rename@openssh.com", b"1"),
    (b"hardlink@openssh.com", b"1"),
    (b"fsync@openssh.com", b"1"),
    (b"limits@openssh.com", b"1"),
    (b"expand-path@openssh.com", b"1"),
    (b"statvfs@openssh.com", b"2"),
    (b"fstatvfs@openssh.com", b"2"),
)


class Refused(Exception):
    """Answered with a status."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code


class Reader:
    """The fields of one packet."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.at = 0

    def take(self, size: int) -> bytes:
        found = self.content[self.at : self.at + size]
        if len(found) < size:
            raise Refused(BAD, "the packet is too short")
        self.at += size
        return found

    def number(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def long(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def text(self) -> bytes:
        return self.take(self.number())

    def attributes(self) -> dict[str, int]:
        flags, found = self.number(), {}
        if flags & SIZE:
            found["size"] = self.long()
        if flags & OWNER:
            found["user"], found["group"] = self.number(), self.number()
        if flags & MODE:
            found["mode"] = self.number()
        if flags & TIMES:
            found["accessed"], found["modified"] = self.number(), self.number()
        return found


def text(content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + content


def attributes_of(found: os.stat_result) -> bytes:
    times = [min(max(int(each), 0), 0xFFFFFFFF) for each in (found.st_atime, found.st_mtime)]
    return struct.pack(
        ">IQIIIII",
        SIZE | OWNER | MODE | TIMES,
        found.st_size,
        found.st_uid & 0xFFFFFFFF,
        found.st_gid & 0xFFFFFFFF,
        found.st_mode,
        *times,
    )


def entry_of(name: bytes, found: os.stat_result) -> bytes:
    when = time.strftime("%b %d %H:%M", time.localtime(found.st_mtime))
    line = "%s %4d %-8d %-8d %10d %s " % (  # noqa: UP031 - as `ls -l` has it
        stat.filemode(found.st_mode),
        found.st_nlink,
        found.st_uid,
        found.st_gid,
        found.st_size,
        when,
    )
    return text(name) + text(line.encode() + name) + attributes_of(found)


class Server:
    """The open handles, and an answer to every request."""

    def __init__(self) -> None:
        self.handles: dict[bytes, Any] = {}
        self.made = 0
        self.requests: dict[int, Callable[[Reader], bytes]] = {
            3: self.open,
            4: self.close,
            5: self.read,
            6: self.write,
            7: self.lstat,
            8: self.fstat,
            9: self.setstat,
            10: self.fsetstat,
            11: self.opendir,
            12: self.readdir,
            13: self.remove,
            14: self.mkdir,
            15: self.rmdir,
            16: self.realpath,
            17: self.stat,
            18: self.rename,
            19: self.readlink,
            20: self.symlink,
            200: self.extended,
        }

    def answer(self, packet: bytes) -> bytes:
        reader = Reader(packet)
        kind = reader.take(1)[0]
        if kind == 1:
            pairs = b"".join(text(name) + text(version) for name, version in EXTENSIONS)
            return b"\x02" + struct.pack(">I", 3) + pairs
        number = reader.take(4)
        try:
            body = self.requests.get(kind, unknown)(reader)
        except Refused as refusal:
            body = status(refusal.code, str(refusal))
        except OSError as error:
            body = status(code_of(error), error.strerror or "failure")
        except (ValueError, OverflowError) as error:
            body = status(BAD, str(error))
        return body[:1] + number + body[1:]

    def keep(self, thing: Any) -> bytes:
        self.made += 1
        handle = b"%d" % self.made
        self.handles[handle] = thing
        return bytes([HANDLE]) + text(handle)

    def check_room(self) -> None:
        if len(self.handles) >= HANDLES_LIMIT:
            raise Refused(FAILURE, "too many open files")

    def file(self, reader: Reader) -> int:
        found = self.handles.get(reader.text())
        if not isinstance(found, int):
            raise Refused(FAILURE, "no such handle")
        return found

    def open(self, reader: Reader) -> bytes:
        path, flags, wanted = reader.text(), reader.number(), reader.attributes()
        self.check_room()
        both = flags & READ and flags & WRITE
        how = os.O_RDWR if both else os.O_WRONLY if flags & WRITE else os.O_RDONLY
        for bit, meaning in (
            (APPEND, os.O_APPEND),
            (CREATE, os.O_CREAT),
            (TRUNCATE, os.O_TRUNC),
            (EXCLUSIVE, os.O_EXCL),
        ):
            how |= meaning if flags & bit else 0
        return self.keep(os.open(path, how | os.O_CLOEXEC, wanted.get("mode", 0o666) & 0o7777))

    def close(self, reader: Reader) -> bytes:
        found = self.handles.pop(reader.text(), None)
        if found is None:
            raise Refused(FAILURE, "no such handle")
        if isinstance(found, int):
            os.close(found)
        return status(OK)

    def read(self, reader: Reader) -> bytes:
        descriptor, offset, size = self.file(reader), reader.long(), reader.number()
        content = os.pread(descriptor, min(size, DATA_LIMIT), offset)
        return bytes([DATA]) + text(content) if content else status(EOF, "end of file")

    def write(self, reader: Reader) -> bytes:
        descriptor, offset, content = self.file(reader), reader.long(), reader.text()
        left = memoryview(content)
        while left:
            written = os.pwrite(descriptor, left, offset)
            left, offset = left[written:], offset + written
        return status(OK)

    def stat(self, reader: Reader) -> bytes:
        return bytes([ATTRS]) + attributes_of(os.stat(reader.text()))

    def lstat(self, reader: Reader) -> bytes:
        return bytes([ATTRS]) + attributes_of(os.lstat(reader.text()))

    def fstat(self, reader: Reader) -> bytes:
        return bytes([ATTRS]) + attributes_of(os.fstat(self.file(reader)))

    def setstat(self, reader: Reader) -> bytes:
        return change(reader.text(), reader.attributes())

    def fsetstat(self, reader: Reader) -> bytes:
        return change(self.file(reader), reader.attributes())

    def opendir(self, reader: Reader) -> bytes:
        path = reader.text()
        self.check_room()
        return self.keep([path, [b".", b"..", *sorted(os.listdir(path))]])

    def readdir(self, reader: Reader) -> bytes:
        found = self.handles.get(reader.text())
        if not isinstance(found, list):
            raise Refused(FAILURE, "no such handle")
        path, names = found
        entries: list[bytes] = []
        while names and len(entries) < NAMES_PER_ANSWER:
            name = names.pop(0)
            try:
                entries.append(entry_of(name, os.lstat(os.path.join(path, name))))
            except OSError:
                continue
        return named(entries) if entries else status(EOF, "end of folder")

    def remove(self, reader: Reader) -> bytes:
        os.unlink(reader.text())
        return status(OK)

    def mkdir(self, reader: Reader) -> bytes:
        os.mkdir(reader.text(), reader.attributes().get("mode", 0o777) & 0o7777)
        return status(OK)

    def rmdir(self, reader: Reader) -> bytes:
        os.rmdir(reader.text())
        return status(OK)

    def realpath(self, reader: Reader) -> bytes:
        return only_name(os.path.realpath(reader.text() or b"."))

    def rename(self, reader: Reader) -> bytes:
        old, new = reader.text(), reader.text()
        if os.path.lexists(new):
            raise Refused(FAILURE, "there is something of that name")
        os.rename(old, new)
        return status(OK)

    def readlink(self, reader: Reader) -> bytes:
        return only_name(os.readlink(reader.text()))

    def symlink(self, reader: Reader) -> bytes:
        # OpenSSH sends the target first, whatever the draft says; everybody follows OpenSSH.
        target, link = reader.text(), reader.text()
        os.symlink(target, link)
        return status(OK)

    def extended(self, reader: Reader) -> bytes:
        name = reader.text()
        if name == b"posix-rename@openssh.com":
            os.rename(reader.text(), reader.text())
        elif name == b"hardlink@openssh.com":
            os.link(reader.text(), reader.text())
        elif name == b"fsync@openssh.com":
            os.fsync(self.file(reader))
        elif name == b"limits@openssh.com":
            limits = (PACKET_LIMIT, DATA_LIMIT, DATA_LIMIT, HANDLES_LIMIT)
            return bytes([EXTENDED_REPLY]) + struct.pack(">QQQQ", *limits)
        elif name == b"expand-path@openssh.com":
            return only_name(os.path.realpath(os.path.expanduser(reader.text()) or b"."))
        elif name == b"statvfs@openssh.com":
            return room_of(os.statvfs(reader.text() or b"."))
        elif name == b"fstatvfs@openssh.com":
            return room_of(os.fstatvfs(self.file(reader)))
        else:
            raise Refused(UNSUPPORTED, "this request is not known")
        return status(OK)


def room_of(found: os.statvfs_result) -> bytes:
    sizes = (found.f_bsize, found.f_frsize, found.f_blocks, found.f_bfree, found.f_bavail)
    names = (found.f_files, found.f_ffree, found.f_favail, found.f_fsid, found.f_flag & 3)
    return bytes([EXTENDED_REPLY]) + struct.pack(">11Q", *sizes, *names, found.f_namemax)


def unknown(_: Reader) -> bytes:
    raise Refused(UNSUPPORTED, "this request is not known")


def change(target: Any, wanted: dict[str, int]) -> bytes:
    if "size" in wanted:
        os.truncate(target, wanted["size"])
    if "mode" in wanted:
        os.chmod(target, wanted["mode"] & 0o7777)
    if "modified" in wanted:
        os.utime(target, (wanted["accessed"], wanted["modified"]))
    if "user" in wanted:
        os.chown(target, wanted["user"], wanted["group"])
    return status(OK)


def status(code: int, message: str = "") -> bytes:
    said = message.encode("utf-8", "replace")
    return bytes([STATUS]) + struct.pack(">I", code) + text(said) + text(b"en")


def named(entries: list[bytes]) -> bytes:
    return bytes([NAME]) + struct.pack(">I", len(entries)) + b"".join(entries)


def only_name(path: bytes) -> bytes:
    return named([text(path) + text(path) + struct.pack(">I", 0)])


def code_of(error: OSError) -> int:
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
        return NO_SUCH_FILE
    return DENIED if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS) else FAILURE


def main() -> None:
    server, source, sink = Server(), sys.stdin.buffer, sys.stdout.buffer
    while len(head := source.read(4)) == 4:
        size = int.from_bytes(head, "big")
        if not 0 < size <= PACKET_LIMIT:
            return
        packet = source.read(size)
        if len(packet) < size:
            return
        sink.write(text(server.answer(packet)))
        sink.flush()


if __name__ == "__main__":
    main()
