"""The command line against the real server; what it prints and the status it ends with."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from p2prc.api import schema
from p2prc.cli.invocation import Invocation, home_of
from p2prc.cli.main import SECTIONS, root, run_command_line
from p2prc.cli.render.progress_text import facts
from p2prc.errors import NoNodeMatches, PeerBusy, TicketExpired, from_fields
from tests.unit.api_fake import JOB, KEY, LEASE, NODE, PEER, FakeNode, job_detail, served

Answer = tuple[int, str, str]
Call = Callable[..., Answer]
STARTED = schema.RunStarted(node=PEER, lease=LEASE, node_name="beta")


@pytest.fixture(scope="module")
def served_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeNode, Path]]:
    """One server for all tests of the module: starting one takes longer than a test."""
    node, folder = FakeNode(), tmp_path_factory.mktemp("home")
    with served(node, folder):
        yield node, folder


@pytest.fixture
def fake(served_node: tuple[FakeNode, Path]) -> FakeNode:
    """The served node as if it were new."""
    served_node[0].reset()
    return served_node[0]


@pytest.fixture
def home(served_node: tuple[FakeNode, Path], fake: FakeNode) -> Path:
    return served_node[1]


@pytest.fixture
def call(home: Path, capfd: pytest.CaptureFixture[str]) -> Call:
    """Run a command line in this process: its status, what it printed, what it told."""

    def run(*arguments: str) -> Answer:
        status = run_command_line(arguments, Invocation(str(home)))
        printed = capfd.readouterr()
        return status, printed.out, printed.err

    return run


def ended(exit_status: int | None, **more: Any) -> schema.RunEnded:
    return schema.RunEnded(exit=exit_status, node=PEER, lease=LEASE, **more)


def program(*arguments: str, home: Path, **settings: Any) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "p2prc", "--home", str(home), *arguments]
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **settings)


# -- what every command shares ----------------------------------------------------------------


def test_help_shows_every_command_in_its_group_and_its_own_summary(call: Call) -> None:
    status, printed, _ = call("--help")
    assert status == 0
    for title, section in SECTIONS.items():
        assert title in printed
        for name, (_, summary) in section.items():
            assert f"\n  {name} " in printed
            assert summary in printed


@pytest.mark.parametrize("name", [name for part in SECTIONS.values() for name in part])
def test_every_command_explains_itself_as_the_overview_does(name: str) -> None:
    if name == "demo":
        pytest.importorskip("p2prc.demo.command")
    context = root.make_context("p2prc", ["--help-is-not-parsed"], resilient_parsing=True)
    found = root.get_command(context, name)
    assert found is not None
    summary = next(
        entry[1] for part in SECTIONS.values() for key, entry in part.items() if key == name
    )
    assert (found.help or "").startswith(summary.rstrip("."))


@pytest.mark.parametrize("arguments", [["--json", "status"], ["status", "--json"]])
def test_json_may_stand_before_or_after_the_command(arguments: list[str], call: Call) -> None:
    status, printed, told = call(*arguments)
    assert (status, told) == (0, "")
    assert json.loads(printed)["id"] == NODE


def test_home_may_stand_before_or_after_the_command(
    home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    elsewhere = str(tmp_path / "elsewhere")
    for arguments in (["--home", str(home), "status"], ["status", "--home", str(home)]):
        assert run_command_line(arguments, Invocation(elsewhere)) == 0
    assert run_command_line(["status"], Invocation(elsewhere)) == 9


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"P2PRC_HOME": "/a", "P2PRC": "/b"}, "/a"),
        ({"P2PRC": "/b"}, "/b"),
        ({"P2PRC_HOME": "", "P2PRC": "/b/../c"}, "/c"),
        ({}, str(Path("~/.p2prc").expanduser())),
    ],
)
def test_the_home_comes_from_the_environment(environment: dict[str, str], expected: str) -> None:
    assert home_of(environment) == expected


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("internal", 1),
        ("ticket-expired", 3),
        ("job-unknown", 4),
        ("policy-refuses", 5),
        ("peer-lost", 6),
        ("work-failed", 7),
        ("disk-full", 8),
    ],
)
def test_an_error_ends_with_the_status_of_its_kind(
    code: str, status: int, call: Call, fake: FakeNode
) -> None:
    fake.error = from_fields(code, "it went wrong", hint="do this")
    assert call("status") == (status, "", "error: it went wrong\nhint: do this\n")


def test_without_a_node_the_hint_starts_one(tmp_path: Path) -> None:
    ended = program("nodes", "--json", home=tmp_path)
    assert (ended.returncode, ended.stdout) == (9, b"")
    *said, last = ended.stderr.decode().splitlines()
    assert said == [
        f"error: no node is running in {tmp_path}",
        f"hint: start it: `p2prc --home {tmp_path} up --detach`",
    ]
    assert json.loads(last) == {
        "error": {
            "code": "node-not-running",
            "message": f"no node is running in {tmp_path}",
            "hint": f"start it: `p2prc --home {tmp_path} up --detach`",
            "retryable": False,
        }
    }


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stauts"], "no such command: `stauts`; did you mean `status`"),
        (["xyzzy"], "no such command: `xyzzy`"),
        (["nodes", "--wacth"], "no such option"),
        (["ping"], "missing argument 'NODE'"),
        (["kill"], "give LEASE ids, or --peer NODE, or --all"),
        (["kill", "--all", "--peer", "x"], "give LEASE ids, or --peer NODE, or --all"),
        (["run"], "missing argument"),
        (["run", "any"], "which command?"),
        (["run", "any", "--"], "which command?"),
        (["map", "--over", "i=1-2"], "which command?"),
        (["map", "--memory", "much", "--", "true"], "`much` is not a size"),
        (["invite", "--expires", "soon"], "`soon` is not a duration"),
        (["invite", "--expires", "0s"], "too little"),
    ],
)
def test_wrong_usage_is_status_2_and_asks_nothing(
    arguments: list[str], said: str, call: Call, fake: FakeNode
) -> None:
    status, printed, told = (
        call(*arguments, "--json") if "--" not in arguments else call("--json", *arguments)
    )
    assert (status, printed) == (2, "")
    assert told.startswith("error: ")
    assert said in told
    assert json.loads(told.splitlines()[-1])["error"]["code"] == "wrong-usage"
    assert fake.asked == []


def test_no_command_shows_the_help(call: Call) -> None:
    status, printed, _ = call()
    assert status == 0
    assert "Start here" in printed


def test_text_of_peers_cannot_move_the_cursor(call: Call, fake: FakeNode) -> None:
    fake.name = "a\x1b[2Jb\nc"
    for arguments in (["nodes"], ["status"], ["logs"]):
        _, printed, _ = call(*arguments)
        assert "\x1b" not in printed
        assert "a?[2Jb?c" in printed or "evil ?[2J name" in printed


# -- run --------------------------------------------------------------------------------------


def test_run_streams_raw_bytes_and_exits_with_the_status(home: Path, fake: FakeNode) -> None:
    fake.run_events = [
        STARTED,
        schema.RunOutput(channel=1, content=b"\x00out\xff"),
        schema.RunOutput(channel=2, content=b"err\xfe"),
        ended(42, code="work-failed", message="the command ended with status 42"),
    ]
    result = program("run", "any", "--", "false", home=home)
    assert (result.returncode, result.stdout, result.stderr) == (42, b"\x00out\xff", b"err\xfe")


@pytest.mark.parametrize(
    ("arguments", "target", "argv"),
    [
        (["any", "--", "make", "-j4", "--json"], "any", ["make", "-j4", "--json"]),
        (["any", "make", "-j4", "--json"], "any", ["make", "-j4", "--json"]),
        (["beta", "--cpus", "2", "make", "--home", "x"], "beta", ["make", "--home", "x"]),
        (["--cpus=2", "beta", "--", "--version"], "beta", ["--version"]),
        (["-e", "A=1", "beta", "echo", "--", "x"], "beta", ["echo", "--", "x"]),
    ],
)
def test_what_follows_the_command_is_the_commands(
    arguments: list[str], target: str, argv: list[str], call: Call, fake: FakeNode
) -> None:
    fake.run_events = [ended(0)]
    assert call("run", *arguments)[0] == 0
    [request] = fake.asked
    assert isinstance(request, schema.RunRequest)
    assert (request.target, request.argv, request.to) == (target, argv, str(Path.cwd()))


def test_run_asks_for_what_was_typed(
    call: Call, fake: FakeNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FROM_HERE", "yes")
    monkeypatch.delenv("NOT_HERE", raising=False)
    (tmp_path / "scene").mkdir()
    fake.run_events = [ended(0)]
    typed = (
        "run beta --in scene --out *.png --out **/*.log --requirement numpy>=2 --env A=1=2 "
        "-e FROM_HERE -e NOT_HERE --cpus 1.5 --memory 1.5G --disk 10M --gpus 1 --lifetime 1h30m "
        "--timeout 90s --runtime process --name night -- render {i}"
    )
    assert call(*typed.split())[0] == 0
    assert fake.asked == [
        schema.RunRequest(
            target="beta",
            argv=["render", "{i}"],
            requirements=["numpy>=2"],
            inputs=[str(tmp_path / "scene")],
            outputs=["*.png", "**/*.log"],
            to=str(tmp_path),
            variables={"A": "1=2", "FROM_HERE": "yes"},
            runtime="process",
            cpus=1.5,
            memory_bytes=3 << 29,
            disk_bytes=10 << 20,
            gpus=1,
            lifetime_s=5400.0,
            timeout_s=90.0,
            name="night",
        )
    ]


def test_run_with_json_prints_one_object(call: Call, fake: FakeNode) -> None:
    fake.run_events = [
        STARTED,
        schema.RunOutput(channel=1, content=b"hello\n"),
        schema.RunOutput(channel=2, content=b"oh\n"),
        ended(3, outputs=["/tmp/a.png"]),
    ]
    status, printed, told = call("run", "any", "--json", "--", "false")
    assert (status, told) == (3, "")
    assert json.loads(printed) == {
        "exit": 3,
        "node": PEER,
        "lease": LEASE,
        "outputs": ["/tmp/a.png"],
        "stdout": "hello\n",
        "stderr": "oh\n",
    }


def test_run_that_could_not_run_is_125_and_the_reason(call: Call, fake: FakeNode) -> None:
    fake.run_events = [
        STARTED,
        ended(None, code="command-not-found", message="there is no command `flase`"),
    ]
    assert call("run", "any", "--", "flase") == (125, "", "error: there is no command `flase`\n")


def test_run_that_is_refused_is_125_and_the_reason(call: Call, fake: FakeNode) -> None:
    fake.error = NoNodeMatches("no node has 9 GPUs")
    status, _, told = call("run", "any", "--json", "--gpus", "9", "true")
    assert status == 125
    assert told.startswith(
        "error: no node has 9 GPUs\nhint: see who is online, and what each offers: `p2prc nodes`\n"
    )
    assert json.loads(told.splitlines()[-1])["error"]["code"] == "no-node-matches"


def test_run_without_a_node_is_125(tmp_path: Path) -> None:
    result = program("run", "any", "true", home=tmp_path)
    assert result.returncode == 125
    assert b"no node is running" in result.stderr


def test_run_whose_input_is_missing_is_125_and_asks_nothing(call: Call, fake: FakeNode) -> None:
    status, _, told = call("run", "any", "--in", "nowhere", "true")
    assert (status, fake.asked) == (125, [])
    assert "there is no file or folder 'nowhere'" in told


def test_a_good_command_whose_outputs_are_missing_failed(call: Call, fake: FakeNode) -> None:
    fake.run_events = [ended(0, code="output-missing", message="no file matches `*.png`")]
    status, _, told = call("run", "any", "--out", "*.png", "true")
    assert (status, told) == (7, "error: no file matches `*.png`\n")


def test_ctrl_c_cancels_the_command_and_is_130(home: Path, fake: FakeNode) -> None:
    fake.run_events = [STARTED, schema.RunOutput(channel=1, content=b"working\n")]
    fake.is_endless = True
    command = [sys.executable, "-m", "p2prc", "--home", str(home), "run", "any", "sleep", "9"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"working\n"
        running.send_signal(signal.SIGINT)
        assert running.wait(20) == 130
        assert running.stderr.read() == b"interrupted\n"
    assert fake.command_was_cancelled.wait(20)


def test_a_reader_that_goes_away_ends_it_quietly(home: Path, fake: FakeNode) -> None:
    fake.run_events = [schema.RunOutput(channel=1, content=b"x" * 1000)] * 1000
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "p2prc", "--home", str(home), "run", "any", "yes"]
    try:
        result = subprocess.run(
            command, stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
        )
    finally:
        os.close(writing)
    assert (result.returncode, result.stderr) == (141, b"")


# -- jobs -------------------------------------------------------------------------------------


def test_map_prints_id_and_key_at_once(call: Call, fake: FakeNode, tmp_path: Path) -> None:
    to = tmp_path / "{i}"
    typed = [
        "map",
        "--json",
        "--over",
        "i=1-4",
        "--over",
        "s=a,b",
        "--chunk",
        "2",
        "--retries",
        "0",
    ]
    typed += ["--on", "beta,gamma", "--on", "delta", "--isolate", "--to", str(to)]
    status, printed, _ = call(*typed, "--", "frame", "{i:04d}")
    expected = {"id": JOB, "key": KEY, "tasks": 4, "notices": []}
    assert (status, json.loads(printed)) == (0, expected)
    assert fake.asked == [
        schema.JobRequest(
            argv=["frame", "{i:04d}"],
            over=["i=1-4", "s=a,b"],
            chunk=2,
            retries=0,
            on=["beta", "gamma", "delta"],
            is_isolated=True,
            to=str(to),
        )
    ]


def test_map_tells_how_to_follow(call: Call) -> None:
    status, printed, told = call("map", "--over", "i=1-4", "--", "frame", "{i}")
    assert (status, printed) == (0, f"job  {JOB}\nkey  {KEY}\n")
    assert "p2prc watch" in told


def test_map_says_which_braces_it_leaves_alone(call: Call) -> None:
    _, _, told = call("map", "--over", "i=1-4", "--to", "{k}", "--", "frame", "{i:02d}", "{j} {}")
    assert "`{k}` stays as it is: there is no `--over k=...`" in told
    assert "`{j}` stays" in told
    assert "{i" not in told


def test_a_watched_job_that_succeeds_is_0_and_summed_up(call: Call) -> None:
    status, printed, told = call("map", "--watch", "--over", "i=1-4", "--", "frame")
    assert status == 0
    assert "beta  4     0       0" in printed
    assert "succeeded: 4 of 4 tasks done; 1 MiB in /tmp/out" in printed
    assert "3/4 done, 1 running, 2.0/s, 0.5 s left" in told


def test_a_watched_job_that_fails_is_7_with_the_ends_of_logs(call: Call, fake: FakeNode) -> None:
    failure = schema.TaskFailure(
        task="i=3", attempt=2, node=PEER, node_name="beta", reason="status 1", log="a\n\x1b[1mb\n"
    )
    fake.job_end = job_detail(
        "failed", schema.TaskCounts(total=4, succeeded=3, failed=1), [failure]
    )
    status, printed, _ = call("watch", JOB)
    assert status == 7
    assert "task i=3, attempt 2 on beta: status 1\n  | a\n  | ?[1mb\n" in printed
    assert "failed: 3 of 4 tasks done, 1 failed" in printed


def test_watch_with_json_ends_with_the_job(call: Call) -> None:
    status, printed, _ = call("watch", "--json", JOB)
    assert (status, json.loads(printed)["state"]) == (0, "succeeded")


def test_ctrl_c_in_watch_leaves_the_job_running_and_says_so(
    call: Call, fake: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("p2prc.cli.render.progress.Lines.show", interrupted)
    status, _, told = call("watch", JOB)
    assert status == 130
    assert f"the job goes on\nfollow it: `p2prc watch {JOB}`" in told
    assert ("cancel", JOB) not in fake.asked


@pytest.mark.parametrize(
    ("arguments", "asked", "said"),
    [
        (["cancel", JOB], ("cancel", JOB), "is cancelled: 3 of 4 done"),
        (["retry", JOB], ("retry", JOB), "0 tasks queued"),
        (["logs", JOB], ("task_logs", JOB, None), "task i=3, attempt 2 on beta, failed\n  | boom"),
        (["logs", f"{JOB}/i=3"], ("task_logs", JOB, "i=3"), "boom"),
        (["logs", "--lines", "7"], ("node_log", 7), "node ready"),
        (
            ["results", JOB, "--to", "/tmp/x"],
            ("results", JOB, "/tmp/x"),
            "3 files, 4 KiB in /tmp/x",
        ),
        (["jobs"], "jobs", "0123456789  render  running  3/4"),
        (["leases"], "leases", "beta -     running 98   300M"),
        (["pause"], "pause", "p2prc resume"),
        (["resume"], "resume", "lends again"),
        (["leave"], "leave", "left the network"),
        (["nodes"], "nodes", "direct  0.4 ms   7/8   8 GiB   process:userns"),
        (["ping", "beta"], ("ping", "beta", 5), "median 1.00 ms, 0.50 to 2.00 ms"),
        (["specs", "beta"], ("specs", "beta"), "H200, 140 GiB, 7 % used"),
        (["interfaces"], "interfaces", "eth0  up     192.168.1.2  192.168.1.1"),
        (["kill", LEASE], schema.KillRequest(leases=[LEASE]), "ended 1 lease"),
        (["kill", "--peer", "b"], schema.KillRequest(peer="b"), "ended 1 lease"),
        (["kill", "--all"], schema.KillRequest(is_all=True), "ended 1 lease"),
        (["join", "p2prcT"], ("join", "p2prcT"), "home joined a network of 2 nodes"),
        (
            ["join", "ada.example", "--timeout", "5m"],
            schema.AskRequest(address="ada.example", timeout_s=300.0),
            "  that node: cdcd-cdcd-cdcd-cdcd\n  this node: abab-abab-abab-abab",
        ),
        (["requests"], "requests", "beta  cdcd-cdcd-cdcd-cdcd  192.0.2.7:4000"),
        (
            ["requests", "--deny", "beta"],
            schema.Decision(node="beta", is_approved=False),
            "refused beta (cdcd-cdcd-cdcd-cdcd)",
        ),
        (
            ["approve", "beta", "--admin"],
            schema.Decision(node="beta", is_approved=True, is_admin=True),
            "let in beta (cdcd-cdcd-cdcd-cdcd)",
        ),
        (
            ["revoke", "beta", "--reason", "lost"],
            schema.RevokeRequest(node="beta", reason="lost"),
            "put out beta",
        ),
        (["metadata"], "metadata", "room  ki?tchen"),
        (["metadata", "a=b", "c="], {"a": "b", "c": ""}, "a  b"),
        (["policy"], "policy", "lend.to  members  default"),
        (["policy", "show"], "policy", "lend.to  members  default"),
        (["policy", "set", "lend.cpus", "2"], ("lend.cpus", "2"), "it was given otherwise"),
        (["policy", "deny", "beta"], ("deny", "beta"), f"lend.deny  {PEER}  config.toml"),
        (
            ["invite", "--admin", "--expires", "1h"],
            schema.InviteRequest(expires_s=3600.0, is_admin=True),
            "p2prcTICKET",
        ),
    ],
)
def test_a_command_asks_once_and_tells_a_person(
    arguments: list[str], asked: object, said: str, call: Call, fake: FakeNode
) -> None:
    status, printed, told = call(*arguments)
    assert status == 0
    assert fake.asked == [asked]
    assert said in printed + told


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"], ["nodes"], ["specs"], ["ping", "beta"], ["leases"], ["jobs"], ["interfaces"],
        ["job", "show", JOB], ["cancel", JOB], ["retry", JOB], ["results", JOB, "--to", "x"],
        ["logs", JOB], ["logs"], ["kill", "--all"], ["invite"], ["join", "p2prcT"], ["config"],
        ["requests"], ["approve", "beta"], ["revoke", "beta"], ["metadata"], ["policy"],
        ["config", "show"], ["openapi"], ["version"],
    ],
)  # fmt: skip
def test_with_json_standard_output_is_one_document_and_nothing_is_told(
    arguments: list[str], call: Call
) -> None:
    status, printed, told = call(*arguments, "--json")
    assert (status, told) == (0, "")
    assert json.loads(printed)


def test_the_ticket_stands_alone_on_standard_output(call: Call) -> None:
    status, printed, told = call("invite")
    assert (status, printed) == (0, "p2prcTICKET\n")
    assert "local network" in told


def test_a_ticket_may_come_from_standard_input(home: Path, fake: FakeNode) -> None:
    assert program("join", "-", home=home, input=b"  SECRET \n").returncode == 0
    assert program("join", "-", home=home, input=b"\n").returncode == 3
    assert fake.asked == [("join", "SECRET")]


def test_an_expired_ticket_is_status_3_and_says_what_to_do(call: Call, fake: FakeNode) -> None:
    fake.error = TicketExpired("the ticket expired 2 h ago")
    status, _, told = call("join", "T")
    assert (status, told) == (
        3,
        "error: the ticket expired 2 h ago\nhint: ask for a new one: `p2prc invite`\n",
    )


def test_a_ping_that_nobody_answered_is_status_6(call: Call) -> None:
    status, printed, _ = call("ping", "--json", "lost")
    assert (status, json.loads(printed)["lost"]) == (6, 5)


def test_empty_leases_name_the_other_command(call: Call, fake: FakeNode) -> None:
    fake.lease_rows = []
    status, printed, told = call("leases")
    assert (status, printed) == (0, "")
    assert "p2prc ps" in told
    assert call("leases", "--json")[1] == "[]\n"


def test_status_tells_what_is_lent_to_whom(call: Call) -> None:
    _, printed, _ = call("status")
    assert "lending    to members: 3 cores, 4 GiB memory, 10 GiB disk, no network" in printed
    assert "up for     1 h 2 min" in printed


def test_a_busy_peer_may_be_tried_again(call: Call, fake: FakeNode) -> None:
    fake.error = PeerBusy("nothing is free")
    _, _, told = call("nodes", "--json")
    assert json.loads(told.splitlines()[-1])["error"]["retryable"] is True


def test_completion_is_a_script(call: Call) -> None:
    for shell in ("bash", "zsh", "fish"):
        status, printed, _ = call("completion", shell)
        assert status == 0
        assert "_P2PRC_COMPLETE" in printed


def test_the_shell_can_ask_for_completions(tmp_path: Path) -> None:
    asking = {
        **os.environ,
        "_P2PRC_COMPLETE": "bash_complete",
        "COMP_WORDS": "p2prc le",
        "COMP_CWORD": "1",
    }
    command = [sys.executable, "-m", "p2prc"]
    asked = subprocess.run(command, env=asking, capture_output=True, timeout=60, check=False)
    assert asked.stdout.split() == [b"plain,leases", b"plain,leave"]


# -- a quick start ----------------------------------------------------------------------------

SLOW = ("fastapi", "pydantic", "iroh", "rich", "uvicorn", "starlette", "asyncio", "http.client")


def loaded_by(code: str, home: Path) -> set[str]:
    """Return which modules a new interpreter has loaded after this code."""
    script = (
        f"import sys\nsys.argv = ['p2prc', '--home', {str(home)!r}]\n{code}\n"
        "print('\\n' + '\\n'.join(sys.modules))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, timeout=60, check=True
    )
    return set(result.stdout.decode().split("\n"))


CALL = (
    "from p2prc.cli.main import run_command_line\n"
    "from p2prc.cli.invocation import Invocation\n"
    "assert run_command_line({arguments}, Invocation(sys.argv[2])) == {status}"
)


def test_help_loads_nothing_slow(tmp_path: Path) -> None:
    loaded = loaded_by(CALL.format(arguments=["--help"], status=0), tmp_path)
    assert loaded.isdisjoint({*SLOW, "msgspec", "json", "socket"})
    assert "p2prc.cli.main" in loaded


def test_run_loads_nothing_slow(home: Path, fake: FakeNode) -> None:
    fake.run_events = [ended(0)]
    loaded = loaded_by(CALL.format(arguments=["run", "any", "true"], status=0), home)
    assert loaded.isdisjoint({*SLOW, "msgspec", "email", "ssl", "subprocess", "tempfile"})
    assert "p2prc.cli.commands.run" in loaded


@pytest.mark.parametrize("arguments", [["nodes"], ["watch", JOB], ["map", "true"]])
def test_no_command_loads_the_server_or_the_network(arguments: list[str], home: Path) -> None:
    loaded = loaded_by(CALL.format(arguments=arguments, status=0), home)
    assert loaded.isdisjoint(set(SLOW) - {"asyncio"})


def test_doctor_says_that_all_is_well(call: Call) -> None:
    status, printed, _ = call("doctor")
    assert status == 0
    assert "ok   sockets  listens on 10.1.2.3:8088" in printed
    assert "nothing needs doing" in printed


@pytest.mark.parametrize(("check", "expected"), [("nat", 6), ("disk", 8)])
def test_what_doctor_finds_tells_where_it_is_by_its_status(
    call: Call, fake: FakeNode, check: str, expected: int
) -> None:
    fake.checks.append(schema.Check(check=check, ok=False, finding="bad", advice="`p2prc fix`"))
    status, printed, _ = call("doctor", "beta")
    assert status == expected
    assert fake.asked[-1] == ("doctor", "beta")
    assert "-> `p2prc fix`" in printed
    assert "1 to fix" in printed


def test_doctor_without_a_node_looks_at_the_machine(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    home = str(tmp_path / "none")
    assert run_command_line(["doctor", "--json"], Invocation(home)) == 9
    checks = json.loads(capfd.readouterr().out)
    assert [check["check"] for check in checks][:2] == ["node", "disk"]
    assert not Path(home).exists()


def test_a_bundle_has_no_addresses_in_it_and_replaces_no_file(call: Call, tmp_path: Path) -> None:
    path = tmp_path / "report.tar.gz"
    assert call("doctor", "--bundle", str(path))[0] == 0
    with tarfile.open(path) as archive:
        texts = {
            member.name: (archive.extractfile(member) or io.BytesIO()).read().decode()
            for member in archive
        }
    assert "p2prc-report/doctor.json" in texts
    assert not any("10.1.2.3" in text for text in texts.values())
    assert path.stat().st_mode & 0o777 == 0o600
    assert call("doctor", "--bundle", str(path))[0] == 3


def test_what_tasks_say_of_themselves_is_shown_while_they_run() -> None:
    nodes = {"a" * 64: schema.NodeShare(running=1, name="beta", says="50 % · frame\x1b[2J 3")}
    progress = schema.JobProgress(
        id="x", state="running", tasks=schema.TaskCounts(total=2, running=1), nodes=nodes
    )
    told = facts(progress)[-1]
    assert told.startswith("beta: 50 % · frame")
    assert "\x1b" not in told
