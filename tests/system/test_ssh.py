"""The system's OpenSSH client into containers of real nodes."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.nodes import NodeUnderTest, join_all, stop_all, up_all, wait_until

pytestmark = pytest.mark.skipif(
    shutil.which("ssh") is None, reason="there is no OpenSSH client here"
)
STEP_TIMEOUT_S = 60.0
SERVER = """
import socket
door = socket.create_server(("127.0.0.1", 8765))
print("listening", flush=True)
while True:
    peer, _ = door.accept()
    peer.sendall(b"from inside")
    peer.close()
"""


RUNTIME = os.environ.get("P2PRC_TEST_SSH_RUNTIME", "process")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[NodeUnderTest, NodeUnderTest]]:
    folder = tmp_path_factory.mktemp("ssh")
    ada, grace = (
        NodeUnderTest(folder / "ada", "ada"),
        NodeUnderTest(folder / "grace", "grace", variables={"P2PRC_RUNTIME": RUNTIME}),
    )
    try:
        up_all([ada, grace])
        join_all([ada, grace])
        ada.p2prc("create", "grace", "--cpus", "0.5", "--name", "box", "-e", "GREETING=hello")
        yield ada, grace
    finally:
        stop_all([ada, grace])


def client(
    node: NodeUnderTest, tmp_path: Path, *words: str, status: int = 0, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run `ssh`, `scp`, ... with what `ssh-config` prints."""
    config = tmp_path / "config"
    config.write_text(node.p2prc("ssh-config").out)
    done = subprocess.run(
        [words[0], "-F", str(config), *words[1:]],
        input=stdin,
        capture_output=True,
        timeout=STEP_TIMEOUT_S,
        env={**os.environ, "TERM": "xterm"},
        check=False,
    )
    assert done.returncode == status, (words, done)
    return done


def test_a_command_with_its_status_its_input_and_its_variables(
    pair: tuple[NodeUnderTest, NodeUnderTest],
) -> None:
    ada, _ = pair
    said = ada.p2prc(
        "ssh", "box", "--", "sh", "-c", "echo $GREETING; echo no >&2; exit 3", status=3
    )
    assert (said.out, said.err) == ("hello\n", "no\n")
    assert ada.p2prc("ssh", "box", "--", "cat", stdin="over\n").out == "over\n"
    assert ada.p2prc("ssh", "box", "--", "printf", "%s", "a b;$c").out == "a b;$c"
    assert ada.p2prc("ssh", "box", stdin="echo from a shell\nexit 5\n", status=5).out == (
        "from a shell\n"
    )
    assert ada.p2prc("--json", "ssh", "nonesuch", status=125).error["code"] == "lease-unknown"


