"""Every limit of a lease holds, with walls and without, and nothing outlives its command."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.model.resources import MEBIBYTE
from tests.contract.runtime_bench import (
    PATIENCE_S,
    Bench,
    finish,
    first_output,
    open_bench,
    processes_with,
    python,
    run,
)

EAT = """
kept = []
for _ in range({mib}):
    kept.append(bytearray(b'x') * (1 << 20))
print('ate it all')
"""
FORK_BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        os.write(1, b'full\\n')
        time.sleep(1000)
"""
DAEMON = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for fd in (0, 1, 2):
            os.close(fd)
        os.execvp('sleep', ['sleep', '{mark}'])
    os._exit(0)
os.wait()
time.sleep(0.2)
"""


LIMITED = ("shared", "isolated", "fenced", "bare")
"""Of `unshare` alone it is tried at work: it differs from `userns` in how its walls are made."""


@pytest.fixture(params=LIMITED)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def test_memory_over_the_limit_ends_the_command_and_says_how_much(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=100 * MEBIBYTE)
    result, printed = await python(sandbox, EAT.format(mib=4000))
    assert (result.status, result.code) == (None, "limit-exceeded")
    assert "memory" in result.reason
    assert "100 MiB allowed" in result.reason
    assert "ate it all" not in printed
    assert result.usage.memory_peak_bytes > 100 * MEBIBYTE
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_memory_below_the_limit_is_left_alone(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=300 * MEBIBYTE)
    assert (await python(sandbox, EAT.format(mib=150)))[0].status == 0


async def test_memory_shared_by_many_processes_counts_once(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=300 * MEBIBYTE)
    program = """
import os, time
kept = bytearray(b'x') * (100 << 20)
children = []
for _ in range(6):
    pid = os.fork()
    if pid == 0:
        time.sleep(0.6)
        os._exit(0)
    children.append(pid)
print([os.waitpid(pid, 0)[1] for pid in children])
"""
    result, printed = await python(sandbox, program)
    assert (result.status, printed) == (0, "[0, 0, 0, 0, 0, 0]\n")


async def test_memory_over_many_processes_counts_together(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=150 * MEBIBYTE)
    program = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        kept = bytearray(b'x') * (60 << 20)
        time.sleep(100)
time.sleep(100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "memory" in result.reason


async def test_a_file_over_the_disk_limit_ends_the_command(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=20 * MEBIBYTE)
    result, _, _ = await run(sandbox, ["head", "-c", "1", "/dev/null"])
    assert result.status == 0
    script = "open('big', 'wb').write(bytes(200 << 20))"
    result, _ = await python(sandbox, script)
    assert (result.status, result.code) == (None, "limit-exceeded")
    assert "disk" in result.reason
    assert (sandbox.spec.folder / "work" / "big").stat().st_size < 30 * MEBIBYTE


async def test_many_files_over_the_disk_limit_end_the_command_while_it_runs(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=20 * MEBIBYTE)
    program = """
import os, time
for number in range(10):
    folder = os.environ['TMPDIR'] if number % 2 else '.'
    with open(f'{folder}/{number}', 'wb') as file:
        file.write(bytes(5 << 20))
