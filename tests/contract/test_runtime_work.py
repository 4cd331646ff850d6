"""People at work in a lease with sessions: limits, endings, terminals, and the way out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from p2prc.model.resources import MEBIBYTE
from p2prc.runtime.port import Sandbox, Terminal
from tests.contract.runtime_bench import (
    CONTAINED,
    LIMITS,
    PATIENCE_S,
    Bench,
    finish,
    first_output,
    open_bench,
    processes_with,
    python,
    run,
)
from tests.contract.test_runtime_limits import FORK_BOMB

LASTING = ("shared", "unshared", "fenced", "bare")
EAT = """
kept = []
for _ in range(2000):
    kept.append(bytearray(b'x') * (1 << 20))
"""
ASK = """
import socket, sys
with socket.create_connection(("127.0.0.1", 3128), 5) as line:
    line.sendall(b"question")
    line.shutdown(socket.SHUT_WR)
    print(line.makefile().read())
"""


@pytest.fixture(params=LASTING)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def at_work(bench: Bench, **limits: int | float) -> Sandbox:
    wanted = msgspec.structs.replace(LIMITS, **limits)
    return await bench.runtime.create(bench.spec(wanted, has_sessions=True))


async def test_the_largest_process_goes_for_memory_and_the_rest_stays(bench: Bench) -> None:
    sandbox = await at_work(bench, memory_bytes=150 * MEBIBYTE)
    stays = await sandbox.execute(["sh", "-c", "echo up; sleep 1000"], variables={})
    assert await first_output(stays) == "up\n"
    result, _ = await python(sandbox, EAT)
    assert (result.status, result.code) == (None, "limit-exceeded")
    assert "memory" in result.reason
    assert (await run(sandbox, ["true"]))[0].status == 0
    assert (await sandbox.usage()).processes >= 1
    await stays.cancel()
    assert (await stays.wait()).code == "lease-ended"


async def test_a_full_disk_ends_the_lease_and_everyone_is_told(bench: Bench) -> None:
    sandbox = await at_work(bench, disk_bytes=20 * MEBIBYTE)
    program = """
import time
for number in range(10):
    open(str(number), 'wb').write(bytes(5 << 20))
time.sleep(1000)
"""
    async with asyncio.timeout(PATIENCE_S):
        result, _ = await python(sandbox, program)
        ended = await sandbox.wait_ended()
    assert result.code == ended.code == "limit-exceeded"
    assert "disk" in ended.reason
    assert not sandbox.spec.folder.exists()


async def test_a_fork_bomb_at_work_is_gone_with_its_lease(bench: Bench) -> None:
    sandbox = await at_work(bench, processes=150)
    mark = str(sandbox.spec.folder)
    bomb = await sandbox.execute(["python", "-c", FORK_BOMB, mark], variables={})
    assert "full" in await first_output(bomb)
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.end()
        assert (await bomb.wait()).code == "lease-ended"
    assert processes_with(mark) == []
    assert not sandbox.spec.folder.exists()


async def test_each_command_has_its_own_time(bench: Bench) -> None:
    sandbox = await at_work(bench)
    stays = await sandbox.execute(["sleep", "1000"], variables={})
    result, _, _ = await run(sandbox, ["sleep", "1000"], timeout_s=0.2)
    assert (result.status, result.code) == (None, "timed-out")
    assert (await sandbox.usage()).processes >= 1
    await stays.cancel()
    assert (await stays.wait()).status is None


async def test_output_ends_though_something_is_left_that_holds_it(bench: Bench) -> None:
    sandbox = await at_work(bench)
    async with asyncio.timeout(PATIENCE_S):
        result, out, _ = await run(sandbox, ["sh", "-c", "sleep 1000 & echo started"])
    assert (result.status, out) == (0, b"started\n")
    assert (await sandbox.usage()).processes >= 1


async def test_what_is_slowly_read_arrives_whole(bench: Bench) -> None:
    sandbox = await at_work(bench)
    execution = await sandbox.execute(["head", "-c", "60000", "/dev/zero"], variables={})
    assert (await execution.wait()).status == 0
    await asyncio.sleep(1.2)
    assert len((await finish(execution))[1]) == 60_000


async def test_two_terminals_at_once(bench: Bench) -> None:
    sandbox = await at_work(bench)
    shells = [await sandbox.execute(["sh"], variables={}, terminal=Terminal()) for _ in range(2)]
    for number, shell in enumerate(shells):
        await shell.write(b"exit %d\n" % (5 + number))
    async with asyncio.timeout(PATIENCE_S):
        assert [(await finish(shell))[0].status for shell in shells] == [5, 6]


async def test_many_commands_at_once_all_end_as_they_should(bench: Bench) -> None:
    sandbox = await at_work(bench)

    async def one(number: int) -> None:
        result, out, _ = await run(sandbox, ["sh", "-c", f"echo {number}; exit {number}"])
        assert (result.status, out) == (number, b"%d\n" % number)

    async with asyncio.timeout(60), asyncio.TaskGroup() as group:
        for number in range(30):
            group.create_task(one(number))


async def test_the_dead_do_not_pile_up(bench: Bench) -> None:
    sandbox = await at_work(bench, processes=30)
    for _ in range(3):
        script = "for n in 1 2 3 4 5 6 7 8 9 10; do (true &) ; done"
        assert (await run(sandbox, ["sh", "-c", script]))[0].status == 0
    async with asyncio.timeout(PATIENCE_S):
        # The last of them may still be on its way out.
        while (await sandbox.usage()).processes:
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("variant", ["shared", "isolated", CONTAINED])
async def test_the_proxys_socket_appears_inside_and_nothing_else(
    variant: str, tmp_path: Path
) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"answer to " + await reader.read())
        writer.close()

    path = tmp_path / "proxy"
    async with (
        await asyncio.start_unix_server(answer, path),
        open_bench(variant, tmp_path) as bench,
    ):
        sandbox = await bench.runtime.create(replace(bench.spec(), egress=path))
        for _ in range(2):
            # After something was left in memory the next command has a new sandbox.
            result, printed = await python(sandbox, ASK + "open('/dev/shm/x', 'w')")
            assert (result.status, printed) == (0, "answer to question\n")
        shown = await run(sandbox, ["printenv", "https_proxy"])
        assert shown[1] == b"http://127.0.0.1:3128\n"


@pytest.mark.parametrize("variant", ["shared", CONTAINED])
async def test_the_way_out_is_there_again_after_adoption(variant: str, tmp_path: Path) -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"answer to " + await reader.read())
        writer.close()

    path = tmp_path / "proxy"
    async with await asyncio.start_unix_server(answer, path), open_bench(variant, tmp_path) as one:
        spec = replace(one.spec(has_sessions=True), egress=path)
        assert (await python(await one.runtime.create(spec), ASK))[1] == "answer to question\n"
        await one.runtime.let_go()
        async with open_bench(variant, tmp_path) as other:
            [sandbox] = await other.runtime.adopt([spec])
            assert (await python(sandbox, ASK))[1] == "answer to question\n"
