"""What runtimes promise to people at work in a lease: input, terminals, ports, files, sessions.

Each promise is a feature that a tier has or has not. One that has it keeps it; one that has not
says so before anything happens.
"""

from __future__ import annotations

import asyncio
import io
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.errors import (
    DiskFull,
    FileUnknown,
    LeaseEnded,
    MachineCannot,
    P2prcError,
    PathInvalid,
    PortClosed,
    RuntimeMissing,
)
from p2prc.model.resources import MEBIBYTE
from p2prc.runtime.port import Execution, Feature, Sandbox, Terminal
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    REAL,
    Bench,
    finish,
    first_output,
    open_bench,
    run,
)

ECHO_SERVER = """
import socket
server = socket.create_server(("127.0.0.1", 8000))
print("up", flush=True)
while True:
    taken, _ = server.accept()
    while content := taken.recv(65536):
        taken.sendall(content)
    taken.sendall(b"bye")
    taken.close()
"""


@pytest.fixture(params=("fake", *REAL, CONTAINED))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


def offers(bench: Bench, feature: Feature) -> bool:
    return feature in bench.features()


async def stream_of(content: bytes, step: int = 7000) -> AsyncIterator[bytes]:
    for start in range(0, len(content), step):
        yield content[start : start + step]


def archive_of(*entries: tarfile.TarInfo, content: bytes = b"") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        for entry in entries:
            tar.addfile(entry, io.BytesIO(content))
    return sink.getvalue()


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, size: int = 0, link: str = ""
) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname, made.mode = kind, size, link, 0o4755
    return made


async def files_of(sandbox: Sandbox, path: str = "") -> dict[str, bytes]:
    content = b"".join([part async for part in sandbox.get_files(path)])
    found = {}
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        for member in tar:
            file = tar.extractfile(member) if member.isreg() else None
            found[member.name] = b"" if file is None else file.read()
    return found


async def until_printed(execution: Execution, wanted: bytes) -> bytes:
    """Read on until this was printed; the command goes on."""
    printed = b""
    async with asyncio.timeout(PATIENCE_S):
        async for chunk in execution.output():
            printed += chunk.content
            if wanted in printed:
                return printed
    raise AssertionError(printed)


# -- input ------------------------------------------------------------------------------------