time.sleep(100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "disk" in result.reason


async def test_deleted_files_that_are_open_count_too(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=20 * MEBIBYTE)
    program = """
import os, time
kept = []
for number in range(10):
    file = open('hidden', 'wb')
    file.write(bytes(5 << 20))
    file.flush()
    kept.append(file)
    os.unlink('hidden')
time.sleep(100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "disk" in result.reason


async def test_processes_over_the_limit_cannot_start(bench: Bench) -> None:
    sandbox = await bench.sandbox(processes=10)
    program = """
import os, time
started = 0
try:
    while started < 300:
        if os.fork() == 0:
            time.sleep(100)
            os._exit(0)
        started += 1
except BlockingIOError:
    pass
print(started)
"""
    result, printed = await python(sandbox, program)
    if result.code:
        # Without walls and without root the kernel counts the user's other processes as well.
        assert (bench.variant, result.code) == ("bare", "limit-exceeded")
    else:
        assert 5 <= int(printed) <= 10


async def test_a_fork_bomb_is_gone_when_its_command_is_cancelled(bench: Bench) -> None:
    sandbox = await bench.sandbox(processes=150)
    mark = str(sandbox.spec.folder)
    execution = await sandbox.execute(["python", "-c", FORK_BOMB, mark], variables={})
    assert "full" in await first_output(execution)
    assert len(processes_with(mark)) > 20
    async with asyncio.timeout(PATIENCE_S):
        await execution.cancel()
        assert (await execution.wait()).code == "lease-ended"
    assert processes_with(mark) == []
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_a_fork_bomb_is_gone_when_its_lease_ends(bench: Bench) -> None:
    sandbox = await bench.sandbox(processes=150)
    mark = str(sandbox.spec.folder)
    execution = await sandbox.execute(["python", "-c", FORK_BOMB, mark], variables={})
    assert "full" in await first_output(execution)
    assert len(processes_with(mark)) > 20
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.end()
    assert processes_with(mark) == []
    assert not sandbox.spec.folder.exists()


async def test_a_daemon_does_not_outlive_the_command_that_left_it(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    mark = f"{1_000_000 + os.getpid()}.25"
    result, printed = await python(sandbox, DAEMON.format(mark=mark))
    assert (result.status, printed) == (0, "")
    assert processes_with(mark) == []


async def test_a_command_that_ignores_every_signal_is_ended(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import signal, time
for number in range(1, 32):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(number, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(1000)
"""
    execution = await sandbox.execute(["python", "-c", program], variables={})
    assert await first_output(execution) == "deaf\n"
    async with asyncio.timeout(PATIENCE_S):
        await execution.cancel()
        assert (await execution.wait()).code == "lease-ended"


async def test_a_signal_shows_in_the_status(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, _, _ = await run(sandbox, ["sh", "-c", "kill -9 $$"])
    assert (result.status, result.code) == (137, "")


async def test_usage_counts_the_cpu_of_all_that_ran(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    burn = "import time; end = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    result, _, _ = await run(sandbox, ["sh", "-c", 'python -c "$0"; true', burn])
    assert result.status == 0
    assert 0.3 <= result.usage.cpu_s < 5
    assert result.usage.cpu_percent > 0
    assert (await sandbox.usage()).cpu_s >= 0.3


async def test_usage_tells_what_is_used_at_present(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
kept = bytearray(b'x') * (80 << 20)
open('file', 'wb').write(bytes(3 << 20))
print('full', flush=True)
import time
time.sleep(1000)
"""
    execution = await sandbox.execute(["sh", "-c", 'python -c "$0"', program], variables={})
    assert await first_output(execution) == "full\n"
    usage = await sandbox.usage()
    assert 80 * MEBIBYTE <= usage.memory_bytes < 200 * MEBIBYTE
    assert 1 <= usage.processes <= 2
    await execution.cancel()
    await execution.wait()
    after = await sandbox.usage()
    assert (after.memory_bytes, after.processes) == (0, 0)
    assert after.memory_peak_bytes >= 80 * MEBIBYTE
    assert after.disk_bytes >= 3 * MEBIBYTE


async def test_commands_have_the_lowest_priority(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    _, printed = await python(sandbox, "import os; print(os.getpriority(os.PRIO_PROCESS, 0))")
    assert printed == "19\n"
    result, out, _ = await run(sandbox, ["ionice"])
    assert (result.status, out) == (0, b"idle\n")


async def test_the_session_of_a_command_has_the_lowest_priority_as_well(bench: Bench) -> None:
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    sandbox = await bench.sandbox()
    mark = str(sandbox.spec.folder)
    running = await sandbox.execute(["sh", "-c", "echo up; sleep 1000; :", mark], variables={})
    await first_output(running)

    def is_polite(pid: int) -> bool:
        return Path(f"/proc/{pid}/autogroup").read_text().endswith(" 19\n")

    async with asyncio.timeout(PATIENCE_S):
        while not any(map(is_polite, processes_with(mark))):
            await asyncio.sleep(0.01)
    await running.cancel()


async def test_a_lease_has_as_many_cores_as_it_asked_for(bench: Bench) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out")
    sandbox = await bench.sandbox(cpu_millis=500)
    _, printed = await python(sandbox, "import os; print(len(os.sched_getaffinity(0)))")
    assert printed == "1\n"
    sandbox = await bench.sandbox(cpu_millis=2000)
    _, printed = await python(sandbox, "import os; print(len(os.sched_getaffinity(0)))")
    assert printed == "2\n"


@pytest.mark.parametrize("variant", LIMITED)
async def test_all_leases_together_stay_on_the_lent_cores(variant: str, tmp_path: Path) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core cannot be shared out")
    async with open_bench(variant, tmp_path, core_count=1) as bench:
        show = "import os; print(sorted(os.sched_getaffinity(0)), flush=True); input()"
        sandboxes = [await bench.sandbox(cpu_millis=4000) for _ in range(3)]
        seen = set()
        for sandbox in sandboxes:
            execution = await sandbox.execute(
                ["sh", "-c", 'python -c "$0"; sleep 1000', show], variables={}
            )
            seen.add(await first_output(execution))
        assert len(seen) == 1
        assert len(seen.pop().split(",")) == 1


async def test_a_full_disk_of_the_node_has_its_own_code(bench: Bench) -> None:
    bench.folder.mkdir()
    if os.geteuid() != 0:
        pytest.skip("only root can make a small disk")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", bench.folder], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("mounting is not allowed here")
    try:
        sandbox = await bench.sandbox()
        result, _ = await python(sandbox, "open('big', 'wb').write(bytes(20 << 20))")
        assert (result.status, result.code) == (None, "disk-full")
        await sandbox.end()
    finally:
        subprocess.run(["umount", "-l", bench.folder], check=True)


async def test_hostile_folders_are_gone_with_the_lease(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
os.symlink('/etc/passwd', 'link')
os.makedirs('locked/inner')
open('locked/inner/file', 'w').close()
os.chmod('locked/inner', 0)
os.chmod('locked', 0)
for _ in range(200):
    os.mkdir('d' * 100)
    os.chdir('d' * 100)
"""
    assert (await python(sandbox, program))[0].status == 0
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.reset()
    assert list((sandbox.spec.folder / "work").iterdir()) == []
    assert (await python(sandbox, program))[0].status == 0
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.end()
    assert not sandbox.spec.folder.exists()


async def test_depth_without_end_is_over_the_limit(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
for _ in range(1000):
    os.mkdir('d' * 100)
    os.chdir('d' * 100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "nested" in result.reason


async def test_an_execution_may_be_finished_without_reading(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    for _ in range(3):
        execution = await sandbox.execute(["echo", "unread"], variables={})
        async with asyncio.timeout(PATIENCE_S):
            assert (await execution.wait()).status == 0
    assert (await finish(execution))[1] == b"unread\n"
