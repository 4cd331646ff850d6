"""Plugins: what of a folder is understood, what of a repository comes here, and what never runs."""

from __future__ import annotations

import os
import shutil
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2prc.errors import FileUnknown, InvalidInput, LimitExceeded, P2prcError, PathInvalid
from p2prc.plugins import pulling, used_ports
from p2prc.plugins.folder import PluginFolder, read_plugin
from p2prc.plugins.go_template import fill_in, ports_needed
from p2prc.plugins.playbook import Recap, Target

BOX = Target("ab" * 16, "box", (4001,))


def quiet(_line: str) -> None:
    """Nobody listens."""


def made(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True)
    for name, text in {"site.yml": "- hosts: all\n", **files}.items():
        (folder / name).write_text(text)
    return folder


# -- Go's templates


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("sh server.sh 0.0.0.0:{{index . 0}}", "sh server.sh 0.0.0.0:4001"),
        ("{{ index $ 1 }}-{{(index . 0)}}", "4002-4001"),
        ("a {{- index . 0 -}} b", "a4001b"),
        ("{{ ansible_host }} {{item.name}}", "{{ ansible_host }} {{item.name}}"),
        ("""{{"{{"}} user {{"}}"}}""", "{{ user }}"),
        ("{{`{{ user }}`}}", "{{ user }}"),
        ("{{len .}} ports{{/* two */}}", "2 ports"),
        ("{{ x | default(\"a\") }} {{ '%s' % y }}", "{{ x | default(\"a\") }} {{ '%s' % y }}"),
        ("{% if x %} {{ lookup('env', \"A\") }}", "{% if x %} {{ lookup('env', \"A\") }}"),
    ],
)
def test_ports_are_filled_in_and_the_rest_is_left_to_ansible(text: str, filled: str) -> None:
    assert fill_in(text, [4001, 4002]) == filled


@pytest.mark.parametrize(
    "text", ["\n{{index . 2}}", "\n{{range .}}{{.}}{{end}}", "\n{{ if true }}", '\n{{"\\q"}}']
)
def test_what_cannot_be_filled_in_is_refused_with_its_line(text: str) -> None:
    with pytest.raises(InvalidInput, match="line 2"):
        fill_in(text, [4001, 4002])


@given(st.text())
def test_any_text_is_filled_in_or_refused(text: str) -> None:
    try:
        fill_in(text, [1])
    except InvalidInput:
        pass
    else:
        if "{{" not in text:
            assert fill_in(text, [1]) == text


def test_ports_are_counted_by_their_highest_index() -> None:
    assert ports_needed("{{index . 3}} {{ index . 0 }} {{ index }}") == 4
    assert ports_needed("{{ ansible_port }}") == 0


# -- the folder


def test_a_plugin_is_read(tmp_path: Path) -> None:
    files = {"site.yml": "x: {{index . 1}}", "ports.json": '{"NumOfPorts": 2}'}
    plugin = read_plugin(made(tmp_path / "one", **files, **{"description.txt": " does it\n"}))
    assert (plugin.name, plugin.ports, plugin.description) == ("one", 2, "does it")
    assert not plugin.has_hosts