async def test_a_command_reads_what_is_written_and_sees_its_end(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    if not offers(bench, Feature.INPUT):
        with pytest.raises(RuntimeMissing):
            await sandbox.execute(["cat"], variables={}, takes_input=True)
        return
    execution = await sandbox.execute(["cat"], variables={}, takes_input=True)
    await execution.write(b"one ")
    await execution.write(b"two")
    await execution.end_input()
    await execution.end_input()
    result, out, _ = await finish(execution)
    assert (result.status, out) == (0, b"one two")
    await execution.write(b"too late")


async def test_without_input_a_command_sees_its_end_at_once(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    async with asyncio.timeout(PATIENCE_S):
        assert (await run(sandbox, ["cat"]))[0].status == 0


async def test_large_input_comes_back_whole(bench: Bench) -> None:
    if not offers(bench, Feature.INPUT) or bench.variant == "fake":
        pytest.skip("commands take no input here")
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["cat"], variables={}, takes_input=True)
    sent = os.urandom(3_000_000)

    async def feed() -> None:
        for start in range(0, len(sent), 100_000):
            await execution.write(sent[start : start + 100_000])
        await execution.end_input()

    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(feed())
        result, out, _ = await finish(execution)
    assert result.status == 0
    assert out == sent


# -- terminals --------------------------------------------------------------------------------


async def test_a_terminal_has_the_size_it_was_given_and_can_be_resized(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    if not offers(bench, Feature.TERMINAL):
        with pytest.raises(RuntimeMissing):
            await sandbox.execute(["sh"], variables={}, terminal=Terminal())
        return
    execution = await sandbox.execute(["sh"], variables={"PS1": "> "}, terminal=Terminal(31, 97))
    await until_printed(execution, b"> ")
    await execution.write(b"stty size\n")
    await until_printed(execution, b"31 97")
    await execution.resize(Terminal(40, 120))
    await execution.write(b"stty size\n")
    await until_printed(execution, b"40 120")
    await execution.write(b"exit 7\n")
    async with asyncio.timeout(PATIENCE_S):
        assert (await finish(execution))[0].status == 7
    await execution.resize(Terminal())


async def test_interrupt_on_a_terminal_ends_the_command_and_not_the_shell(bench: Bench) -> None:
    if not offers(bench, Feature.TERMINAL):
        pytest.skip("there are no terminals here")
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["sh"], variables={"PS1": "> "}, terminal=Terminal())
    await until_printed(execution, b"> ")
    await execution.write(b"sleep 1000; echo no\n")
    await until_printed(execution, b"echo no")
    await asyncio.sleep(0.3)
    await execution.write(b"\x03")
    await until_printed(execution, b"> ")
    await execution.write(b"echo still; exit 0\n")
    assert b"still" in (await finish(execution))[1]


# -- ports ------------------------------------------------------------------------------------


async def test_a_port_inside_is_reached_and_a_closed_one_is_said_to_be(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    if not offers(bench, Feature.DIAL):
        with pytest.raises(RuntimeMissing):
            await sandbox.dial(8000)
        return
    server = await sandbox.execute(["python", "-c", ECHO_SERVER], variables={})
    assert await first_output(server) == "up\n"
    with pytest.raises(PortClosed):
        await sandbox.dial(8001)
    sent = os.urandom(1_000_000)
    link = await sandbox.dial(8000)

    async def feed() -> None:
        for start in range(0, len(sent), 50_000):
            await link.write(sent[start : start + 50_000])
        await link.end_writing()

    received = b""
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        group.create_task(feed())
        while content := await link.read():
            received += content
    await link.close()
    await link.close()
    assert received == sent + b"bye"


async def test_a_port_of_the_host_is_not_reached_through_a_sandbox(bench: Bench) -> None:
    if not offers(bench, Feature.DIAL):
        pytest.skip("no ports here")
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    async with server:
        sandbox = await bench.sandbox()
        running = await sandbox.execute(["sleep", "1000"], variables={})
        with pytest.raises(PortClosed):
            await sandbox.dial(server.sockets[0].getsockname()[1])
        await running.cancel()


# -- files ------------------------------------------------------------------------------------


async def test_files_go_in_and_come_out_as_they_were(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    content = os.urandom(300_000)
    archive = archive_of(
        entry("a/b/one", size=len(content)), entry("a/empty", tarfile.DIRTYPE), content=content
    )
    assert await sandbox.put_files(stream_of(archive), "in") == len(content)
    assert await sandbox.put_files(stream_of(archive), "in") == len(content)
    assert (await run(sandbox, ["cat", "in/a/b/one"]))[1] == content
    assert await files_of(sandbox, "in/a/b/one") == {"one": content}
    assert await files_of(sandbox, "in") == {
        "in": b"",
        "in/a": b"",
        "in/a/b": b"",
        "in/a/b/one": content,
        "in/a/empty": b"",
    }
    placed = sandbox.spec.folder / "work" / "in" / "a" / "b" / "one"
    assert placed.stat().st_mode & 0o7777 == 0o755


async def test_files_for_which_no_room_is_left_are_refused_and_cost_nothing(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=4 * MEBIBYTE)

    async def put(name: str) -> int:
        content = bytes(3 * MEBIBYTE)
        archive = archive_of(entry(name, size=len(content)), content=content)
        return await sandbox.put_files(stream_of(archive))

    await put("one")
    with pytest.raises(DiskFull) as told:
        await put("two")
    assert "p2prc" in told.value.hint
    # What it replaces makes room for it.
    await put("one")
    assert set(await files_of(sandbox, "one")) == {"one"}


async def test_what_was_put_is_the_tenants_own(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    await sandbox.put_files(stream_of(archive_of(entry("f/a"))))
    assert (await run(sandbox, ["touch", "f/a", "f/b"]))[0].status == 0


@pytest.mark.parametrize(
    "bad",
    [
        entry("../out"),
        entry("/out"),
        entry("a/../../out"),
        entry("link", tarfile.SYMTYPE, link="/etc/passwd"),
        entry("link", tarfile.LNKTYPE, link="a"),
        entry("device", tarfile.CHRTYPE),
        entry("pipe", tarfile.FIFOTYPE),
        entry("a" * 300),
        entry("d/" * 200 + "f"),
    ],
    ids=lambda bad: bad.name[:12],
)
async def test_hostile_names_and_kinds_are_refused(bench: Bench, bad: tarfile.TarInfo) -> None:
    sandbox = await bench.sandbox()
    with pytest.raises(PathInvalid):
        await sandbox.put_files(stream_of(archive_of(bad)))
    assert not (sandbox.spec.folder / "out").exists()
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_a_link_in_the_way_is_not_followed(bench: Bench, tmp_path: Path) -> None:
    sandbox = await bench.sandbox()
    secret = tmp_path / "secret"
    secret.write_text("secret")
    work = sandbox.spec.folder / "work"
    (work / "way").symlink_to(tmp_path)
    (work / "file").symlink_to(secret)
    with pytest.raises(PathInvalid):
        await sandbox.put_files(stream_of(archive_of(entry("way/secret"))))
    await sandbox.put_files(stream_of(archive_of(entry("file", size=3), content=b"new")))
    assert secret.read_text() == "secret"
    assert not (work / "file").is_symlink()
    for path in ("way/secret", "way"):
        with pytest.raises(FileUnknown):
            await files_of(sandbox, path)
    for path in ("../inputs", "/etc", "a\0b"):
        with pytest.raises(PathInvalid):
            await files_of(sandbox, path)
    os.mkfifo(work / "pipe")
    assert set(await files_of(sandbox)) == {"file"}


async def test_no_more_is_put_than_the_disk_limit(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=MEBIBYTE)
    big = archive_of(entry("big", size=2 * MEBIBYTE), content=bytes(2 * MEBIBYTE))
    with pytest.raises(DiskFull):
        await sandbox.put_files(stream_of(big))


async def test_a_stream_that_is_no_archive_or_breaks_off_is_refused(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    with pytest.raises(PathInvalid):
        await sandbox.put_files(stream_of(b"x" * 10_000))
    whole = archive_of(entry("big", size=100_000), content=bytes(100_000))
    with pytest.raises(P2prcError):
        await sandbox.put_files(stream_of(whole[:50_000]))


async def test_files_of_an_ended_lease_are_gone(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    await sandbox.end()
    with pytest.raises(LeaseEnded):
        await sandbox.put_files(stream_of(archive_of(entry("a"))))
    with pytest.raises(LeaseEnded):
        await files_of(sandbox)


# -- sessions ---------------------------------------------------------------------------------


async def test_in_sessions_commands_run_at_once_and_leave_things_behind(bench: Bench) -> None:
    if not offers(bench, Feature.SESSIONS):
        with pytest.raises(RuntimeMissing):
            await bench.runtime.create(bench.spec(has_sessions=True))
        return
    sandbox = await bench.runtime.create(bench.spec(has_sessions=True))
    first = await sandbox.execute(["sleep", "1000"], variables={})
    second = await sandbox.execute(["sleep", "1000"], variables={})
    left = "(while :; do sleep 0.1; done) >/dev/null 2>&1 & echo $!"
    pid = (await run(sandbox, ["sh", "-c", left]))[1].decode().strip()
    await first.cancel()
    async with asyncio.timeout(PATIENCE_S):
        assert (await first.wait()).code == "lease-ended"
    assert (await run(sandbox, ["sh", "-c", f"kill -0 {pid} && echo lives"]))[1] == b"lives\n"
    await sandbox.end()
    assert (await second.wait()).code == "lease-ended"


async def test_an_image_that_is_not_here_is_named_and_a_bad_name_refused(bench: Bench) -> None:
    for image in ("no-such-image", "a b\n$(id)", "../..", "x" * 500):
        with pytest.raises(MachineCannot):
            await bench.runtime.create(bench.spec(image=image))
    assert not bench.folder.exists() or list(bench.folder.iterdir()) == []
