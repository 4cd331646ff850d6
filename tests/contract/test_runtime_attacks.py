"""Attacks, tried from inside of every tier: each is stopped, or the tier says that it is not."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from p2prc.errors import JobInvalid, RuntimeMissing
from p2prc.model.resources import MEBIBYTE
from p2prc.model.tiers import Attack, unstopped
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    REAL,
    Bench,
    finish,
    first_output,
    open_bench,
    processes_with,
    python,
    run,
)

TRY = """
import os, sys
def attempt(name, act):
    try:
        found = act()
    except (OSError, ValueError, AttributeError) as error:
        print(name, 'stopped', error)
    else:
        print(name, 'done', found)
"""
CALLS = (
    TRY
    + """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def call(*words):
    ctypes.set_errno(0)
    if libc.syscall(*words) < 0:
        raise OSError(ctypes.get_errno(), 'no')
    return 'yes'
NUMBERS = {
    'x86_64': dict(keyctl=250, mount=165, unshare=272, bpf=321, perf=298, setns=308, clone=56),
    'aarch64': dict(keyctl=219, mount=40, unshare=97, bpf=280, perf=241, setns=268, clone=220),
}
n = NUMBERS[os.uname().machine]
attempt('keys', lambda: call(n['keyctl'], 0, -3, 1))
attempt('rings', lambda: call(425, 8, bytes(120)))
attempt('mount', lambda: call(n['mount'], b'none', b'/tmp', b'tmpfs', 0, None))
attempt('namespace', lambda: call(n['unshare'], 0x10000000))
attempt('child', lambda: call(n['clone'], 0x10000000 | 17, 0, 0, 0, 0) or os._exit(0))
attempt('newchild', lambda: call(435, bytes(88), 88))
attempt('bpf', lambda: call(n['bpf'], 0, bytes(72), 72))
attempt('perf', lambda: call(n['perf'], bytes(120), 0, -1, -1, 0))
attempt('enter', lambda: call(n['setns'], os.open('/dev/null', 0), 0))
"""
)
NETWORK = (
    TRY
    + """
import socket
def connect(family, address):
    with socket.socket(family) as client:
        client.settimeout(1)
        client.connect(address)
    return 'connected'
def tell(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b'x', address)
    return 'sent'
attempt('loopback', lambda: connect(socket.AF_INET, ('127.0.0.1', {port})))
attempt('lan', lambda: connect(socket.AF_INET, ({own!r}, {port})))
attempt('metadata', lambda: connect(socket.AF_INET, ('169.254.169.254', 80)))
attempt('metadata', lambda: tell(('169.254.169.254', 80)))
attempt('world', lambda: tell(('1.1.1.1', 53)))
attempt('multicast', lambda: tell(('224.0.0.251', 5353)))
attempt('abstract', lambda: connect(socket.AF_UNIX, {abstract!r}))
attempt('path', lambda: connect(socket.AF_UNIX, {path!r}))
attempt('docker', lambda: connect(socket.AF_UNIX, '/var/run/docker.sock'))
attempt('virtual', lambda: socket.socket(40, socket.SOCK_STREAM))
attempt('crypto', lambda: socket.socket(38, socket.SOCK_SEQPACKET))
"""
)
RAW = (
    TRY
    + """
import socket
attempt('raw', lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1))
attempt('packet', lambda: socket.socket(17, socket.SOCK_RAW, 3))
attempt('device', lambda: os.mknod('device', 0o20666, os.makedev(1, 1)))
attempt('memory', lambda: open('/dev/mem', 'rb').read(1))
attempt('kernel', lambda: open('/proc/kcore', 'rb').read(1))
attempt('sysrq', lambda: open('/proc/sysrq-trigger', 'w').write('h'))
attempt('sysctl', lambda: open('/proc/sys/kernel/core_pattern', 'w').write('x'))
attempt('root', lambda: os.setuid(0) if os.getuid() else None)
attempt('nice', lambda: os.nice(-5))
attempt('chroot', lambda: os.chroot('/tmp'))
attempt('limits', lambda: __import__('resource').setrlimit(0, (-1, -1)) or
        __import__('resource').setrlimit(6, (10**6, 10**6)))
