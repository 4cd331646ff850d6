"""What a tenant in a sandbox cannot see or do; each denial is tried from inside."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from p2prc.model.resources import MEBIBYTE
from tests.contract.runtime_bench import WALLED, Bench, open_bench, python, run


@pytest.fixture(params=WALLED)
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def test_only_the_listed_folders_of_the_host_are_there(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    _, printed = await python(sandbox, "import os; print(*sorted(os.listdir('/')))")
    listed = {"bin", "dev", "etc", "inputs", "lib", "proc", "run", "sbin", "tmp", "usr", "var"}
    on_the_way = {
        "work",
        "lib32",
        "lib64",
        "libx32",
        os.path.realpath(sys.base_prefix).split("/")[1],
    }
    assert set(printed.split()) <= listed | on_the_way
    assert {"work", "inputs", "usr", "tmp", "proc"} <= set(printed.split())


async def test_home_folders_are_not_there(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    home = Path.home()
    secret = bench.folder / "secret-of-the-node"
    secret.parent.mkdir(exist_ok=True)
    secret.write_text("secret")
    program = f"""
import os
for path in ({str(secret)!r}, {str(home / ".bashrc")!r}, {str(home / ".ssh")!r}, '/root/.bashrc'):
    try:
        os.stat(path)
    except OSError:
        continue
    print('seen', path)
for path in ('/home', '/srv', '/opt', '/mnt', '/var/lib', '/var/run', '/sys', '/boot'):
    if os.path.lexists(path):
        print('there', path, os.listdir(path))
"""
    result, printed = await python(sandbox, program)
    printed = "".join(line for line in printed.splitlines(True) if not line.endswith("[]\n"))
    assert result.status == 0
    assert "seen" not in printed
    prefix = os.path.realpath(sys.base_prefix)
    assert [line for line in printed.splitlines() if not prefix.startswith(line.split()[1])] == []


async def test_the_variables_of_the_node_are_not_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("P2PRC_TEST_SECRET", "do-not-tell")
    sandbox = await bench.sandbox()
    program = """
import glob, os
print(sorted(os.environ))
for path in glob.glob('/proc/[0-9]*/environ'):
    try:
        print(open(path, 'rb').read())
    except OSError:
        pass
"""
    result, printed = await python(sandbox, program)
    assert result.status == 0
    assert "do-not-tell" not in printed
    assert "P2PRC_TEST_SECRET" not in printed


async def test_processes_of_the_host_are_not_there(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
print(len([name for name in os.listdir('/proc') if name.isdigit()]))
try:
    os.kill(%d, 0)
    print('reached')
except ProcessLookupError:
    print('nobody')
"""
    result, printed = await python(sandbox, program % max(os.getpid(), 1000))
    count, answer = printed.split()
    assert (result.status, answer) == (0, "nobody")
    assert int(count) <= 3


