"""What every runtime promises: the fake, the sandbox (shared and isolated), bare, containers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from p2prc.errors import JobInvalid, LeaseEnded, PeerBusy, RuntimeMissing
from tests.contract.runtime_bench import (
    CONTAINED,
    PATIENCE_S,
    REAL,
    Bench,
    finish,
    open_bench,
    run,
)


@pytest.fixture(params=("fake", *REAL, CONTAINED))
async def bench(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    async with open_bench(request.param, tmp_path) as opened:
        yield opened


async def test_a_command_that_succeeds_ends_with_zero_and_no_code(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, out, err = await run(sandbox, ["true"])
    assert (result.status, result.code, out, err) == (0, "", b"", b"")


async def test_the_exit_status_is_the_commands_own(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    for status in (1, 3, 126, 127, 255):
        result, _, _ = await run(sandbox, ["sh", "-c", f"exit {status}"])
        assert (result.status, result.code) == (status, "")


async def test_output_and_errors_come_apart(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    assert (await run(sandbox, ["echo", "one", "two"]))[1:] == (b"one two\n", b"")
    assert (await run(sandbox, ["sh", "-c", "echo three >&2"]))[1:] == (b"", b"three\n")


async def test_arguments_arrive_as_they_are(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    words = ["", " ", "ä \n*", "--args", "$HOME", "'\"\\", "=x"]
    assert (await run(sandbox, ["echo", *words]))[1] == " ".join(words).encode() + b"\n"


async def test_a_long_command_line_arrives_whole(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    words = ["x" * 100_000, "y" * 100_000]
    assert (await run(sandbox, ["echo", *words]))[1] == " ".join(words).encode() + b"\n"


async def test_variables_reach_the_command_and_only_that_one(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    assert (await run(sandbox, ["printenv", "COLOUR"], COLOUR="deep blue"))[1] == b"deep blue\n"
    assert (await run(sandbox, ["printenv", "COLOUR"]))[0].status == 1


async def test_a_command_runs_in_the_working_folder(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    assert (await run(sandbox, ["pwd"]))[1].decode().strip() == sandbox.work_path
    await run(sandbox, ["touch", "made"])
    assert (sandbox.spec.folder / "work" / "made").is_file()


async def test_inputs_are_found_where_the_sandbox_says(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    (sandbox.spec.folder / "inputs" / "scene.txt").write_text("a scene")
    assert (await run(sandbox, ["cat", f"{sandbox.inputs_path}/scene.txt"]))[1] == b"a scene"


async def test_a_missing_command_is_named(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, _, _ = await run(sandbox, ["no-such-program", "x"])
    assert (result.status, result.code) == (None, "command-not-found")
    assert "no-such-program" in result.reason
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_large_output_arrives_whole(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, out, _ = await run(sandbox, ["head", "-c", "20000000", "/dev/zero"])
    assert result.status == 0
    assert len(out) == 20_000_000


async def test_unread_output_holds_the_command_back(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["head", "-c", "5000000", "/dev/zero"], variables={})
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await execution.wait()
    _, out, _ = await finish(execution)
    assert len(out) == 5_000_000


async def test_cancel_ends_a_command_and_may_be_called_twice(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["sleep", "1000"], variables={})
    await execution.cancel()
    await execution.cancel()
    async with asyncio.timeout(PATIENCE_S):
        result, _, _ = await finish(execution)
    assert (result.status, result.code) == (None, "lease-ended")
    await execution.cancel()
    assert (await run(sandbox, ["echo", "still here"]))[1] == b"still here\n"


async def test_a_command_longer_than_its_time_is_ended(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    result, _, _ = await run(sandbox, ["sleep", "1000"], timeout_s=0.2)
    assert (result.status, result.code) == (None, "timed-out")
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_one_command_at_a_time(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["sleep", "1000"], variables={})
    with pytest.raises(PeerBusy):
        await sandbox.execute(["true"], variables={})
    await execution.cancel()
    await execution.wait()


async def test_an_argument_with_a_nul_is_refused(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    with pytest.raises(JobInvalid):
        await sandbox.execute(["echo", "a\0b"], variables={})
    assert (await run(sandbox, ["true"]))[0].status == 0


async def test_reset_empties_the_working_folder(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    await run(sandbox, ["touch", "a", "b"])
    await sandbox.reset()
    assert list((sandbox.spec.folder / "work").iterdir()) == []
    assert (await run(sandbox, ["touch", "c"]))[0].status == 0


async def test_end_deletes_the_folder_and_tells_everyone(bench: Bench) -> None:
    sandbox = await bench.sandbox()
    execution = await sandbox.execute(["sleep", "1000"], variables={})
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.end()
        await sandbox.end()
        assert (await execution.wait()).code == "lease-ended"
        assert (await sandbox.wait_ended()).code == "lease-ended"
    assert not sandbox.spec.folder.exists()
    with pytest.raises(LeaseEnded):
        await sandbox.execute(["true"], variables={})


async def test_a_lease_ends_with_its_lifetime(bench: Bench) -> None:
    # An engine needs a while to start a command: it must not be longer than the lease.
    sandbox = await bench.sandbox(lifetime_s=3.0 if bench.variant == CONTAINED else 0.3)
    execution = await sandbox.execute(["sleep", "1000"], variables={})
    async with asyncio.timeout(PATIENCE_S):
        ended = await sandbox.wait_ended()
        result = await execution.wait()
    assert ended.code == "limit-exceeded"
    assert "lifetime" in ended.reason
    assert result.code == "limit-exceeded"
    assert not sandbox.spec.folder.exists()


async def test_closing_the_runtime_ends_what_is_left(bench: Bench) -> None:
    first, second = await bench.sandbox(), await bench.sandbox()
    await first.execute(["sleep", "1000"], variables={})
    await bench.runtime.close()
    assert not first.spec.folder.exists()
    assert not second.spec.folder.exists()


async def test_two_sandboxes_do_not_share_a_folder(bench: Bench) -> None:
    first, second = await bench.sandbox(), await bench.sandbox()
    await run(first, ["touch", "mine"])
    assert (await run(second, ["cat", "mine"]))[0].status == 1


async def test_a_tier_that_is_not_there_is_refused(bench: Bench) -> None:
    with pytest.raises(RuntimeMissing):
        await bench.runtime.create(replace(bench.spec(), tier="no-such-tier"))


async def test_probing_tells_what_works(bench: Bench) -> None:
    offers = await bench.runtime.probe()
    is_contained = bench.variant == CONTAINED
    assert {offer.name for offer in offers} == {"docker" if is_contained else "process"}
    assert {offer.limits for offer in offers} == {"hard" if is_contained else "polled"}
    assert bench.tier in {offer.tier for offer in offers}
    assert offers == await bench.runtime.probe()
