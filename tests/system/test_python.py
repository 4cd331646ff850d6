"""p2prc from Python against real nodes: functions, containers and jobs."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from p2prc import AsyncClient, Client, Executor, UntrustedResult
from p2prc.errors import (
    JobInvalid,
    NodeNotRunning,
    NodeUnknown,
    P2prcError,
    TimedOut,
)
from tests.system.conftest import MakeNodes
from tests.system.nodes import NodeUnderTest, wait_until


def _where(number: int, seconds: float = 0.0) -> tuple[int, str]:
    time.sleep(seconds)
    return number, os.environ["HOME"]


def test_functions_run_in_sandboxes(three_nodes: list[NodeUnderTest]) -> None:
    ada, grace, _ = three_nodes
    said: list[str] = []
    with Executor(2, home=ada.home, nodes=[grace.name], on_output=said.append) as executor:
        numbers = list(range(200))
        found = list(executor.map(_where, numbers))
        assert [number for number, _ in found] == numbers
        assert {home for _, home in found} == {"/work"}
        rows = ada.json("ps")
        assert {row["node"] for row in rows if row["state"] == "active"} == {grace.id}
        with pytest.raises(ZeroDivisionError) as raised:
            executor.submit(lambda: 1 // 0).result(30)
        assert "1 // 0" in str(raised.value.__cause__) or "lambda" in str(raised.value.__cause__)
        with pytest.raises(UntrustedResult, match=r"builtins\.set"):
            executor.submit(lambda: {1}).result(30)
        executor.submit(print, "hello from afar").result(30)
        with pytest.raises(OSError, match="etwork"):
            executor.submit(_dial).result(30)
    assert "hello from afar" in said
    wait_until(lambda: not grace.json("leases"), "the workers are given back")


def _dial() -> None:
    import socket  # noqa: PLC0415

    socket.create_connection(("192.0.2.1", 80), timeout=5)


def test_a_lost_worker_loses_no_call(make_nodes: MakeNodes) -> None:
    ada, grace, linus = make_nodes(3)
    ada.p2prc("pause")
    with Executor(2, home=ada.home, nodes=[grace.name, linus.name]) as executor:
        first = executor.submit(_where, 0)
        futures = [executor.submit(_where, number, 0.1) for number in range(60)]
        assert first.result(60)[0] == 0
        grace.p2prc("kill", "--all")
        futures[10].result(60)
        linus.kill_9()
        assert [future.result(90)[0] for future in futures] == list(range(60))


def test_what_keeps_workers_from_starting_is_raised(three_nodes: list[NodeUnderTest]) -> None:
    ada, grace, _ = three_nodes
    with Executor(1, home=ada.home, nodes=["nobody"]) as executor, pytest.raises(NodeUnknown):
        executor.submit(pow, 2, 3).result(30)
    with (
        Executor(1, home=ada.home, image="none-such", start_timeout_s=1) as executor,
        pytest.raises(P2prcError),
    ):
        executor.submit(pow, 2, 3).result(30)
    with (
        Executor(1, home=ada.home, nodes=[grace.name], python="missing-python") as executor,
        pytest.raises(P2prcError),
    ):
        executor.submit(pow, 2, 3).result(30)
    with pytest.raises(NodeNotRunning):
        Executor(home=ada.home / "nowhere")


def test_shutting_down_cancels_what_waits(three_nodes: list[NodeUnderTest]) -> None:
    ada = three_nodes[0]
    executor = Executor(1, home=ada.home)
    futures = [executor.submit(_where, number, 0.3) for number in range(20)]
    assert futures[0].result(30)[0] == 0
    executor.shutdown(cancel_futures=True)
    assert any(future.cancelled() for future in futures)
    assert all(future.done() for future in futures)
    with pytest.raises(RuntimeError):
        executor.submit(pow, 2, 3)


def test_containers_and_jobs_from_python(three_nodes: list[NodeUnderTest], tmp_path: Path) -> None:
    ada, grace, _ = three_nodes
    client = Client(ada.home)
    assert sorted(node.name for node in client.nodes()) == ["ada", "grace", "linus"]
    with client.create(grace.name, name="from-python", cpus=1) as container:
        assert container.row.node == grace.id
        done = container.run(["sh", "-c", "cat; echo no >&2; exit 3"], content=b"in")
        assert (done.exit, done.output, done.errors) == (3, b"in", b"no\n")
        with pytest.raises(P2prcError, match="status 3: no"):
            done.check()
        # More than lies in the pipes between: it must be read while it is given.
        much = bytes(8 << 20)
        assert container.run(["cat"], content=much).check().output == much
        # A command may end before it has read what it was given.
        assert container.run(["true"], content=much).exit == 0
        (tmp_path / "given").write_text("x")
        container.put(tmp_path / "given")
        container.get("given", tmp_path / "back")
        assert (tmp_path / "back").read_text() == "x"
    assert container.id not in [one.id for one in client.containers() if one.row.state == "active"]
    job = client.map(
        ["sh", "-c", "echo {i} > {i}.txt"],
        over={"i": range(1, 5)},
        outputs=["{i}.txt"],
        to=tmp_path / "film",
    )
    assert job.wait(60).state == "succeeded"
    assert job.results(tmp_path / "results").files == 4
    assert (tmp_path / "results" / "3.txt").read_text() == "3\n"
    with pytest.raises(JobInvalid):
        client.map(["true"], over={"i": ["a,b"]})
    with pytest.raises(JobInvalid):
        client.map(["true"], over={"i": "1-2"}, colour="red")


def test_the_first_example_of_the_guide(three_nodes: list[NodeUnderTest]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "python.md").read_text()
    program = guide.partition("```python\n")[2].partition("```")[0]
    ran = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "P2PRC_HOME": str(three_nodes[0].home)},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ran.stdout == "1229\n"


async def test_the_same_with_an_event_loop(three_nodes: list[NodeUnderTest]) -> None:
    client = AsyncClient(three_nodes[0].home)
    async with await client.create(cpus=1) as container:
        found = await asyncio.gather(
            *(container.run(["sh", "-c", f"echo {number}"]) for number in range(4))
        )
    assert [one.output for one in found] == [b"%d\n" % number for number in range(4)]
    job = await client.map(["sleep", "60"], over={"i": "1-2"})
    with pytest.raises(TimedOut):
        await job.wait(0.1)
    await job.cancel()
    assert (await job.wait(30)).state == "cancelled"