async def test_there_is_no_network(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    abstract = f"\0p2prc-test-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(abstract)
        unix.listen()
        port = server.getsockname()[1]
        program = f"""
import socket
import sys
for family, address in ((socket.AF_INET, ('127.0.0.1', {port})),
                        (socket.AF_UNIX, {abstract!r}),
                        (socket.AF_INET, ('1.1.1.1', 53))):
    with socket.socket(family) as client:
        client.settimeout(1)
        try:
            client.connect(address)
            print('connected', address)
        except OSError as error:
            print('refused')
print(socket.if_nameindex())
"""
        result, printed = await python(sandbox, program)
    assert (result.status, printed.split()) == (0, ["refused"] * 3 + ["[(1,", "'lo')]"])


async def test_the_host_can_be_reached_without_walls_so_the_network_test_can_fail(
    tmp_path: Path,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with open_bench("bare", tmp_path) as bench:
            sandbox = await bench.sandbox()
            address = server.getsockname()
            program = f"import socket; socket.create_connection({address!r}, 1); print('connected')"
            assert (await python(sandbox, program))[1] == "connected\n"


async def test_nothing_but_the_own_folders_can_be_written(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
for folder, names, files in os.walk('/'):
    if folder.startswith('/proc'):
        names.clear()
        continue
    if folder.count('/') > 3:
        names.clear()
    path = os.path.join(folder, 'written-by-a-tenant')
    try:
        open(path, 'w').close()
        os.unlink(path)
        print(folder)
    except OSError:
        pass
"""
    result, printed = await python(sandbox, program)
    assert result.status == 0
    assert sorted(printed.split()) == ["/dev/shm", "/tmp", "/work"]


async def test_the_memory_folder_has_a_size_and_counts(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=200 * MEBIBYTE, disk_bytes=500 * MEBIBYTE)
    program = "open('/dev/shm/big', 'wb').write(bytes(150 << 20))"
    result, printed = await python(sandbox, program)
    assert result.code == "limit-exceeded" or "No space left" in printed
    program = """
import os, time
open('/dev/shm/big', 'wb').write(bytes(90 << 20))
kept = bytearray(b'x') * (130 << 20)
time.sleep(100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "memory" in result.reason


async def test_memory_files_count(bench: Bench) -> None:
    sandbox = await bench.sandbox(memory_bytes=100 * MEBIBYTE, disk_bytes=500 * MEBIBYTE)
    program = """
import os, time
fd = os.memfd_create('hidden')
for _ in range(200):
    os.write(fd, bytes(1 << 20))
time.sleep(100)
"""
    result, _ = await python(sandbox, program)
    assert result.code == "limit-exceeded"
    assert "memory" in result.reason


async def test_what_is_left_in_memory_is_gone_for_the_next_command(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    await python(sandbox, "open('/dev/shm/left', 'w').close()")
    assert (await python(sandbox, "import os; print(os.listdir('/dev/shm'))"))[1] == "[]\n"


async def test_there_are_no_privileges_to_get(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    program = """
import os
print(os.getuid(), os.getgid())
assert set(os.getgroups()) <= {os.getgid(), 65534}
for line in open('/proc/self/status'):
    if line.startswith(('CapEff', 'CapPrm', 'CapBnd', 'NoNewPrivs')):
        print(line.split()[1].lstrip('0') or '0')
"""
    _, printed = await python(sandbox, program)
    assert printed.splitlines() == ["1000 1000", "0", "0", "0", "1"]


@pytest.mark.parametrize("kind", ["--user", "--mount", "--net", "--pid"])
async def test_namespaces_cannot_be_made(bench: Bench, kind: str) -> None:
    sandbox = await bench.sandbox()
    result, _, _ = await run(sandbox, ["unshare", kind, "true"])
    assert result.status not in (0, None, 127)


async def test_mounting_is_denied(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, _, _ = await run(sandbox, ["mount", "-t", "tmpfs", "none", "/work"])
    assert result.status not in (0, None, 127)


async def test_devices_of_the_host_are_not_there(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    _, printed = await python(sandbox, "import os; print(*sorted(os.listdir('/dev')))")
    harmless = {"console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm"}
    assert set(printed.split()) <= harmless | {
        "stderr",
        "stdin",
        "stdout",
        "tty",
        "urandom",
        "zero",
    }


async def test_no_descriptor_of_the_node_reaches_a_command(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    _, printed = await python(sandbox, "import os; print(sorted(os.listdir('/proc/self/fd')))")
    assert printed == "['0', '1', '2', '3']\n"  # the last is the listing itself


async def test_leases_cannot_see_each_other(bench: Bench) -> None:
    first, second = await bench.sandbox(), await bench.sandbox()
    await run(first, ["touch", "/tmp/mine", "/work/mine"])
    result, _, _ = await run(second, ["ls", str(first.spec.folder)])
    assert result.status == 2
    _, out, _ = await run(second, ["ls", "/tmp", "/work"])
    assert b"mine" not in out


async def test_inputs_and_environment_are_read_only(bench: Bench, tmp_path: Path) -> None:
    environment = tmp_path / "environment"
    (environment / "bin").mkdir(parents=True)
    (environment / "wheel.py").write_text("answer = 42\n")
    (environment / "bin" / "tool").write_text("#!/bin/sh\necho tool\n")
    (environment / "bin" / "tool").chmod(0o755)
    sandbox = await bench.sandbox(environment=environment)
    (sandbox.spec.folder / "inputs" / "scene").write_text("scene")
    assert (await python(sandbox, "import wheel; print(wheel.answer)"))[1] == "42\n"
    assert (await run(sandbox, ["tool"]))[1] == b"tool\n"
    for path in ("/inputs/scene", "/inputs/new", "/environment/wheel.py", "/environment/new"):
        result, printed = await python(sandbox, f"open({path!r}, 'a')")
        assert result.status == 1
        assert "Read-only file system" in printed or "Permission denied" in printed


async def test_standard_output_can_be_opened_by_its_name(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, out, err = await run(
        sandbox, ["sh", "-c", "echo a > /dev/stdout; echo b > /dev/stderr"]
    )
    assert (result.status, out, err) == (0, b"a\n", b"b\n")


async def test_a_script_without_a_first_line_runs(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    script = sandbox.spec.folder / "inputs" / "script"
    script.write_text("echo ran with $1\n")
    script.chmod(0o755)
    assert (await run(sandbox, ["/inputs/script", "x"]))[1] == b"ran with x\n"


async def test_a_file_that_cannot_run_is_named(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    (sandbox.spec.folder / "inputs" / "plain").write_text("text")
    (sandbox.spec.folder / "inputs" / "plain").chmod(0o644)
    result, _, _ = await run(sandbox, ["/inputs/plain"])
    assert result.code == "command-not-found"
    assert "/inputs/plain" in result.reason
    assert "permission denied" in result.reason


async def test_a_tenant_cannot_take_more_cores_or_a_higher_priority(bench: Bench) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("there are no more cores to take")
    sandbox = await bench.sandbox(cpu_millis=1000)
    program = """
import os
os.sched_setaffinity(0, range(os.cpu_count()))
print(len(os.sched_getaffinity(0)))
try:
    os.setpriority(os.PRIO_PROCESS, 0, 0)
except PermissionError:
    print('refused')
"""
    assert (await python(sandbox, program))[1] == "1\nrefused\n"
    result, out, _ = await run(sandbox, ["sh", "-c", "ionice -c 2 -n 0 -p $$; ionice -p $$"])
    assert (result.status, out) == (0, b"idle\n")


async def test_a_tenant_that_replaces_the_agent_harms_only_its_own_lease(bench: Bench) -> None:
    """Kill the first process of the sandbox from inside: the lease gets a new one."""
    sandbox = await bench.sandbox()
    program = """
import ctypes, os, signal
try:
    os.kill(1, signal.SIGKILL)
    os.kill(1, signal.SIGSEGV)
except PermissionError:
    pass
print('alive')
"""
    assert (await python(sandbox, program))[1] == "alive\n"
    assert (await run(sandbox, ["true"]))[0].status == 0