@pytest.mark.parametrize(
    ("files", "says"),
    [
        ({"ports.json": "{"}, "ports.json"),
        ({"ports.json": '{"NumOfPorts": "two"}'}, "ports.json"),
        ({"ports.json": '{"NumOfPorts": -1}'}, "ports.json"),
        ({"ports.json": "[" * 100_000}, "ports.json"),
        ({"site.yml": "{{index . 0}}"}, "uses 1 ports"),
        ({"site.yml": "x" * (2 << 20)}, "site.yml"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, files: dict[str, str], says: str) -> None:
    with pytest.raises(InvalidInput, match=says):
        read_plugin(made(tmp_path / "one", **files))


def test_a_playbook_that_is_missing_or_a_link_is_named(tmp_path: Path) -> None:
    folder = made(tmp_path / "one")
    (folder / "site.yml").unlink()
    with pytest.raises(InvalidInput, match=r"no `site\.yml`"):
        read_plugin(folder)
    (folder / "site.yml").symlink_to("/etc/passwd")
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_plugin(folder)


# -- ports


def test_a_plugin_keeps_its_ports_and_takes_nobody_elses() -> None:
    assert used_ports.choose([1, 2, 3], {}, "web", 2) == (1, 2)
    assert used_ports.choose([1, 2, 3], {1: "db"}, "web", 2) == (2, 3)
    assert used_ports.choose([1, 2, 3], {3: "web"}, "web", 1) == (3,)
    assert used_ports.choose([1, 2, 3], {1: "db", 2: "db"}, "web", 2) is None


def test_what_is_taken_is_kept_and_forgotten_with_its_container(tmp_path: Path) -> None:
    with used_ports.held(tmp_path) as used:
        used["here"] = {4001: "web"}
        used["gone"] = {4001: "web"}
    with used_ports.held(tmp_path, {"here"}):
        pass
    assert used_ports.read(tmp_path) == {"here": {4001: "web"}}
    with pytest.raises(ZeroDivisionError), used_ports.held(tmp_path) as used:
        used.clear()
        raise ZeroDivisionError
    assert used_ports.read(tmp_path) == {"here": {4001: "web"}}
    (tmp_path / ".used.json").write_text("{")
    assert used_ports.read(tmp_path) == {}


# -- what Ansible says


def test_a_result_is_read_from_the_recap() -> None:
    recap = Recap()
    recap.add("PLAY RECAP *****")
    recap.add("host1    : ok=3    changed=1    unreachable=0    failed=0    skipped=2   rescued=0")
    done = recap.result(BOX, 0)
    assert (done.ok, done.ok_tasks, done.changed, done.skipped) == (True, 3, 1, 2)


def test_a_failure_says_why() -> None:
    recap = Recap()
    recap.add('fatal: [host1]: FAILED! => {"changed": true, "msg": "non-zero", "stderr": "a\\nb"}')
    recap.add("host1 : ok=0 changed=0 unreachable=0 failed=1")
    done = recap.result(BOX, 2)
    assert (done.ok, done.failed, done.reason) == (False, 1, "b")


@pytest.mark.parametrize(
    ("lines", "status", "says"),
    [
        (["skipping: no hosts matched"], 0, "no host"),
        (["ERROR! Syntax Error while loading YAML."], 4, "Syntax Error"),
        ([], 250, "250"),
        (["fatal: [x]: UNREACHABLE! => {broken"], 4, "{broken"),
    ],
)
def test_what_did_nothing_has_failed(lines: list[str], status: int, says: str) -> None:
    recap = Recap()
    for line in lines:
        recap.add(line)
    done = recap.result(BOX, status)
    assert not done.ok
    assert says in done.reason


# -- pulling


@pytest.fixture
def plugins(tmp_path: Path) -> PluginFolder:
    return PluginFolder(tmp_path / "home" / "plugins")


def git(folder: Path, *words: str) -> str:
    done = subprocess.run(
        ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(folder), *words],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout.strip()


def repository(folder: Path) -> Path:
    made(folder, **{"description.txt": "from git"})
    (folder / "run.sh").write_text("#!/bin/sh\n")
    (folder / "run.sh").chmod(0o755)
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", "one")
    return folder


needs_git = pytest.mark.skipif(shutil.which("git") is None, reason="there is no git here")


@needs_git
def test_a_repository_comes_with_its_commit_and_again_with_what_is_new(
    tmp_path: Path, plugins: PluginFolder
) -> None:
    url = f"file://{repository(tmp_path / 'web')}"
    first = pulling.pull(plugins, url, quiet)
    assert (first.name, first.source.commit) == ("web", git(tmp_path / "web", "rev-parse", "HEAD"))
    assert os.access(plugins.path / "web" / "run.sh", os.X_OK)
    assert not (plugins.path / "web" / ".git").exists()
    git(tmp_path / "web", "commit", "-qm", "two", "--allow-empty")
    second = pulling.pull(plugins, url, quiet)
    assert second.was == first.source
    assert second.source.commit != first.source.commit
    with pytest.raises(InvalidInput, match="is here already"):
        pulling.pull(plugins, str(made(tmp_path / "other" / "web")), quiet)
    pulling.remove(plugins, "web")
    assert plugins.names() == []
    assert plugins.source_of("web") is None
    with pytest.raises(FileUnknown):
        pulling.remove(plugins, "web")


@needs_git
def test_nothing_of_a_repository_runs_or_leads_out(tmp_path: Path, plugins: PluginFolder) -> None:
    source = repository(tmp_path / "web")
    mark = tmp_path / "ran"
    for hook in ("post-checkout", "post-merge"):
        (source / ".git" / "hooks" / hook).write_text(f"#!/bin/sh\ntouch {mark}\n")
        (source / ".git" / "hooks" / hook).chmod(0o755)
    (source / ".gitattributes").write_text("* filter=evil\n")
    git(source, "config", "filter.evil.smudge", f"touch {mark}; cat")
    git(source, "add", ".")
    one = git(source, "rev-parse", "HEAD")
    git(source, "update-index", "--add", "--cacheinfo", f"160000,{one},module")
    git(source, "commit", "-qm", "module")
    said: list[str] = []
    pulling.pull(plugins, f"file://{source}", said.append)
    assert not mark.exists()
    assert said == ["left out: `module`, a submodule"]
    (source / "link").symlink_to("/etc")
    git(source, "add", "link")
    git(source, "commit", "-qm", "link")
    with pytest.raises(PathInvalid, match="link"):
        pulling.pull(plugins, f"file://{source}", quiet)
    assert plugins.names() == ["web"]
    assert not list(plugins.path.glob(".incoming-*"))


@pytest.mark.parametrize(
    "name", ["../out", "/etc/x", "a/../../b", "a//b", ".git/config", "x/.GIT/y", "a\\b", "a\nb", ""]
)
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PathInvalid):
        pulling.Room(tmp_path).write(name, b"")


def test_a_plugin_has_a_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pulling, "FILES_LIMIT", 2)
    with pytest.raises(LimitExceeded):
        pulling.pull(
            PluginFolder(tmp_path / "home"),
            str(made(tmp_path / "many", a="", b="", c="")),
            quiet,
        )


