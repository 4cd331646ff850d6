"""What is on disk of a main process's output when its node dies."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from p2prc.node.log_file import PAUSE_S, LogFile, remove_all_but
from p2prc.runtime.port import OutputChunk

CHUNKS = st.lists(
    st.builds(OutputChunk, st.sampled_from([1, 2]), st.binary(min_size=1, max_size=40)), max_size=40
)


def printed(chunks: list[OutputChunk]) -> bytes:
    return b"".join(chunk.content for chunk in chunks)


async def test_what_comes_first_is_there_at_once_and_a_flood_soon(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "logs" / "lease")
    log.add(OutputChunk(2, b"began\n"))
    assert LogFile(tmp_path / "logs" / "lease").load() == [OutputChunk(2, b"began\n")]
    for number in range(100):
        log.add(OutputChunk(1, b"%d\n" % number))
    async with asyncio.timeout(5):
        while len(log.load()) < 101:
            await asyncio.sleep(PAUSE_S / 5)
    assert printed(log.load()).endswith(b"98\n99\n")


@given(chunks=CHUNKS, cut=st.integers(0, 30))
async def test_the_end_is_kept_in_order_within_a_bound_even_when_cut_short(
    tmp_path_factory: object, chunks: list[OutputChunk], cut: int
) -> None:
    folder = Path(str(tmp_path_factory.mktemp("logs")))  # type: ignore[attr-defined]
    log = LogFile(folder / "lease", turn_bytes=200)
    for chunk in chunks:
        log.add(chunk)
        log.write()
    kept = printed(log.load())
    assert printed(chunks).endswith(kept)
    assert len(kept) >= min(200, len(printed(chunks)))
    assert sum(path.stat().st_size for path in folder.iterdir()) < 2 * (200 + 41 + 5 * 200)
    newer = folder / "lease"
    if newer.exists():
        newer.write_bytes(newer.read_bytes()[: max(0, newer.stat().st_size - cut)])
    assert printed(chunks).startswith(printed(log.load())) or len(kept) < len(printed(chunks))
    log.remove()
    assert list(folder.iterdir()) == []
    log.add(OutputChunk(1, b"too late"))
    assert list(folder.iterdir()) == []


def test_logs_of_leases_that_are_over_go(tmp_path: Path) -> None:
    for name in ("one", "one.older", "two", "two.older"):
        (tmp_path / name).touch()
    remove_all_but(tmp_path, {tmp_path / "one"})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "one.older"]
    remove_all_but(tmp_path / "missing", set())
