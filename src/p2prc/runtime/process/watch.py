"""What a tree of processes uses, read from /proc as cheaply as it goes.

Memory is first bounded from above by the resident sizes (one short file a process); only a tree
that could be over its limit is measured exactly. The kernel cannot be asked to stop a tree at a
limit without cgroups, so this is `polled`, and the supervisor says so.
"""

# ruff: noqa: PTH116, PTH208
# Works on descriptors and plain paths: pathlib would have to be loaded for every lease.
from __future__ import annotations

import contextlib
import os
import signal
import stat
import time

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CLOSE_LOOK_S = 0.04
_LINKS_OF_ONE_THREAD = 3
"""The folder of threads has a link for each besides the usual two."""
_GONE = (FileNotFoundError, ProcessLookupError, PermissionError)


def children(pid: int) -> list[int]:
    """Return the pids of a process's children, over all of its threads."""
    found: list[int] = []
    try:
        # Most have one thread, and counting threads is cheaper than reading their names.
        if os.stat(f"/proc/{pid}/task").st_nlink == _LINKS_OF_ONE_THREAD:
            return [*map(int, _read(f"/proc/{pid}/task/{pid}/children").split())]
        for thread in os.listdir(f"/proc/{pid}/task"):
            found += map(int, _read(f"/proc/{pid}/task/{thread}/children").split())
    except _GONE:
        pass
    return found


def descendants(pid: int) -> list[int]:
    """Return the pids of everything below a process, not counting itself."""
    found = children(pid)
    for parent in found:
        found += children(parent)
    return found


def memory_bytes(pids: list[int], limit_bytes: int) -> int:
    """Return the memory of these processes: exact when it is near the limit or over it."""
    resident, private = 0, 0
    for pid in pids:
        try:
            sizes = _read(f"/proc/{pid}/statm").split()
        except _GONE:
            continue
        resident += int(sizes[1])
        private += int(sizes[1]) - int(sizes[2])
    if resident * _PAGE_BYTES <= limit_bytes:
        return private * _PAGE_BYTES
    sizes_at_most = {pid: _unshared_bytes(pid) for pid in pids}
    total = sum(sizes_at_most.values())
    return total if total <= limit_bytes else _exact_bytes(sizes_at_most)


def largest(pids: list[int]) -> int:
    """Return the process that has most memory of its own, 0 of none."""
    found, most = 0, -1
    for pid in pids:
        if (size := _unshared_bytes(pid)) > most:
            found, most = pid, size
    return found


def cpu_s(pids: list[int]) -> float:
    """Return the CPU time of these processes and of their children that ended."""
    ticks = 0
    for pid in pids:
        try:
            fields = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        except _GONE:
            continue
        ticks += sum(map(int, fields[11:15]))
    return ticks / _TICKS_PER_S


def shared_memory_bytes(init: int) -> int:
    """Return what /dev/shm holds as the process `init` sees it."""
    try:
        facts = os.statvfs(f"/proc/{init}/root/dev/shm")
    except OSError:
        return 0
    return (facts.f_blocks - facts.f_bfree) * facts.f_frsize


def unnamed_bytes(pids: list[int], device: int) -> tuple[int, int]:
    """Return what open files without a name take: on the disk `device`, and in memory.

    Deleted files and memory files are where a tenant could hide bytes from both other counts.
    """
    on_disk, in_memory = 0, 0
    seen: set[tuple[int, int]] = set()
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    facts = os.stat(f"/proc/{pid}/fd/{number}")
                    if facts.st_nlink or not stat.S_ISREG(facts.st_mode):
                        continue
                    if (facts.st_dev, facts.st_ino) in seen:
                        continue
                    seen.add((facts.st_dev, facts.st_ino))
                    if facts.st_dev == device:
                        on_disk += facts.st_blocks * 512
                    else:
                        in_memory += facts.st_blocks * 512
    return on_disk, in_memory