@needs_git
def test_a_repository_has_a_size(
    tmp_path: Path, plugins: PluginFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = repository(tmp_path / "web")
    (source / "large").write_bytes(os.urandom(3 << 20))
    git(source, "add", ".")
    git(source, "commit", "-qm", "large")
    with pytest.raises(LimitExceeded):
        monkeypatch.setattr(pulling, "SIZE_LIMIT_BYTES", 1 << 20)
        pulling.pull(plugins, f"file://{source}", quiet)
    # A tree that names itself again and again is small to fetch and endless to list.
    tree = git(source, "rev-parse", "HEAD^{tree}")
    for _ in range(8):
        listing = "".join(f"040000 tree {tree}\td{number}\n" for number in range(10))
        made = subprocess.run(
            ["git", "-C", str(source), "mktree"], input=listing, capture_output=True, text=True,
            check=True,
        )  # fmt: skip
        tree = made.stdout.strip()
    git(source, "update-ref", "HEAD", git(source, "commit-tree", "-m", "bomb", tree))
    with pytest.raises(LimitExceeded):
        pulling.pull(plugins, f"file://{source}", quiet)
    assert plugins.names() == []


@pytest.mark.parametrize(
    "source",
    ["ext::sh -c true", "--upload-pack=x", "/nonesuch", "https://", "..", "ftp://example.org/x"],
)
def test_what_is_no_source_is_refused(plugins: PluginFolder, source: str) -> None:
    with pytest.raises(P2prcError):
        pulling.pull(plugins, source, quiet)


class _Locked(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(401)
        self.send_header("WWW-Authenticate", 'Basic realm="x"')
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@needs_git
def test_a_repository_behind_a_password_asks_for_none(plugins: PluginFolder) -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), _Locked) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://me:secret@127.0.0.1:{server.server_address[1]}/web.git"
        with pytest.raises(InvalidInput, match="without a password") as told:
            pulling.pull(plugins, url, quiet)
        server.shutdown()
    assert "secret" not in str(told.value)