def test_a_shell_has_a_terminal(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    done = client(ada, tmp_path, "ssh", "-tt", "box.p2prc", "--", "test -t 0 && echo $TERM")
    assert done.stdout == b"xterm\r\n"


@pytest.mark.parametrize("old", [[], ["-O"]], ids=["sftp", "scp"])
def test_files_both_ways(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path, old: list[str]
) -> None:
    ada, _ = pair
    tree = tmp_path / "tree"
    (tree / "inner").mkdir(parents=True)
    (tree / "inner" / "big").write_bytes(content := os.urandom(3_000_000))
    (tree / "run me").write_text("x")
    (tree / "run me").chmod(0o755)
    client(ada, tmp_path, "scp", *old, "-rp", str(tree), f"box.p2prc:up{len(old)}")
    client(ada, tmp_path, "scp", *old, "-rp", f"box.p2prc:up{len(old)}", str(tmp_path / "back"))
    assert (tmp_path / "back" / "inner" / "big").read_bytes() == content
    assert (tmp_path / "back" / "run me").stat().st_mode & 0o777 == 0o755
    client(ada, tmp_path, "scp", *old, "box.p2prc:none", str(tmp_path / "x"), status=1)


def test_sftp_by_hand(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    (tmp_path / "one").write_text("1")
    orders = (
        f"mkdir d\nput {tmp_path / 'one'} d/one\nrename d/one d/two\nsymlink two d/three\n"
        f"chmod 600 d/two\nls -l d\nget d/three {tmp_path / 'got'}\nrm d/two\nrm d/three\n"
        "rmdir d\n"
    )
    done = client(ada, tmp_path, "sftp", "-b", "-", "box.p2prc", stdin=orders.encode())
    assert b"-rw-------" in done.stdout
    assert (tmp_path / "got").read_text() == "1"


@pytest.mark.skipif(shutil.which("rsync") is None, reason="there is no rsync here")
def test_rsync(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "file").write_text("through rsync")
    config = tmp_path / "config"
    config.write_text(ada.p2prc("ssh-config").out)
    way = ["rsync", "-r", "-e", f"ssh -F {config}"]
    for words in (
        [f"{tmp_path}/tree/", "box.p2prc:synced"],
        ["box.p2prc:synced/", f"{tmp_path}/again"],
    ):
        subprocess.run([*way, *words], check=True, timeout=STEP_TIMEOUT_S)
    assert (tmp_path / "again" / "file").read_text() == "through rsync"


def test_a_port_inside_is_forwarded(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, _ = pair
    config = tmp_path / "config"
    config.write_text(ada.p2prc("ssh-config").out)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    going = subprocess.Popen(
        ["ssh", "-F", str(config), "-L", f"{port}:127.0.0.1:8765", "box.p2prc", "--",
         "exec python3 -u -"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert going.stdin is not None
    assert going.stdout is not None
    try:
        going.stdin.write(SERVER.encode())
        going.stdin.close()
        assert going.stdout.readline() == b"listening\n"
        with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
            got = b""
            while content := link.recv(100):
                got += content
            assert got == b"from inside"
    finally:
        going.kill()
        going.wait()
        going.stdout.close()
    # Nothing leads out of the sandbox.
    refused = client(
        ada, tmp_path, "ssh", "-W", "192.0.2.1:80", "box.p2prc", status=255
    )  # fmt: skip
    assert refused.stdout == b""


def test_a_wrong_key_and_a_wrong_host_are_refused(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, grace = pair
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "own")], check=True
    )
    text = ada.p2prc("ssh-config").out
    config = tmp_path / "wrong"
    right = f'"{ada.home}/ssh/id_ed25519"'
    assert right in text
    config.write_text(text.replace(right, str(tmp_path / "own")))
    done = subprocess.run(
        ["ssh", "-F", str(config), "box.p2prc", "true"], capture_output=True, text=True,
        check=False, timeout=STEP_TIMEOUT_S,
    )  # fmt: skip
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr
    known = tmp_path / "known"
    wrong = (tmp_path / "own.pub").read_text().split()
    known.write_text(f"* {wrong[0]} {wrong[1]}\n")
    config.write_text(text.replace(f'"{ada.home}/ssh/known/%n"', str(known)))
    done = subprocess.run(
        ["ssh", "-F", str(config), "box.p2prc", "true"], capture_output=True, text=True,
        check=False, timeout=STEP_TIMEOUT_S,
    )  # fmt: skip
    assert (done.returncode, "Host key verification failed" in done.stderr) == (255, True)
    # Another's lease is none at all.
    [lease] = [row["id"] for row in ada.json("ps")]
    for words in (["ssh", lease], ["ssh", "box"]):
        assert grace.p2prc("--json", *words, status=125).error["code"] == "lease-unknown"
    assert (ada.home / "ssh" / "id_ed25519").stat().st_mode & 0o777 == 0o600
    assert sys.executable in text


def test_clients_that_take_no_socket_go_through_connect(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, _ = pair
    lines = ada.p2prc("ssh-config").out.splitlines()
    [proxy] = [line for line in lines if "ProxyCommand" in line]
    assert "    ProxyUseFdpass yes" in lines
    program = Path(sys.executable).with_name("p2prc")
    other = f"    ProxyCommand {program} --home {ada.home} connect '%n'"
    kept = [line for line in lines if "ProxyUseFdpass" not in line]
    config = tmp_path / "piped"
    config.write_text("\n".join(other if line == proxy else line for line in kept))
    words = ["ssh", "-F", str(config)]
    said = "much" * 50_000
    done = subprocess.run(
        [*words, "box.p2prc", "cat"], input=said, capture_output=True, text=True, check=True,
        timeout=STEP_TIMEOUT_S,
    )  # fmt: skip
    assert done.stdout == said


def test_one_word_is_a_line_for_the_shell(pair: tuple[NodeUnderTest, NodeUnderTest]) -> None:
    ada, _ = pair
    assert ada.p2prc("ssh", "box", "echo one; echo two").out == "one\ntwo\n"
    assert ada.p2prc("ssh", "box", "--", "echo", "one; echo two").out == "one; echo two\n"


def test_an_unknown_container_is_named(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, _ = pair
    done = client(ada, tmp_path, "ssh", "bax.p2prc", "true", status=255)
    assert b"error: no lease here is `bax`\nhint: did you mean `box`?" in done.stderr


@contextmanager
def mastered(
    node: NodeUnderTest, tmp_path: Path, *forwards: str
) -> Iterator[Callable[..., subprocess.CompletedProcess[bytes]]]:
    """One connection that many commands share, as editors keep it; yields how to use it."""
    config = tmp_path / "config"
    config.write_text(node.p2prc("ssh-config").out)
    # A Unix socket's name must be short.
    with tempfile.TemporaryDirectory(prefix="p2prc-") as room:
        way = ["ssh", "-F", str(config), "-o", f"ControlPath={room}/master"]

        def through(
            *words: str, stdin: bytes = b"", status: int = 0
        ) -> subprocess.CompletedProcess[bytes]:
            done = subprocess.run(
                [*way, *words], input=stdin, capture_output=True, timeout=STEP_TIMEOUT_S,
                check=False,
            )  # fmt: skip
            assert done.returncode == status, (words, done)
            return done

        master = subprocess.Popen(
            [*way, "-M", "-N", *forwards, "box.p2prc"], stderr=subprocess.DEVNULL
        )
        try:
            wait_until(Path(room, "master").exists, "the connection stands")
            yield through
            through("-O", "exit", "box.p2prc")
        finally:
            master.kill()
            master.wait()


def test_what_editors_do_from_afar(
    pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path
) -> None:
    ada, _ = pair
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with mastered(ada, tmp_path, "-A", "-D", str(port)) as through:
        assert through("-O", "check", "box.p2prc").stderr.startswith(b"Master running")
        # A server of the editor's is unpacked from a pipe, and started in the background.
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w:gz") as tar:
            entry = tarfile.TarInfo("editor/server.py")
            entry.size = len(SERVER)
            tar.addfile(entry, io.BytesIO(SERVER.replace("8765", "8766").encode()))
        through("box.p2prc", "mkdir -p .editor && tar -xzf - -C .editor", stdin=packed.getvalue())
        started = through("box.p2prc", "bash -c 'nohup python3 .editor/editor/server.py "
                          ">.editor/log 2>&1 </dev/null & echo pid=$!'")  # fmt: skip
        assert started.stdout.startswith(b"pid=")
        through("box.p2prc", "until grep -q listening .editor/log; do sleep 0.05; done")
        # It is reached by a SOCKS proxy, and goes on after the command that started it.
        with socket.create_connection(("127.0.0.1", port), timeout=30) as link:
            link.sendall(b"\x05\x01\x00")
            assert link.recv(2) == b"\x05\x00"
            link.sendall(b"\x05\x01\x00\x01\x7f\x00\x00\x01" + (8766).to_bytes(2, "big"))
            said = b""
            while content := link.recv(100):
                said += content
        assert said.endswith(b"from inside")
        # No agent is there, and nobody is told that one is.
        assert through("box.p2prc", "echo agent=$SSH_AUTH_SOCK").stdout == b"agent=\n"


def test_the_way_of_sshfs(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    (tmp_path / "one").write_text("1")
    (tmp_path / "part").write_text("123")
    orders = (
        f"mkdir mounted\ncd mounted\nput {tmp_path / 'one'} one\ndf\nln -s one soft\nln one hard\n"
        f"chmod 640 one\nrename one other\nls -ln\nreput {tmp_path / 'part'} other\n"
        f"get hard {tmp_path / 'hard'}\nrm soft\nrm hard\nrm other\ncd ..\nrmdir mounted\n"
    )
    done = client(ada, tmp_path, "sftp", "-b", "-", "box.p2prc", stdin=orders.encode())
    assert b"-rw-r-----" in done.stdout
    assert b"%Capacity" in done.stdout
    assert (tmp_path / "hard").read_text() == "123"


PLAYBOOK = """
- hosts: box.p2prc
  gather_facts: false
  tasks:
    - ping:
    - copy: {content: "by ansible", dest: "{{ place }}/told", mode: "0600"}
    - command: cat told
      args: {chdir: "{{ place }}"}
      register: read
    - assert: {that: read.stdout == "by ansible"}
    - command: "false"
      register: failing
      failed_when: failing.rc != 1
"""


def test_ansible(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    program = shutil.which("ansible-playbook")
    if program is None:
        pytest.skip("there is no ansible here")
    config, playbook = tmp_path / "config", tmp_path / "playbook.yml"
    config.write_text(ada.p2prc("ssh-config").out)
    playbook.write_text(PLAYBOOK)
    place = ada.p2prc("ssh", "box", "--", "pwd").out.strip()
    # A connection that it keeps for later must be no other test's; a Unix socket's name is short.
    with tempfile.TemporaryDirectory(prefix="p2prc-") as room:
        done = subprocess.run(
            [program, "-i", "box.p2prc,", "-e", f"place={place}",
             "-e", "ansible_remote_tmp=/tmp/remote",
             "--ssh-common-args", f"-F {config} -o ControlPersist=2s", str(playbook)],
            capture_output=True, text=True, check=False, timeout=STEP_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "HOME": str(tmp_path), "ANSIBLE_SSH_CONTROL_PATH_DIR": room},
        )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ok=5" in done.stdout


PLUGIN = """
- hosts: main
  gather_facts: false
  tasks:
    - shell: echo {{index . 0}} {{ greeting }} >> told
    - command: test ! -e broken
"""
INVENTORY = """
all:
  vars:
    greeting: hello
main:
  hosts:
    host1:
      ansible_host: 0.0.0.0
      ansible_port: 39269
      ansible_user: master
      ansible_ssh_pass: password
      ansible_sudo_pass: password
"""


def test_a_plugin_on_a_group(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, _ = pair
    if shutil.which("ansible-playbook") is None:
        pytest.skip("there is no ansible here")
    folder = tmp_path / "setup"
    folder.mkdir()
    for name, text in (
        ("site.yml", PLUGIN), ("hosts", INVENTORY), ("ports.json", '{"NumOfPorts": 1}'),
        ("description.txt", "sets up"),
    ):  # fmt: skip
        (folder / name).write_text(text)
    ada.p2prc("plugin", "pull", str(folder))
    [row] = ada.json("plugin", "list")
    assert (row["name"], row["description"], row["ports"]) == ("setup", "sets up", 1)
    refused = ada.p2prc("--json", "plugin", "run", "setup", "box", status=3).error
    assert "needs 1 ports, and `box` has 0 free" in refused["message"]
    assert "--recreate" in refused["hint"]
    ada.p2prc("create", "grace", "--cpus", "0.2", "--count", "2", "--name", "w", "--group", "web",
              "--ports", "1")  # fmt: skip
    ada.p2prc("exec", "w-2", "--", "touch", "broken")
    said = ada.p2prc("--json", "plugin", "run", "setup", "web", status=7)
    assert said.error["code"] == "work-failed"
    good, bad = sorted(said.data, key=lambda each: str(each["name"]))
    assert (good["ok"], good["changed"], good["failed"]) == (True, 2, 0), said
    assert (bad["ok"], bad["failed"], bad["reason"]) == (False, 1, "non-zero return code"), said
    [port] = good["ports"]
    assert ada.p2prc("exec", "w-1", "--", "cat", "told").out == f"{port} hello\n"
    assert ada.json("plugin", "list")[0]["used_by"] == {
        each["id"]: each["ports"] for each in said.data
    }
    # One that needs more ports than there are has the container made again.
    (folder / "ports.json").write_text('{"NumOfPorts": 2}')
    ada.p2prc("plugin", "pull", str(folder))
    [made] = ada.json("plugin", "run", "setup", "w-2", "--recreate")
    assert (made["name"], made["ok"], len(made["ports"])) == ("w-2", True, 2)
    assert made["id"] != bad["id"]
    [group] = ada.json("group", "show", "web")
    assert sorted(group["names"]) == ["w-1", "w-2"]
    ada.p2prc("rm", "web")
    ada.p2prc("plugin", "rm", "setup")
    assert ada.json("plugin", "list") == []


NETWORK = """
nodes:
  - {{name: ada, ssh: local, home: {ada}, roles: [admin]}}
  - {{name: grace, ssh: local, home: {grace}, settings: {{lend: {{per_peer.leases: 200}}}}}}
  - {{name: linus, ssh: local, home: {linus}, settings: {{listen: "127.0.0.1:0"}}, roles: [ask]}}
  - {{name: gone, ssh: "127.0.0.1:{closed}"}}
install: {{program: {program}}}
"""


def test_a_network_in_a_file(pair: tuple[NodeUnderTest, NodeUnderTest], tmp_path: Path) -> None:
    ada, grace = pair
    linus = NodeUnderTest(tmp_path / "linus", "linus")
    file = tmp_path / "network.yaml"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = taken.getsockname()[1]
    program = Path(sys.executable).with_name("p2prc")
    file.write_text(
        NETWORK.format(
            ada=ada.home, grace=grace.home, linus=linus.home, closed=closed, program=program
        )
    )
    try:
        first = ada.p2prc("--json", "deploy", str(file), status=6)
        assert first.error["code"] == "peer-unreachable"
        found = {row["name"]: row for row in first.data}
        assert [row["ok"] for row in found.values()] == [True, True, True, False], first
        assert found["ada"]["did"] == []
        assert found["grace"]["did"] == ["set lend.per_peer.leases"]
        assert found["linus"]["did"][1:] == ["started", "joined"]
        assert ada.states()["linus"] == "alive"
        again = ada.p2prc("--json", "deploy", str(file), status=6)
        assert [row["did"] for row in again.data] == [[], [], [], []]
    finally:
        linus.p2prc("down", status=None)
        linus.stop()