def use_cores(pids: list[int], cores: list[int]) -> None:
    """Move every thread of these processes to the cores."""
    for pid in pids:
        with contextlib.suppress(*_GONE):
            for thread in os.listdir(f"/proc/{pid}/task"):
                with contextlib.suppress(*_GONE):
                    os.sched_setaffinity(int(thread), cores)


def owned_by(uid: int) -> list[int]:
    """Return the pids of a user's processes; who may not be looked at is left out."""
    found: list[int] = []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{name}").st_uid == uid:
                    found.append(int(name))
    return found


def spread(pids: list[int], cores: list[int]) -> None:
    """Move the first thread of each of these processes to the cores, fast."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(pid, cores)


def hasten(pid: int) -> None:
    """Give a process its turn before all others, where we may: for one about to be killed."""
    with contextlib.suppress(OSError):
        try:
            order = os.SCHED_FIFO | os.SCHED_RESET_ON_FORK
            os.sched_setscheduler(pid, order, os.sched_param(1))
        except OSError:
            os.setpriority(os.PRIO_PROCESS, pid, -20)


def stop_or_continue(pids: list[int], *, is_stopped: bool) -> None:
    """Stop every process of the list, or let it go on."""
    number = signal.SIGSTOP if is_stopped else signal.SIGCONT
    for pid in pids:
        with contextlib.suppress(*_GONE):
            os.kill(pid, number)


def be_polite(pids: list[int]) -> None:
    """Give the sessions of these processes the lowest priority, too.

    Where the kernel shares the processor out between sessions first ("autogroup"), a process's
    own priority counts only within its session.
    """
    for pid in pids:
        # Ordinary users may do this ten times a second: who is refused has a turn later.
        with contextlib.suppress(OSError):
            if not _read(f"/proc/{pid}/autogroup").endswith(b" 19\n"):
                _order_session(pid, b"19")


def be_impolite(pids: list[int]) -> None:
    """Give the sessions of these processes their normal priority back: for those about to die."""
    for pid in pids:
        with contextlib.suppress(OSError):
            if _read(f"/proc/{pid}/autogroup").endswith(b" 19\n"):
                _order_session(pid, b"0")


def _order_session(pid: int, niceness: bytes) -> None:
    group = os.open(f"/proc/{pid}/autogroup", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(group, niceness)
    finally:
        os.close(group)


def _exact_bytes(sizes_at_most: dict[int, int]) -> int:
    """Split shared memory between those who share it, for as many processes as there is time.

    A process that forks all the time keeps who looks closely waiting. Of those that there is no
    time for, the same part is assumed to be shared.
    """
    ends_at = time.monotonic() + _CLOSE_LOOK_S
    total, at_most = 0, 0
    for pid, size in sizes_at_most.items():
        if time.monotonic() > ends_at:
            break
        total += _proportional_bytes(pid)
        at_most += size
    rest = sum(sizes_at_most.values()) - at_most
    return total + (rest * total // at_most if at_most else rest)


def _unshared_bytes(pid: int) -> int:
    """Anonymous and shared memory of one process; shared pages count in each."""
    try:
        return _sum_kib(_read(f"/proc/{pid}/status"), (b"RssAnon:", b"RssShmem:"))
    except _GONE:
        return 0


def _proportional_bytes(pid: int) -> int:
    """The same, with shared pages split between those who share them."""
    try:
        rollup = _read(f"/proc/{pid}/smaps_rollup")
    except OSError:
        return _unshared_bytes(pid)
    return _sum_kib(rollup, (b"Pss_Anon:", b"Pss_Shmem:"))


def _sum_kib(text: bytes, labels: tuple[bytes, ...]) -> int:
    total = 0
    for label in labels:
        start = text.find(label)
        if start >= 0:
            total += int(text[start + len(label) : text.index(b"kB", start)])
    return total * 1024


def _read(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Files in /proc are made when they are read: a short buffer would cut the longest.
        content = os.read(file, 1 << 16)
    finally:
        os.close(file)
    return content