"""
)


@pytest.fixture(params=(*REAL, CONTAINED))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


def stops(bench: Bench, attack: Attack) -> bool:
    return attack not in bench.runtime.unstopped(bench.tier)


async def successes(bench: Bench, program: str) -> dict[str, str]:
    """Run attempts in a sandbox; return those that succeeded, with what they found."""
    result, printed = await python(await bench.sandbox(), program)
    assert result.status == 0, printed
    lines = [line.split(" ", 2) for line in printed.splitlines() if line.count(" ") >= 1]
    assert lines, printed
    return {line[0]: line[-1] for line in lines if line[1] == "done"}


@contextmanager
def process_of_the_host() -> Iterator[int]:
    with subprocess.Popen(["sleep", "1000"], start_new_session=True) as process:
        try:
            yield process.pid
            assert process.poll() is None, "the tenant killed it"
        finally:
            process.kill()


async def test_no_tier_promises_more_than_its_name(bench: Bench) -> None:
    assert bench.runtime.unstopped(bench.tier) <= unstopped(bench.tier)
    assert unstopped("no-such-tier") == frozenset(Attack)


async def test_files_of_the_host_are_not_read(bench: Bench, tmp_path: Path) -> None:
    public = next(
        path for path in ("/etc/profile", "/etc/fstab", "/etc/issue") if Path(path).is_file()
    )
    other = await bench.sandbox()
    (other.spec.folder / "work" / "secret").write_text("of another lease")
    key = tmp_path / "home" / "key"
    key.parent.mkdir(exist_ok=True)
    key.write_text("the node's key")
    paths = [
        public,
        "/etc/shadow",
        f"/proc/{os.getpid()}/environ",
        str(key),
        str(other.spec.folder / "work" / "secret"),
        str(Path.home() / ".ssh" / "id_ed25519"),
    ]
    program = TRY + f"for path in {paths!r}:\n  attempt(path, lambda: open(path).read(1))"
    found = await successes(bench, program)
    if stops(bench, Attack.READ_FILES):
        assert found == {}
    else:
        assert public in found


async def test_which_files_the_host_has_is_not_seen(bench: Bench) -> None:
    program = TRY + "attempt('seen', lambda: os.stat('/etc/shadow').st_size)"
    assert ("seen" not in await successes(bench, program)) == stops(bench, Attack.SEE_FILES)


async def test_nothing_outside_is_written(bench: Bench, tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    shared = Path("/var/tmp" if Path("/var/tmp").is_dir() else "/tmp") / f"p2prc-{os.getpid()}"
    shared.mkdir(exist_ok=True)
    shared.chmod(0o777)
    mode = shared.stat().st_mode
    program = (
        TRY
        + f"""
for folder in ({str(open_to_all)!r}, {str(shared)!r}, '/etc', '/usr', '/usr/lib', '/inputs', '/'):
    attempt(folder, lambda: open(folder + '/written', 'w').close())
attempt('link', lambda: os.link('/etc/passwd', 'passwd'))
attempt('move', lambda: os.rename({str(shared)!r}, 'taken'))
try:
    os.chmod({str(shared)!r}, 0)
except OSError:
    pass
"""
    )
    try:
        found = await successes(bench, program)
        changed = not shared.exists() or shared.stat().st_mode != mode
        if stops(bench, Attack.WRITE_FILES):
            assert found == {}
            assert not changed
        else:
            assert changed or str(shared) in found
    finally:
        if shared.exists():
            shared.chmod(0o777)
            (shared / "written").unlink(missing_ok=True)
            shared.rmdir()


async def test_processes_of_the_host_are_not_seen(bench: Bench) -> None:
    with process_of_the_host() as pid:
        program = TRY + f"attempt('seen', lambda: open('/proc/{pid}/cmdline').read())"
        found = await successes(bench, program)
    is_it = "sleep" in found.get("seen", "")
    assert is_it != stops(bench, Attack.SEE_PROCESSES)


async def test_processes_of_the_host_are_not_touched(bench: Bench) -> None:
    with process_of_the_host() as pid:
        program = (
            TRY
            + f"""
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def trace():
    if libc.ptrace(16, {pid}, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), 'no')
def look():
    room = ctypes.create_string_buffer(8)
    part = (ctypes.c_size_t * 2)(ctypes.addressof(room), 1)
    nowhere = (ctypes.c_size_t * 2)(8, 1)
    # Who may look is told that nothing is there.
    if libc.process_vm_readv({pid}, part, 1, nowhere, 1, 0) < 0 and ctypes.get_errno() != 14:
        raise OSError(ctypes.get_errno(), 'no')
