"""Objects of the bindings are freed by the event loop alone, wherever they became garbage."""

from __future__ import annotations

import asyncio
import gc
import threading

import iroh
import pytest
from iroh import iroh_ffi

from p2prc.transport.iroh_release import free_later, free_on


async def test_what_becomes_garbage_elsewhere_is_freed_by_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    free_on(asyncio.get_running_loop())
    freed: list[int] = []
    all_freed = asyncio.Event()
    true_call = iroh_ffi._uniffi_rust_call

    def noted(function: object, *arguments: object) -> object:
        if "free_relaymap" in getattr(function, "__name__", ""):
            freed.append(threading.get_ident())
            if len(freed) == 3:
                all_freed.set()
        return true_call(function, *arguments)  # type: ignore[no-untyped-call]

    made = [iroh.RelayMap.empty() for _ in range(3)]
    monkeypatch.setattr(iroh_ffi, "_uniffi_rust_call", noted)
    # A cycle, which only the collector finds; here it is found on another thread.
    made.append(made)  # type: ignore[arg-type]
    del made
    await asyncio.to_thread(gc.collect)
    async with asyncio.timeout(10):
        await all_freed.wait()
    assert freed == [threading.get_ident()] * 3


async def test_many_threads_let_go_at_once() -> None:
    free_on(asyncio.get_running_loop())
    freed: list[int] = []

    def let_go() -> None:
        for _ in range(500):
            free_later(freed.append, 1)

    threads = [threading.Thread(target=let_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    async with asyncio.timeout(10):
        while len(freed) < 4000:
            await asyncio.sleep(0)
    for thread in threads:
        thread.join()


def test_without_a_loop_it_is_freed_at_once() -> None:
    freed: list[int] = []

    async def begin() -> None:
        free_on(asyncio.get_running_loop())

    asyncio.run(begin())
    free_later(freed.append, 7)
    assert freed == [7]