attempt('signal', lambda: os.kill({pid}, 0))
attempt('group', lambda: os.killpg({pid}, 0))
attempt('handle', lambda: os.close(os.pidfd_open({pid})) or os.kill({pid}, 0))
attempt('limits', lambda: __import__('resource').prlimit({pid}, 4, (0, 0)))
attempt('slow', lambda: os.setpriority(os.PRIO_PROCESS, {pid}, 19))
attempt('look', look)
attempt('trace', trace)
"""
        )
        found = await successes(bench, program)
    if stops(bench, Attack.SIGNAL_PROCESSES):
        assert found == {}
    else:
        assert "signal" in found


async def test_no_network_is_reached(bench: Bench, tmp_path: Path) -> None:
    abstract = f"\0p2prc-attack-{os.getpid()}"
    with (
        # A socket's path is short.
        tempfile.TemporaryDirectory(dir="/tmp") as folder,
        socket.create_server(("0.0.0.0", 0)) as server,
        socket.socket(socket.AF_UNIX) as unnamed,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe,
    ):
        unnamed.bind(abstract)
        unnamed.listen()
        path = f"{folder}/socket"
        named.bind(path)
        Path(folder).chmod(0o755)
        named.listen()
        Path(path).chmod(0o777)
        try:
            probe.connect(("192.0.2.1", 9))
            own = probe.getsockname()[0]
        except OSError:
            own = "127.0.0.2"
        port = server.getsockname()[1]
        program = NETWORK.format(port=port, own=own, abstract=abstract, path=path)
        found = await successes(bench, program)
    if stops(bench, Attack.USE_NETWORK):
        assert found == {}
    else:
        assert {"loopback", "abstract"} <= set(found)


async def test_odd_calls_are_refused(bench: Bench) -> None:
    found = await successes(bench, CALLS)
    if stops(bench, Attack.ODD_CALLS):
        assert found == {}
    else:
        assert "keys" in found


async def test_power_is_not_had_in_any_tier(bench: Bench) -> None:
    found = await successes(bench, RAW)
    assert set(found) <= {"root"}
    assert found.get("root", "None") == "None"


async def test_a_flood_of_empty_files_is_over_the_disk_limit(bench: Bench) -> None:
    sandbox = await bench.sandbox(disk_bytes=MEBIBYTE)
    program = """
import os, time
for folder in range(4):
    os.mkdir(str(folder))
    for file in range(1000):
        os.close(os.open(f'{folder}/{file}', os.O_CREAT | os.O_WRONLY))
time.sleep(1000)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "disk" in result.reason


async def test_nothing_outlives_its_lease_by_a_session_of_its_own(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    mark = f"runaway-{os.getpid()}-{bench.variant}"
    program = f"""
import os, signal, sys, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)
        os.execv(sys.executable, ['python', '-c', 'import time; time.sleep(1000)', {mark!r}])
    os._exit(0)
os.wait()
print('away', flush=True)
time.sleep(1000)
"""
    execution = await sandbox.execute(["python", "-c", program], variables={})
    assert "away" in await first_output(execution)
    assert processes_with(mark), "the test itself is of no use"
    await sandbox.end()
    assert processes_with(mark) == []


async def test_a_flood_of_output_holds_up_who_floods(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
written = 0
while True:
    written += os.write(1, bytes(65536))
    open('written', 'w').write(str(written))
"""
    flooding = await sandbox.execute(["python", "-c", program], variables={})
    told, before = sandbox.spec.folder / "work" / "written", -1
    async with asyncio.timeout(PATIENCE_S):
        while not told.exists() or (now := int(told.read_text() or 0)) != before or now == 0:
            before = int(told.read_text() or 0) if told.exists() else -1
            await asyncio.sleep(0.3)
    assert int(told.read_text()) < 8 * MEBIBYTE
    await flooding.cancel()
    async with asyncio.timeout(PATIENCE_S):
        assert (await flooding.wait()).code == "lease-ended"


async def test_words_and_variables_arrive_as_they_are(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    nasty = "$(touch made) `touch made` ; touch made\n--setenv\nX=1 '\"\\ \t\x7f ä ☃ \udcff"
    if bench.variant == CONTAINED:
        with pytest.raises(JobInvalid):
            await sandbox.execute(["printf", nasty], variables={})
        nasty = nasty[:-1]
    execution = await sandbox.execute(["printenv", "NASTY"], variables={"NASTY": nasty})
    expected = nasty.encode("utf-8", "surrogateescape") + b"\n"
    assert (await finish(execution))[1] == expected
    assert (await run(sandbox, ["printf", "%s\n", nasty]))[1] == expected
    assert not (sandbox.spec.folder / "work" / "made").exists()


async def test_a_tier_that_shows_no_graphics_card_says_so(bench: Bench) -> None:
    if bench.variant in ("bare", CONTAINED):
        pytest.skip("cards are not hidden here")
    with pytest.raises(RuntimeMissing):
        await bench.sandbox(gpus=1)
    if bench.variant == "fenced":
        with pytest.raises(RuntimeMissing):
            await bench.runtime.create(replace(bench.spec(), egress=bench.folder / "proxy"))


@pytest.mark.parametrize("name", ["", "A=B", "A\0B"])
async def test_variables_without_a_proper_name_are_refused(bench: Bench, name: str) -> None:
    sandbox = await bench.sandbox()
    with pytest.raises(JobInvalid):
        await sandbox.execute(["true"], variables={name: "value"})
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_a_nul_in_a_value_and_no_command_at_all_are_refused(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    for argv, variables in ((["true"], {"A": "a\0b"}), (["a\0b"], {}), ([], {}), ([""], {})):
        with pytest.raises(JobInvalid):
            await sandbox.execute(argv, variables=variables)
